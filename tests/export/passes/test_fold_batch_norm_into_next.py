from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.export.passes.fold_batch_norm_into_next import FoldBatchNormIntoNext
from edgekit.export.verify import TOLERANCES, largest_difference, random_inputs, run_outputs

BN = "n = BatchNormalization(x, scale, shift, mean, var)"


def floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def stats(channels: int = 4, **changed: NDArray[Any]) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(9)
    plain = {
        "scale": rng.uniform(-2, 2, channels).astype(np.float32),
        "shift": floats(channels, seed=3),
        "mean": floats(channels, seed=4),
        "var": rng.uniform(0.1, 2, channels).astype(np.float32),
    }
    return {**plain, **changed}


ZERO_SHIFT = {"shift": np.zeros(4, np.float32), "mean": np.zeros(4, np.float32)}


def conv_graph(text_graph, conv: str, made: str, **constants: NDArray[Any]) -> ir.Model:
    return text_graph(
        f"g (float[N,4,8,8] x) => (float[N,{made}] y) {{ {BN} y = {conv} }}",
        **{"w": floats(6, 4, 3, 3), "b": floats(6, seed=1), **stats(), **constants},
    )


@pytest.mark.parametrize(
    ("conv", "weight", "made"),
    [
        ("Conv(n, w)", (6, 4, 1, 1), "6,8,8"),
        ("Conv(n, w, b)", (6, 4, 3, 3), "6,6,6"),
        ("Conv<group = 2, strides = [2, 1], dilations = [1, 2]>(n, w, b)", (6, 2, 3, 3), "6,3,4"),
        ("Conv<pads = [0, 0, 0, 0]>(n, w, b)", (6, 4, 3, 3), "6,6,6"),
        ('Conv<auto_pad = "VALID">(n, w, b)', (6, 4, 3, 3), "6,6,6"),
        ('Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(n, w, b)', (6, 4, 1, 1), "6,4,4"),
    ],
)
def test_a_batch_norm_folds_into_an_unpadded_convolution(
    text_graph, run_pass, conv: str, weight: tuple[int, ...], made: str
) -> None:
    model = conv_graph(text_graph, conv, made, w=floats(*weight))
    fold = FoldBatchNormIntoNext()
    assert run_pass(fold, model) == ["Conv"]
    assert (fold.changes, fold.refusals) == (1, [])


def test_a_batch_norm_without_shift_folds_into_a_padded_convolution(text_graph, run_pass) -> None:
    model = conv_graph(text_graph, "Conv<pads = [1, 1, 1, 1]>(n, w, b)", "6,8,8", **ZERO_SHIFT)
    assert run_pass(FoldBatchNormIntoNext(), model) == ["Conv"]


def test_a_shift_that_no_weight_reads_is_no_obstacle(text_graph, run_pass) -> None:
    weight = floats(6, 4, 3, 3)
    weight[:, 2] = 0
    shift = np.array([0, 0, 5, 0], np.float32)
    model = conv_graph(
        text_graph, "Conv<pads = [1, 1, 1, 1]>(n, w, b)", "6,8,8",
        **{**ZERO_SHIFT, "shift": shift, "w": weight},
    )  # fmt: skip
    assert run_pass(FoldBatchNormIntoNext(), model) == ["Conv"]


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [None, (), (1, 5)])
def test_a_batch_norm_folds_into_the_gemm_after_it(
    text_graph, run_pass, transposed: int, bias: tuple[int, ...] | None
) -> None:
    inputs = "n, w" if bias is None else "n, w, b"
    model = text_graph(
        f"g (float[N,4] x) => (float[N,5] y)"
        f"{{ {BN} y = Gemm<alpha = 0.5, beta = 2.0, transB = {transposed}>({inputs}) }}",
        w=floats(*((5, 4) if transposed else (4, 5))),
        **({} if bias is None else {"b": floats(*bias, seed=1)}),
        **stats(),
    )
    assert run_pass(FoldBatchNormIntoNext(), model) == ["Gemm"]


def test_other_readers_of_what_the_batch_norm_reads_are_no_obstacle(text_graph, run_pass) -> None:
    model = text_graph(
        f"g (float[N,4,8,8] z) => (float[N,4,6,6] y, float[N,4,8,8] r)"
        f"{{ x = Neg(z) r = Relu(x) {BN} y = Conv(n, w) }}",
        w=floats(4, 4, 3, 3),
        **stats(),
    )
    assert run_pass(FoldBatchNormIntoNext(), model) == ["Neg", "Relu", "Conv"]


REFUSED: dict[str, tuple[str, str, dict[str, NDArray[Any]]]] = {
    "pads, and the shift is not zero": ("Conv<pads = [1, 1, 1, 1]>(n, w)", "6,8,8", {}),
    "does not use every tap": ("ConvTranspose(n, w)", "6,10,10", {"w": floats(4, 6, 3, 3)}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_exact_is_refused_with_its_reason(text_graph, reason: str) -> None:
    conv, made, constants = REFUSED[reason]
    assert_refused(conv_graph(text_graph, conv, made, **constants), reason)


def test_a_computed_weight_is_refused(text_graph) -> None:
    model = text_graph(
        f"g (float[N,4,8,8] x) => (float[N,6,6,6] y) {{ {BN} v = Neg(w) y = Conv(n, v) }}",
        w=floats(6, 4, 3, 3),
        **stats(),
    )
    assert_refused(model, "is computed by Neg")


def assert_refused(model: ir.Model, reason: str) -> None:
    before = ir.to_proto(model)
    fold = FoldBatchNormIntoNext()
    assert not fold(model).modified
    assert [reason in refusal.reason for refusal in fold.refusals] == [True]
    assert ir.to_proto(model) == before


def test_a_shared_weight_is_refused(text_graph) -> None:
    model = text_graph(
        f"g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{ {BN} c = Conv(n, w) y = Conv(c, w) }}",
        w=floats(4, 4, 1, 1),
        **stats(),
    )
    assert_refused(model, "weight w is shared with 1 other input")


@pytest.mark.parametrize("name", ["w", "scale"])
def test_constants_that_a_caller_may_replace_are_refused(text_graph, name: str) -> None:
    model = text_graph(
        f"g (float[N,4,8,8] x) => (float[N,6,6,6] y) {{ {BN} y = Conv(n, w) }}",
        also_inputs=(name,), w=floats(6, 4, 3, 3), **stats(),
    )  # fmt: skip
    assert_refused(model, f"{name} is a graph input, which a caller may replace")


def test_a_normalized_value_with_other_readers_is_refused(text_graph) -> None:
    model = text_graph(
        f"g (float[N,4,8,8] x) => (float[N,4,8,8] y)"
        f"{{ {BN} c = Conv(n, w) y = Add(c, n) }}",
        w=floats(4, 4, 1, 1), **stats(),
    )  # fmt: skip
    assert_refused(model, "has 2 readers")


def test_a_normalized_value_that_is_a_graph_output_is_refused(text_graph) -> None:
    model = text_graph(
        f"g (float[N,4,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] n) {{ {BN} y = Conv(n, w) }}",
        w=floats(4, 4, 1, 1), **stats(),
    )  # fmt: skip
    assert_refused(model, "is a graph output")


def test_two_batch_norms_in_a_row_fold_in_one_run(text_graph) -> None:
    model = text_graph(
        f"g (float[N,4,8,8] x) => (float[N,6,6,6] y) {{ {BN} "
        f"{BN.replace('(x', '(n').replace('n =', 'm =')} y = Conv(m, w) }}",
        w=floats(6, 4, 3, 3), **stats(),
    )  # fmt: skip
    fold = FoldBatchNormIntoNext()
    inputs = random_inputs(model)
    before = run_outputs(model, inputs)
    fold(model)
    assert (fold.changes, [node.op_type for node in model.graph]) == (2, ["Conv"])
    assert largest_difference(before, run_outputs(model, inputs)) <= 2e-6


def test_training_mode_is_refused(text_graph) -> None:
    norm = BN.replace("n =", "n, m, v =").replace("tion(", "tion<training_mode = 1>(")
    model = text_graph(
        f"g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{ {norm} y = Conv(n, w) }}",
        w=floats(4, 4, 1, 1), **stats(),
    )  # fmt: skip
    assert_refused(model, "training mode")


def test_a_gemm_that_reads_it_transposed_is_refused(text_graph) -> None:
    model = text_graph(
        f"g (float[4,4] x) => (float[4,5] y) {{ {BN} y = Gemm<transA = 1>(n, w) }}",
        w=floats(4, 5), **stats(),
    )  # fmt: skip
    assert_refused(model, "reads it transposed")


def test_the_comparison_catches_a_shift_folded_into_a_padded_convolution(text_graph) -> None:
    padded = conv_graph(text_graph, "Conv<pads = [1, 1, 1, 1]>(n, w, b)", "6,8,8")
    inputs = random_inputs(padded)
    before = run_outputs(padded, inputs)
    conv = padded.graph[1]
    padding = conv.attributes.pop("pads")
    assert FoldBatchNormIntoNext()(padded).modified
    conv.attributes.add(padding)
    error = largest_difference(before, run_outputs(padded, inputs))
    assert error > 100 * TOLERANCES[ir.DataType.FLOAT]
