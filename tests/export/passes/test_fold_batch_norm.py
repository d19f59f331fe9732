from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit.export.passes.batch_norm import affine
from edgekit.export.passes.fold_batch_norm import FoldBatchNorm
from edgekit.export.verify import TOLERANCES, largest_difference, random_inputs, run_outputs

BN = "BatchNormalization(c, scale, shift, mean, var)"
CONV = f"g (float[N,3,8,8] x) => (float[N,4,6,6] y) {{ c = Conv(x, w) y = {BN} }}"


def floats(*shape: int, seed: int = 0, dtype: Any = np.float32) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def stats(channels: int, dtype: Any = np.float32) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(9)
    return {
        "scale": rng.uniform(-2, 2, channels).astype(dtype),
        "shift": rng.standard_normal(channels).astype(dtype),
        "mean": rng.standard_normal(channels).astype(dtype),
        "var": rng.uniform(0.1, 2, channels).astype(dtype),
    }


@pytest.mark.parametrize(
    ("conv", "weight", "made"),
    [
        ("Conv(x, w)", (4, 6, 3, 3), "4,6,6"),
        ("Conv(x, w, b)", (4, 6, 3, 3), "4,6,6"),
        ("Conv<group = 2, strides = [2, 2], pads = [1, 0, 1, 2]>(x, w, b)", (4, 3, 3, 3), "4,4,4"),
        ("Conv<dilations = [2, 3]>(x, w)", (4, 6, 3, 3), "4,4,2"),
        ("ConvTranspose(x, w)", (6, 4, 3, 3), "4,10,10"),
        ("ConvTranspose<group = 2, strides = [2, 2]>(x, w, b)", (6, 2, 3, 3), "4,17,17"),
    ],
)
def test_a_batch_norm_folds_into_the_convolution_before_it(
    text_graph, run_pass, conv: str, weight: tuple[int, ...], made: str
) -> None:
    model = text_graph(
        f"g (float[N,6,8,8] x) => (float[N,{made}] y) {{ c = {conv} y = {BN} }}",
        w=floats(*weight),
        b=floats(4, seed=1),
        **stats(4),
    )
    fold = FoldBatchNorm()
    assert run_pass(fold, model) == [conv.partition("<")[0].partition("(")[0]]
    assert (fold.changes, fold.refusals) == (1, [])
    assert "scale" not in model.graph.initializers


@pytest.mark.parametrize("rank", [1, 3])
def test_a_batch_norm_folds_whatever_the_rank(text_graph, run_pass, rank: int) -> None:
    made = ",".join(["3"] * rank)
    model = text_graph(
        f"g (float[N,2,{','.join(['5'] * rank)}] x) => (float[N,4,{made}] y)"
        f"{{ c = Conv(x, w) y = {BN} }}",
        w=floats(4, 2, *(3,) * rank),
        **stats(4),
    )
    assert run_pass(FoldBatchNorm(), model) == ["Conv"]


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [None, (), (1,), (5,), (1, 5), (1, 1)])
def test_a_batch_norm_folds_into_the_gemm_before_it(
    text_graph, run_pass, transposed: int, bias: tuple[int, ...] | None
) -> None:
    inputs = "x, w" if bias is None else "x, w, b"
    model = text_graph(
        f"g (float[N,3] x) => (float[N,5] y) {{"
        f"c = Gemm<alpha = 0.5, beta = 2.0, transB = {transposed}>({inputs}) y = {BN} }}",
        w=floats(*((5, 3) if transposed else (3, 5))),
        **({} if bias is None else {"b": floats(*bias, seed=1)}),
        **stats(5),
    )
    assert run_pass(FoldBatchNorm(), model) == ["Gemm"]


@pytest.mark.parametrize(("dtype", "name"), [(np.float16, "float16"), (np.float64, "double")])
def test_a_folded_weight_keeps_its_type(text_graph, run_pass, dtype: Any, name: str) -> None:
    model = text_graph(
        f"g ({name}[N,3] x) => ({name}[N,4] y) {{ c = Gemm(x, w) y = {BN} }}",
        w=floats(3, 4, dtype=dtype),
        **stats(4, dtype),
    )
    kind = ir.DataType.from_numpy(np.dtype(dtype))
    assert run_pass(FoldBatchNorm(), model, tolerance=TOLERANCES[kind] / 5) == ["Gemm"]
    assert {value.dtype for value in model.graph.initializers.values()} == {kind}


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 14, 15])
def test_a_batch_norm_folds_in_every_opset_that_runs(text_graph, run_pass, opset: int) -> None:
    model = text_graph(CONV, opset=opset, ir_version=8, w=floats(4, 3, 3, 3), **stats(4))
    assert run_pass(FoldBatchNorm(), model) == ["Conv"]


def test_two_batch_norms_in_a_row_fold_in_one_run(text_graph) -> None:
    model = text_graph(
        f"g (float[N,3,8,8] x) => (float[N,4,6,6] y) {{ c = Conv(x, w) n = {BN} "
        f"y = {BN.replace('(c', '(n')} }}",
        w=floats(4, 3, 3, 3), **stats(4),
    )  # fmt: skip
    fold = FoldBatchNorm()
    inputs = random_inputs(model)
    before = run_outputs(model, inputs)
    fold(model)
    assert (fold.changes, [node.op_type for node in model.graph]) == (2, ["Conv"])
    assert largest_difference(before, run_outputs(model, inputs)) <= 2e-6
    assert not fold(model).modified


def test_weights_in_constant_nodes_fold(text_graph, run_pass) -> None:
    model = text_graph(
        f"""g (float[N,1,2,2] x) => (float[N,2,2,2] y) {{
            w = Constant<value = float[2,1,1,1] {{2, 3}}>()
            c = Conv(x, w) y = {BN} }}""",
        **stats(2),
    )
    assert run_pass(FoldBatchNorm(), model) == ["Conv"]


def test_new_initializers_are_named_after_the_weight(text_graph, run_pass) -> None:
    text = CONV.replace("Conv(x, w)", "Conv(x, stem_weight)")
    model = text_graph(text, stem_weight=floats(4, 3, 3, 3), **stats(4))
    run_pass(FoldBatchNorm(), model)
    assert sorted(model.graph.initializers) == ["stem_bias", "stem_weight"]


def test_a_name_that_is_taken_is_not_taken_again(text_graph, run_pass) -> None:
    model = text_graph(
        f"g (float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,3,8,8] w_bias)"
        f"{{ w_bias = Neg(x) c = Conv(x, w) y = {BN} }}",
        w=floats(4, 3, 3, 3),
        **stats(4),
    )
    run_pass(FoldBatchNorm(), model)
    assert sorted(model.graph.initializers) == ["w", "w_bias_1"]


def test_a_shared_bias_stays_for_its_other_reader(text_graph, run_pass) -> None:
    model = text_graph(
        f"g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{"
        f"c = Conv(x, w, b) n = {BN} y = Conv(n, v, b) }}",
        w=floats(4, 4, 1, 1),
        v=floats(4, 4, 1, 1, seed=2),
        b=floats(4, seed=1),
        **stats(4),
    )
    assert run_pass(FoldBatchNorm(), model) == ["Conv", "Conv"]
    np.testing.assert_array_equal(
        model.graph.initializers["b"].const_value.numpy(), floats(4, seed=1)
    )


def test_a_convolution_in_a_subgraph_folds(text_graph, run_pass) -> None:
    model = text_graph(
        f"""g (bool which, float[2,3,8,8] x) => (float[2,4,6,6] y) {{
            y = If (which) <
                then_branch = t () => (float[2,4,6,6] p) {{ c = Conv(x, w) p = {BN} }},
                else_branch = e () => (float[2,4,6,6] q) {{ q = Conv(x, v) }}>
        }}""",
        w=floats(4, 3, 3, 3),
        v=floats(4, 3, 3, 3, seed=2),
        **stats(4),
    )
    assert run_pass(FoldBatchNorm(), model) == ["If", "Conv", "Conv"]


REFUSED = {
    "is shared with 1 other input": (
        f"g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{ c = Conv(x, w) n = {BN} y = Conv(n, w) }}",
        {"w": floats(4, 4, 1, 1)},
    ),
    "is a graph output": (
        f"g (float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] c)"
        f"{{ c = Conv(x, w) y = {BN} }}",
        {},
    ),
    "has 2 readers": (
        f"g (float[N,3,8,8] x) => (float[N,4,6,6] y) {{ c = Conv(x, w) n = {BN} y = Add(n, c) }}",
        {},
    ),
    "is computed by Neg": (
        f"g (float[N,3,8,8] x) => (float[N,4,6,6] y) {{ v = Neg(w) c = Conv(x, v) y = {BN} }}",
        {},
    ),
    "training mode": (CONV.replace("BatchNormalization", "BatchNormalization<training_mode = 1>")
                      .replace("y = B", "y, m, v = B"), {}),
    "factor is not finite": (CONV, {"var": np.full(4, -1, np.float32)}),
    "not finite as FLOAT": (
        CONV, {"w": np.full((4, 3, 3, 3), 1e30, np.float32), "scale": np.full(4, 1e30, np.float32)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_exact_is_refused_with_its_reason(text_graph, reason: str) -> None:
    text, initializers = REFUSED[reason]
    model = text_graph(text, **{"w": floats(4, 3, 3, 3), **stats(4), **initializers})
    before = ir.to_proto(model)
    fold = FoldBatchNorm()
    assert not fold(model).modified
    assert [reason in refusal.reason for refusal in fold.refusals] == [True]
    assert ir.to_proto(model) == before


@pytest.mark.parametrize("name", ["w", "b", "mean"])
def test_constants_that_a_caller_may_replace_are_refused(text_graph, name: str) -> None:
    text = CONV.replace("Conv(x, w)", "Conv(x, w, b)")
    model = text_graph(text, also_inputs=(name,), w=floats(4, 3, 3, 3), b=floats(4), **stats(4))
    fold = FoldBatchNorm()
    assert not fold(model).modified
    assert f"{name} is a graph input, which a caller may replace" in fold.refusals[0].reason


@pytest.mark.parametrize("shape", [(2, 1), (2, 5)])
def test_a_gemm_whose_c_differs_from_row_to_row_is_refused(text_graph, shape: Any) -> None:
    model = text_graph(
        f"g (float[2,3] x) => (float[2,5] y) {{ c = Gemm(x, w, b) y = {BN} }}",
        w=floats(3, 5), b=floats(*shape), **stats(5),
    )  # fmt: skip
    fold = FoldBatchNorm()
    assert not fold(model).modified
    assert fold.refusals[0].reason == "its C differs from row to row"


@pytest.mark.parametrize(
    ("opset", "normalization"),
    [
        (9, "y, m, v, sm, sv = BatchNormalization(c, scale, shift, mean, var)"),
        (7, "y = BatchNormalization<spatial = 0>(c, scale, shift, mean, var)"),
        (6, "y = BatchNormalization(c, scale, shift, mean, var)"),
    ],
)
def test_old_ways_to_say_training_are_refused(text_graph, opset: int, normalization: str) -> None:
    text = CONV.replace(f"y = {BN}", normalization)
    shape = (4, 6, 6) if "spatial" in text else (4,)
    constants = {name: np.ones(shape, np.float32) for name in ("scale", "shift", "mean", "var")}
    model = text_graph(text, opset=opset, ir_version=8, w=floats(4, 3, 3, 3), **constants)
    fold = FoldBatchNorm()
    assert not fold(model).modified
    assert len(fold.refusals) == 1


def test_a_value_that_a_subgraph_reads_counts_as_read(text_graph) -> None:
    model = text_graph(
        f"""g (bool which, float[2,3,8,8] x) => (float[2,4,6,6] y, float[2,4,6,6] z) {{
            c = Conv(x, w) y = {BN}
            z = If (which) <then_branch = t () => (float[2,4,6,6] p) {{ p = Neg(c) }},
                            else_branch = e () => (float[2,4,6,6] q) {{ q = Abs(c) }}>
        }}""",
        w=floats(4, 3, 3, 3),
        **stats(4),
    )
    fold = FoldBatchNorm()
    assert not fold(model).modified
    assert "has 3 readers" in fold.refusals[0].reason


def test_a_batch_norm_after_something_else_is_left_without_a_word(text_graph) -> None:
    model = text_graph(
        f"g (float[N,4,6,6] x) => (float[N,4,6,6] y) {{ c = Relu(x) y = {BN} }}", **stats(4)
    )
    fold = FoldBatchNorm()
    assert not fold(model).modified
    assert fold.refusals == []


def naive_fold(model: ir.Model) -> None:
    """What a fold does that asks neither who else reads the weight nor who reads the result."""
    for node in list(model.graph):
        producer = node.inputs[0].producer() if node.inputs[0] is not None else None
        if node.op_type != "BatchNormalization" or producer is None or producer.op_type != "Conv":
            continue
        factor, shift = affine(model, node)
        weight = producer.inputs[1]
        assert weight is not None
        assert weight.const_value is not None
        array = weight.const_value.numpy() * factor.reshape(-1, 1, 1, 1).astype(np.float32)
        weight.const_value = ir.tensor(array, name=weight.name)
        bias = ir.Value(name=f"bias_of_{node.outputs[0].name}",
                        const_value=ir.tensor(shift.astype(np.float32)))  # fmt: skip
        model.graph.register_initializer(bias)
        producer.resize_inputs(3)
        producer.replace_input_with(2, bias)
        node.outputs[0].replace_all_uses_with(producer.outputs[0])
        model.graph.remove(node, safe=True)


@pytest.mark.parametrize("reason", ["is shared with 1 other input", "has 2 readers"])
def test_the_comparison_catches_a_fold_that_ignores_other_readers(text_graph, reason: str) -> None:
    text, initializers = REFUSED[reason]
    model = text_graph(text, **{"w": floats(4, 3, 3, 3), **stats(4), **initializers})
    inputs = random_inputs(model)
    before = run_outputs(model, inputs)
    naive_fold(model)
    error = largest_difference(before, run_outputs(model, inputs))
    assert error > 100 * TOLERANCES[ir.DataType.FLOAT]


@st.composite
def conv_chains(draw: st.DrawFn) -> tuple[str, dict[str, NDArray[Any]]]:
    """Three to five Conv, BatchNormalization and Add nodes; weights shared, outputs reused."""
    channels, lines = 4, []
    values = ["x"]
    constants: dict[str, NDArray[Any]] = {}
    for i in range(draw(st.integers(3, 5))):
        source = draw(st.sampled_from(values))
        kind = draw(st.sampled_from(["conv", "norm", "norm", "add"]))
        if kind == "conv":
            groups = draw(st.sampled_from([1, 2, 4]))
            dilation = draw(st.sampled_from([1, 2]))
            kernel = draw(st.sampled_from([1, 3]))
            pad = dilation * (kernel // 2)
            shared = [
                name for name, array in constants.items()
                if array.shape == (channels, channels // groups, kernel, kernel)
            ]  # fmt: skip
            name = draw(st.sampled_from([*shared, f"w{i}"]))
            constants.setdefault(name, floats(channels, channels // groups, kernel, kernel, seed=i))
            lines.append(
                f"v{i} = Conv<group = {groups}, dilations = [{dilation}, {dilation}],"
                f"pads = [{pad}, {pad}, {pad}, {pad}]>({source}, {name})"
            )
        elif kind == "norm":
            constants |= {f"{key}{i}": array for key, array in stats(channels).items()}
            source = values[-1]
            lines.append(
                f"v{i} = BatchNormalization({source}, scale{i}, shift{i}, mean{i}, var{i})"
            )
        else:
            lines.append(f"v{i} = Add({source}, {values[-1]})")
        values.append(f"v{i}")
    made = values[1:]
    outputs = sorted({made[-1], *draw(st.lists(st.sampled_from(made), max_size=1))})
    signature = ", ".join(f"float[2,4,6,6] {name}" for name in outputs)
    return f"g (float[2,4,6,6] x) => ({signature}) {{ {' '.join(lines)} }}", constants


@settings(max_examples=50, deadline=None)
@given(chain=conv_chains())
def test_random_graphs_compute_the_same_after_folding(text_graph, run_pass, chain: Any) -> None:
    text, constants = chain
    run_pass(FoldBatchNorm(), text_graph(text, **constants), tolerance=1e-5)
