from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.export.passes import turn_batch_norm_into_threshold as module
from edgekit.export.passes.batch_norm_forms import Thresholds, thresholds
from edgekit.export.passes.turn_batch_norm_into_threshold import TurnBatchNormIntoThreshold
from edgekit.export.verify import TOLERANCES, largest_difference, random_inputs, run_outputs

BN = "n = BatchNormalization(x, scale, shift, mean, var)"
NORM = f"{BN} r = Relu(n)"


def floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def stats(signs: str = "+-+-", **changed: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Statistics whose factor is above, below or at zero: + - 0, a character a channel."""
    rng = np.random.default_rng(9)
    factors = np.array([{"+": 1, "-": -1, "0": 0}[sign] for sign in signs], np.float32)
    plain = {
        "scale": factors * rng.uniform(0.5, 2, len(signs)).astype(np.float32),
        "shift": floats(len(signs), seed=3),
        "mean": floats(len(signs), seed=4),
        "var": rng.uniform(0.1, 2, len(signs)).astype(np.float32),
    }
    return {**plain, **changed}


def network(text_graph, body: str, made: str, signs: str = "+-+-", **constants: Any) -> ir.Model:
    return text_graph(
        f"g (float[N,{len(signs)},8,8] x) => (float[N,{made}] y) {{ {body} }}",
        **{**stats(signs), **constants},
    )


def inferred(model: ir.Model) -> ir.Model:
    """With the shapes of all values noted, as exporters and fold-constants do it."""
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))


def forced() -> TurnBatchNormIntoThreshold:
    return TurnBatchNormIntoThreshold("threshold")


def constants_of(model: ir.Model, op_type: str) -> list[NDArray[Any]]:
    found = []
    for node in model.graph:
        if node.op_type == op_type and len(node.inputs) > 1:
            value = node.inputs[1]
            assert value is not None
            assert value.const_value is not None
            found.append(value.const_value.numpy())
    return found


@pytest.mark.parametrize(
    ("signs", "left"),
    [
        ("++++", ["Max", "Conv"]),
        ("----", ["Min", "Conv"]),
        ("+-+-", ["Max", "Min", "Conv"]),
        ("+0+0", ["Max", "Conv"]),
        ("-0+0", ["Max", "Min", "Conv"]),
    ],
)
def test_the_signs_of_the_scales_decide_between_max_and_min(
    text_graph, run_pass, signs: str, left: list[str]
) -> None:
    model = network(text_graph, f"{NORM} y = Conv(r, w, b)", "6,8,8", signs,
                    w=floats(6, 4, 1, 1), b=floats(6, seed=1))  # fmt: skip
    turn = forced()
    assert run_pass(turn, model) == left
    assert (turn.changes, turn.refusals) == (1, [])


def test_what_was_done_is_told(text_graph) -> None:
    model = network(text_graph, f"{NORM} y = Conv(r, w)", "6,8,8", w=floats(6, 4, 1, 1))
    turn = forced()
    turn(model)
    assert [change.what for change in turn.done] == [
        "BatchNormalization and Relu became Max and Min"
    ]


def test_unlimited_channels_hold_finite_thresholds(text_graph, run_pass) -> None:
    model = network(text_graph, f"{NORM} y = Conv(r, w)", "6,8,8", "+-0+", w=floats(6, 4, 1, 1))
    run_pass(forced(), model)
    (low,), (high,) = constants_of(model, "Max"), constants_of(model, "Min")
    assert low.shape == high.shape == (4, 1, 1)
    widest = np.finfo(np.float32)
    assert (low.reshape(-1) == widest.min).tolist() == [False, True, True, False]
    assert (high.reshape(-1) == widest.max).tolist() == [True, False, True, True]


TAKERS: dict[str, tuple[str, str, dict[str, NDArray[Any]]]] = {
    "a 1x1 convolution without bias": ("y = Conv(r, w)", "6,8,8", {"w": floats(6, 4, 1, 1)}),
    "an unpadded 3x3 convolution": ("y = Conv(r, w)", "6,6,6", {"w": floats(6, 4, 3, 3)}),
    "groups and strides": (
        "y = Conv<group = 2, strides = [2, 2]>(r, w, b)", "6,3,3",
        {"w": floats(6, 2, 3, 3), "b": floats(6, seed=1)},
    ),
    "a depthwise convolution": ("y = Conv<group = 4>(r, w)", "4,6,6", {"w": floats(4, 1, 3, 3)}),
    "a global pool, Flatten and Gemm": (
        "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB = 1>(f, w, b)", "5",
        {"w": floats(5, 4), "b": floats(5, seed=1)},
    ),
    "a Gemm with alpha and beta": (
        "p = GlobalAveragePool(r) f = Flatten(p)"
        "y = Gemm<alpha = 0.5, beta = 2.0>(f, w, b)", "5",
        {"w": floats(4, 5), "b": floats(1, 5, seed=1)},
    ),
    "a Gemm on every position": (
        "f = Flatten(r) y = Gemm(f, w)", "5", {"w": floats(256, 5)},
    ),
    "a Reshape": (
        "p = GlobalAveragePool(r) f = Reshape(p, s) y = Gemm(f, w)", "5",
        {"w": floats(4, 5), "s": np.array([0, -1], np.int64)},
    ),
    "a mean and a Squeeze": (
        "p = ReduceMean(r, s) f = Squeeze(p, s) y = Gemm(f, w)", "5",
        {"w": floats(4, 5), "s": np.array([2, 3], np.int64)},
    ),
    "an average pool, Identity and Dropout": (
        "p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(r)"
        "i = Identity(p) d = Dropout(i) y = Conv(d, w)", "6,4,4",
        {"w": floats(6, 4, 1, 1)},
    ),
    "a padded average pool that does not count": (
        "p = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r) y = Conv(p, w)", "6,8,8",
        {"w": floats(6, 4, 1, 1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("taker", TAKERS)
def test_what_is_linear_and_unpadded_takes_scale_and_shift(
    text_graph, run_pass, taker: str
) -> None:
    body, made, constants = TAKERS[taker]
    model = network(text_graph, f"{NORM} {body}", made, **constants)
    left = run_pass(forced(), model)
    assert left[:2] == ["Max", "Min"]
    assert not {"BatchNormalization", "Relu", "Add"} & set(left)


def test_a_max_pool_passes_positive_scales(text_graph, run_pass) -> None:
    body = (
        f"{NORM} p = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(r)"
        "q = GlobalMaxPool(p) y = Conv(q, w)"
    )
    model = network(text_graph, body, "6,1,1", "++0+", w=floats(6, 4, 1, 1))
    assert run_pass(forced(), model) == ["Max", "MaxPool", "GlobalMaxPool", "Conv"]


PAD = "pads = [1, 1, 1, 1]"


@pytest.mark.parametrize(
    ("signs", "changed", "left"),
    [
        ("++++", {}, ["Add", "Relu", "Conv"]),
        ("+0++", {"shift": np.float32([1, -1, 1, 1])}, ["Add", "Relu", "Conv"]),
        ("+0++", {"shift": np.float32([1, 1, 1, 1])}, ["Conv", "Relu", "Conv"]),
        ("+-+-", {}, ["Conv", "Relu", "Conv"]),
        ("++++", {"shift": np.zeros(4, np.float32), "mean": np.zeros(4, np.float32)},
         ["Relu", "Conv"]),
    ],
)  # fmt: skip
def test_before_padding_the_scale_moves_and_the_shift_stays(
    text_graph, run_pass, signs: str, changed: dict[str, NDArray[Any]], left: list[str]
) -> None:
    model = network(text_graph, f"{NORM} y = Conv<{PAD}>(r, w)", "6,8,8", signs,
                    w=floats(6, 4, 3, 3), **changed)  # fmt: skip
    assert run_pass(forced(), model) == left


def test_a_padded_average_pool_that_counts_takes_the_scale_alone(text_graph, run_pass) -> None:
    pool = f"AveragePool<kernel_shape = [3, 3], {PAD}, count_include_pad = 1>"
    model = network(text_graph, f"{NORM} p = {pool}(r) y = Conv(p, w)", "6,8,8", "++++",
                    w=floats(6, 4, 1, 1))  # fmt: skip
    assert run_pass(forced(), model) == ["Add", "Relu", "AveragePool", "Conv"]


@pytest.mark.parametrize(
    ("reader", "made", "weight"),
    [
        ("ConvTranspose(r, w)", "6,10,10", floats(4, 6, 3, 3)),
        (f"ConvTranspose<group = 2, strides = [2, 2], {PAD}>(r, w)", "4,15,15", floats(4, 2, 3, 3)),
    ],
)
def test_a_transposed_convolution_takes_the_scale_alone(
    text_graph, run_pass, reader: str, made: str, weight: NDArray[Any]
) -> None:
    model = network(text_graph, f"{NORM} y = {reader}", made, "++++", w=weight)
    assert run_pass(forced(), model) == ["Add", "Relu", "ConvTranspose"]


def test_a_product_of_matrices_takes_the_scale_alone(text_graph, run_pass) -> None:
    model = text_graph(
        f"g (float[N,4] x) => (float[N,5] y) {{ {NORM} y = MatMul(r, w) }}",
        w=floats(4, 5), **stats("+-+-"),
    )  # fmt: skip
    assert run_pass(forced(), inferred(model)) == ["Max", "Min", "Add", "MatMul"]


def test_a_reshape_to_known_features_takes_scale_and_shift(text_graph, run_pass) -> None:
    body = f"{NORM} p = GlobalAveragePool(r) f = Reshape(p, s) y = Gemm(f, w)"
    model = network(text_graph, body, "5", w=floats(4, 5), s=np.array([-1, 4], np.int64))
    left = run_pass(forced(), inferred(model))
    assert left == ["Max", "Min", "GlobalAveragePool", "Reshape", "Gemm"]


def test_several_readers_take_scale_and_shift(text_graph, run_pass) -> None:
    body = (
        f"{NORM} c = Conv(r, w) d = Conv<strides = [1, 1]>(r, v)"
        "p = GlobalAveragePool(r) e = Conv(p, u) a = Add(c, d) y = Add(a, e)"
    )
    model = network(text_graph, body, "6,8,8", w=floats(6, 4, 1, 1), v=floats(6, 4, 1, 1, seed=1),
                    u=floats(6, 4, 1, 1, seed=2))  # fmt: skip
    left = run_pass(forced(), model)
    assert left[:2] == ["Max", "Min"]
    assert "Relu" not in left


def test_one_padded_reader_of_several_keeps_the_shift_for_all(text_graph, run_pass) -> None:
    body = f"{NORM} c = Conv<{PAD}>(r, w) d = Conv(r, v) y = Add(c, d)"
    model = network(text_graph, body, "6,8,8", "++++", w=floats(6, 4, 3, 3),
                    v=floats(6, 4, 1, 1, seed=1))  # fmt: skip
    assert run_pass(forced(), model) == ["Add", "Relu", "Conv", "Conv", "Add"]


def test_other_readers_of_what_is_normalized_are_no_obstacle(text_graph, run_pass) -> None:
    model = text_graph(
        f"g (float[N,4,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] z)"
        f"{{ {NORM} c = Conv(r, w) y = Add(x, c) z = Neg(x) }}",
        w=floats(4, 4, 1, 1), **stats(),
    )  # fmt: skip
    assert run_pass(forced(), model) == ["Max", "Min", "Conv", "Add", "Neg"]


def test_a_constant_channel_leaves_no_weight(text_graph, run_pass) -> None:
    model = network(text_graph, f"{NORM} y = Conv(r, w)", "6,8,8", "+0+0",
                    w=floats(6, 4, 1, 1), shift=np.float32([1, 2, 1, -2]))  # fmt: skip
    run_pass(forced(), model)
    (weight,) = constants_of(model, "Conv")
    assert (weight == 0).all(axis=(0, 2, 3)).tolist() == [False, True, False, True]


@pytest.mark.parametrize("clip", ["Clip(n, lo, hi)", "Clip(n, lo)", "Clip(n, , hi)"])
@pytest.mark.parametrize("signs", ["++++", "+-+-", "+0-0"])
def test_a_clip_has_thresholds_on_its_sides(text_graph, run_pass, clip: str, signs: str) -> None:
    body = f"{BN} r = {clip} y = Conv(r, w)"
    limits = {name: np.float32(value) for name, value in (("lo", -0.2), ("hi", 0.8))}
    used = {name: value for name, value in limits.items() if name in clip}
    model = network(text_graph, body, "6,8,8", signs, w=floats(6, 4, 1, 1), **used)
    left = run_pass(forced(), model)
    assert set(left) <= {"Max", "Min", "Conv"}


def test_a_relu6_of_an_old_opset_has_thresholds_too(text_graph, run_pass) -> None:
    body = f"{BN} r = Clip<min = 0.0, max = 6.0>(n) y = Conv(r, w)"
    model = text_graph(
        f"g (float[N,4,8,8] x) => (float[N,6,8,8] y) {{ {body} }}",
        opset=10, ir_version=5, w=floats(6, 4, 1, 1), **stats(scale=floats(4) * 5),
    )  # fmt: skip
    assert run_pass(forced(), model) == ["Max", "Min", "Conv"]


def test_a_clip_before_padding_stays_behind_a_convolution(text_graph, run_pass) -> None:
    body = f"{BN} r = Clip(n, lo, hi) y = Conv<{PAD}>(r, w)"
    model = network(text_graph, body, "6,8,8", "++++", w=floats(6, 4, 3, 3), lo=np.float32(0),
                    hi=np.float32(6))  # fmt: skip
    assert run_pass(forced(), model) == ["Conv", "Clip", "Conv"]


def test_without_an_activation_nothing_is_left(text_graph, run_pass) -> None:
    body = f"{BN} c = Conv(n, w) p = GlobalAveragePool(n) d = Conv(p, v) y = Add(c, d)"
    model = network(text_graph, body, "6,8,8", w=floats(6, 4, 1, 1), v=floats(6, 4, 1, 1, seed=1))
    turn = TurnBatchNormIntoThreshold()
    assert run_pass(turn, model) == ["Conv", "GlobalAveragePool", "Conv", "Add"]


def test_without_an_activation_one_add_is_left_before_padding(text_graph, run_pass) -> None:
    model = network(text_graph, f"{BN} y = Conv<{PAD}>(n, w)", "6,8,8", w=floats(6, 4, 3, 3))
    assert run_pass(forced(), model) == ["Add", "Conv"]


@pytest.mark.parametrize("shape", ["4", "4,8", "4,8,8", "4,3,3,3"])
def test_thresholds_fit_any_rank(text_graph, run_pass, shape: str) -> None:
    kernel = (1,) * shape.count(",")
    weight, reader = (floats(6, 4, *kernel), "Conv(r, w)") if kernel else (
        floats(4, 6), "Gemm(r, w)")  # fmt: skip
    made = shape.replace("4", "6", 1)
    model = text_graph(
        f"g (float[N,{shape}] x) => (float[N,{made}] y) {{ {NORM} y = {reader} }}",
        w=weight, **stats(),
    )  # fmt: skip
    assert run_pass(forced(), model)[:2] == ["Max", "Min"]
    assert constants_of(model, "Max")[0].shape == (4, *kernel)


def test_double_precision_stays_double(text_graph, run_pass) -> None:
    arrays = {name: array.astype(np.float64) for name, array in stats().items()}
    model = text_graph(
        f"g (double[N,4] x) => (double[N,6] y) {{ {NORM} y = Gemm(r, w) }}",
        w=floats(4, 6).astype(np.float64), **arrays,
    )  # fmt: skip
    assert run_pass(forced(), model, tolerance=1e-12) == ["Max", "Min", "Gemm"]
    assert constants_of(model, "Max")[0].dtype == np.float64


def test_thresholds_beyond_the_type_are_none_or_make_a_constant(text_graph, run_pass) -> None:
    model = network(text_graph, f"{NORM} y = Conv(r, w)", "6,8,8", "++++", w=floats(6, 4, 1, 1),
                    scale=np.float32([1e-38, -1e-38, 1e-38, -1e-38]),
                    shift=np.float32([5, 5, -5, -5]), mean=np.zeros(4, np.float32))  # fmt: skip
    run_pass(forced(), model)
    assert all(np.isfinite(array).all() for array in constants_of(model, "Conv"))


REFUSED: dict[str, tuple[str, str, dict[str, NDArray[Any]]]] = {
    "together with Conv": (f"{NORM} c = Conv(n, w) d = Conv(r, v) y = Add(c, d)", "4,8,8", {}),
    "together with Relu": (f"{NORM} s = Relu(n) y = Add(r, s)", "4,8,8", {}),
    "training mode": (
        NORM.replace("n =", "n, m, v =").replace("tion(", "tion<training_mode = 1>(")
        + " y = Conv(r, w)", "4,8,8", {},
    ),
    "are not stored": (f"{BN} k = Neg(lo) r = Clip(n, k) y = Conv(r, w)", "4,8,8", {}),
    "are in no order": (f"{BN} r = Clip(n, hi, lo) y = Conv(r, w)", "4,8,8", {}),
    "beside quantizers": (
        f"{BN} q = QuantizeLinear(n, hi, zero) d = DequantizeLinear(q, hi, zero) y = Conv(d, w)",
        "4,8,8", {"zero": np.uint8(3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_no_site_is_refused_with_its_reason(text_graph, reason: str) -> None:
    body, made, constants = REFUSED[reason]
    given = {"w": floats(4, 4, 1, 1), "v": floats(4, 4, 1, 1, seed=1), "lo": np.float32(-1),
             "hi": np.float32(1), **constants}  # fmt: skip
    given = {
        name: array for name, array in given.items() if f"{name})" in body or f"{name}," in body
    }
    assert_refused(network(text_graph, body, made, **given), reason)


def assert_refused(model: ir.Model, reason: str) -> None:
    before = ir.to_proto(model)
    turn = forced()
    assert not turn(model).modified
    assert [reason in refusal.reason for refusal in turn.refusals] == [True]
    assert ir.to_proto(model) == before


def test_a_normalized_value_that_is_a_graph_output_is_refused(text_graph) -> None:
    model = text_graph(
        f"g (float[N,4,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] n)"
        f"{{ {NORM} y = Conv(r, w) }}",
        w=floats(4, 4, 1, 1), **stats(),
    )  # fmt: skip
    assert_refused(model, "its result is a graph output")


def test_half_precision_is_refused(text_graph) -> None:
    arrays = {name: array.astype(np.float16) for name, array in stats().items()}
    model = text_graph(
        f"g (float16[N,4,8,8] x) => (float16[N,4,8,8] y) {{ {NORM} y = Conv(r, w) }}",
        w=floats(4, 4, 1, 1).astype(np.float16), **arrays,
    )  # fmt: skip
    assert_refused(model, "FLOAT16")


def test_a_statistic_that_a_caller_may_replace_is_refused(text_graph) -> None:
    model = text_graph(
        f"g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{ {NORM} y = Conv(r, w) }}",
        also_inputs=("mean",), w=floats(4, 4, 1, 1), **stats(),
    )  # fmt: skip
    assert_refused(model, "mean is a graph input")


UNMOVED: dict[str, tuple[str, str]] = {
    "Sigmoid reads it": (f"{NORM} c = Sigmoid(r) y = Conv(c, w)", "4,8,8"),
    "is shared with 1 other": (f"{NORM} c = Conv(r, w) d = Conv(x, w) y = Add(c, d)", "4,8,8"),
    "is computed by Neg": (f"{NORM} v = Neg(w) y = Conv(r, v)", "4,8,8"),
    "takes no negative scale": (
        f"{NORM} p = MaxPool<kernel_shape = [2, 2]>(r) y = Conv(p, w)", "4,7,7",
    ),
    "is dilated": (
        f"{NORM.replace('scale', 'var')}"
        "p = MaxPool<kernel_shape = [2, 2], dilations = [2, 2]>(r) y = Conv(p, w)", "4,6,6",
    ),
    "is a graph output": (f"{BN} y = Relu(n)", "4,8,8"),
}  # fmt: skip


@pytest.mark.parametrize("reason", UNMOVED)
def test_where_the_scale_cannot_move_a_depthwise_convolution_is_left(
    text_graph, run_pass, reason: str
) -> None:
    body, made = UNMOVED[reason]
    given = {"w": floats(4, 4, 1, 1)} if "w)" in body else {}
    model = network(text_graph, body, made, **given)
    turn = forced()
    turn(network(text_graph, body, made, **given))
    assert [reason in change.what for change in turn.done] == [True]
    left = run_pass(forced(), model)
    assert left[0] == "Conv"
    assert "BatchNormalization" not in left


def test_keep_keeps_everything(text_graph) -> None:
    model = network(text_graph, f"{NORM} y = Conv(r, w)", "6,8,8", w=floats(6, 4, 1, 1))
    before = ir.to_proto(model)
    keep = TurnBatchNormIntoThreshold("keep")
    assert not keep(model).modified
    assert [refusal.reason for refusal in keep.refusals] == ["kept, as asked for"]
    assert ir.to_proto(model) == before


def concat_graph(text_graph, width: int, signs: str, reader: str = "Conv(r, u)") -> ir.Model:
    """Two convolutions of `width` channels, Concat, the normalization and a convolution."""
    return text_graph(
        f"g (float[N,3,8,8] i) => (float[N,6,8,8] y) {{ p = Conv(i, v) q = Conv(i, w)"
        f" x = Concat<axis = 1>(p, q) {NORM} y = {reader} }}",
        v=floats(width, 3, 1, 1), w=floats(width, 3, 1, 1, seed=1),
        u=floats(6, 2 * width, *((3, 3) if "pads" in reader else (1, 1)), seed=2),
        **stats(signs * (2 * width // len(signs))),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("width", "signs", "left"),
    [
        (12, "++", ["Max"]),
        (12, "+-", ["BatchNormalization", "Relu"]),
        (16, "++", ["BatchNormalization", "Relu"]),
        (16, "+-", ["BatchNormalization", "Relu"]),
    ],
)
def test_auto_leaves_the_blocked_layout_alone_and_takes_one_node_for_two(
    text_graph, run_pass, width: int, signs: str, left: list[str]
) -> None:
    model = inferred(concat_graph(text_graph, width, signs))
    turn = TurnBatchNormIntoThreshold()
    assert run_pass(turn, model) == ["Conv", "Conv", "Concat", *left, "Conv"]
    assert len(turn.refusals) == len(left) - 1
    assert all("ps an element" in refusal.reason for refusal in turn.refusals)


def test_auto_takes_add_for_batch_norm_outside_the_blocked_layout(text_graph, run_pass) -> None:
    model = inferred(concat_graph(text_graph, 12, "++", f"Conv<{PAD}>(r, u)"))
    left = run_pass(TurnBatchNormIntoThreshold(), model)
    assert left == ["Conv", "Conv", "Concat", "Add", "Relu", "Conv"]


def test_the_comparison_catches_an_ignored_sign(
    text_graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ignore(factor: Any, shift: Any, limits: Any, dtype: ir.DataType) -> Thresholds:
        return thresholds(np.abs(factor), shift, limits, dtype)

    monkeypatch.setattr(module, "thresholds", ignore)
    assert wrong_error(text_graph) > 100 * TOLERANCES[ir.DataType.FLOAT]


def test_the_comparison_catches_a_shift_that_is_not_moved(
    text_graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = module.plan_move
    monkeypatch.setattr(module, "plan_move", lambda m, v, a, c: plan(m, v, a, np.zeros_like(c)))
    assert wrong_error(text_graph) > 100 * TOLERANCES[ir.DataType.FLOAT]


def wrong_error(text_graph) -> float:
    model = network(text_graph, f"{NORM} y = Conv(r, w)", "6,8,8", w=floats(6, 4, 1, 1))
    inputs = random_inputs(model)
    before = run_outputs(model, inputs)
    assert forced()(model).modified
    return largest_difference(before, run_outputs(model, inputs))


def test_a_threshold_cuts_off_to_zero_exactly() -> None:
    rng = np.random.default_rng(0)
    factor, shift = rng.standard_normal((2, 1000)) * 10
    found = thresholds(factor, shift, (0.0, np.inf), ir.DataType.FLOAT)
    edge = np.where(factor > 0, found.low, found.high)
    assert (edge == edge.astype(np.float32)).all()
    assert (found.factor * edge + found.shift == 0).all()
