from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.export.passes import fold_batch_norm_through_concat as module
from edgekit.export.passes.fold_batch_norm_through_concat import FoldBatchNormThroughConcat
from edgekit.export.verify import TOLERANCES, largest_difference, random_inputs, run_outputs

# p has 3 channels, q 5.
BN = "n = BatchNormalization(x, scale, shift, mean, var)"


def floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


WEIGHTS = {
    "v": floats(3, 2, 3, 3),
    "b": floats(3, seed=1),
    "w": floats(5, 2, 3, 3, seed=2),
    "t": floats(2, 5, 1, 1, seed=3),
}
EXTRA = {"k": floats(8, 2, 3, 3), "s": floats(6, 2, 3, 3), "f": floats(4, 2, 3, 3)}


def network(text_graph, body: str, made: str = "8,8,8") -> ir.Model:
    rng = np.random.default_rng(9)
    stats = {
        "scale": rng.uniform(-2, 2, 8).astype(np.float32),
        "shift": floats(8, seed=5),
        "mean": floats(8, seed=6),
        "var": rng.uniform(0.1, 2, 8).astype(np.float32),
    }
    known = {**WEIGHTS, **EXTRA}
    used = {name: known[name] for name in known if re.search(rf"\b{name}[,)]", body)}
    model = text_graph(f"g (float[N,2,8,8] i) => (float[N,{made}] y) {{ {body} }}", **used, **stats)
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))


PARTS = "p = Conv<pads = [1, 1, 1, 1]>(i, v, b) q = Conv<pads = [1, 1, 1, 1]>(i, w)"
JOIN = "x = Concat<axis = 1>(p, q)"


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (f"{PARTS} {JOIN} {BN} y = Relu(n)", ["Conv", "Conv", "Concat", "Relu"]),
        (f"{PARTS} x = Concat<axis = -3>(p, q) {BN} y = Relu(n)",
         ["Conv", "Conv", "Concat", "Relu"]),
        (f"{PARTS} a = Concat<axis = 1>(p) x = Concat<axis = 1>(a, q) {BN} y = Relu(n)",
         ["Conv", "Conv", "Concat", "Concat", "Relu"]),
        (
            "p = Conv<pads = [1, 1, 1, 1]>(i, v, b)"
            "d = ConvTranspose(i, t) q = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(d)"
            f"{JOIN} {BN} y = Relu(n)",
            ["Conv", "ConvTranspose", "AveragePool", "Concat", "Relu"],
        ),
    ],
)  # fmt: skip
def test_a_batch_norm_folds_into_all_parts(text_graph, run_pass, body: str, left: Any) -> None:
    fold = FoldBatchNormThroughConcat()
    assert run_pass(fold, network(text_graph, body)) == left
    assert (fold.changes, fold.refusals) == (1, [])


POOL = "AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>"
REFUSED: dict[str, str] = {
    "has 2 readers": f"{PARTS} {JOIN} {BN} r = Relu(x) y = Add(n, r)",
    "not along the channels": (
        "p = Conv<pads = [1, 1, 1, 1]>(i, k) q = Conv<pads = [1, 1, 1, 1]>(i, k)"
        f"x = Concat<axis = 2>(p, q) {BN} y = Relu(n)"
    ),
    "Relu makes a part of it": f"{PARTS} a = Relu(p) x = Concat<axis = 1>(a, q) {BN} y = Relu(n)",
    "read by others too": f"{PARTS} {JOIN} {BN} a = ReduceMean<keepdims = 0>(p) y = Add(n, a)",
    "counts its padding": (
        f"{PARTS} a = {POOL}(p) x = Concat<axis = 1>(a, q) {BN} y = Relu(n)"
    ),
    "no node's output": (
        f"q = Conv<pads = [1, 1, 1, 1]>(i, s) x = Concat<axis = 1>(i, q) {BN} y = Relu(n)"
    ),
    "is shared with 1 other": (
        "p = Conv<pads = [1, 1, 1, 1]>(i, f) q = Conv<pads = [1, 1, 1, 1]>(i, f)"
        f"{JOIN} {BN} y = Relu(n)"
    ),
    "is computed by Neg": (
        "p = Conv<pads = [1, 1, 1, 1]>(i, v, b) o = Neg(w)"
        f"q = Conv<pads = [1, 1, 1, 1]>(i, o) {JOIN} {BN} y = Relu(n)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_exact_is_refused_with_its_reason(text_graph, reason: str) -> None:
    body, made = REFUSED[reason], "8,8,8"
    if "axis = 2" in body:
        made = "8,16,8"
    model = network(text_graph, body, made)
    before = ir.to_proto(model)
    fold = FoldBatchNormThroughConcat()
    assert not fold(model).modified
    assert [reason in refusal.reason for refusal in fold.refusals] == [True]
    assert ir.to_proto(model) == before


def test_it_folds_without_shapes_between(text_graph, run_pass) -> None:
    model = network(text_graph, f"{PARTS} {JOIN} {BN} y = Relu(n)")
    for node in model.graph:
        if node.op_type != "Relu":
            node.outputs[0].shape = node.outputs[0].type = None
    assert run_pass(FoldBatchNormThroughConcat(), model) == ["Conv", "Conv", "Concat", "Relu"]


def test_a_part_that_is_a_graph_output_is_refused(text_graph) -> None:
    body = f"{PARTS} {JOIN} {BN} y = Relu(n)"
    proto = ir.to_proto(network(text_graph, body))
    proto.graph.output.append(
        onnx.helper.make_tensor_value_info("p", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])
    )
    fold = FoldBatchNormThroughConcat()
    assert not fold(ir.from_proto(proto)).modified
    assert "read by others too" in fold.refusals[0].reason


def test_the_comparison_catches_slices_in_the_wrong_order(
    text_graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(text_graph, f"{PARTS} {JOIN} {BN} y = Relu(n)")
    inputs = random_inputs(model)
    before = run_outputs(model, inputs)
    plan = module.plan_fold
    monkeypatch.setattr(module, "plan_fold", lambda node, a, b: plan(node, a[::-1], b[::-1]))
    assert FoldBatchNormThroughConcat()(model).modified
    error = largest_difference(before, run_outputs(model, inputs))
    assert error > 100 * TOLERANCES[ir.DataType.FLOAT]
