from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.export.passes import fold_batch_norm_through_concat as module
from edgekit.export.passes.fold_batch_norm_through_pool import FoldBatchNormThroughPool
from edgekit.export.verify import TOLERANCES, largest_difference, random_inputs, run_outputs

CONV = "x = Conv<pads = [1, 1, 1, 1]>(i, w, b)"
BN = "n = BatchNormalization(p, scale, shift, mean, var)"
WINDOW = "kernel_shape = [2, 2], strides = [2, 2]"
RANDOM = np.random.default_rng(0)
STATS = {
    "shift": RANDOM.standard_normal(4).astype(np.float32),
    "mean": RANDOM.standard_normal(4).astype(np.float32),
    "var": RANDOM.uniform(0.1, 2, 4).astype(np.float32),
}
SCALE = np.array([0.5, 1.0, 0.0, 2.0], np.float32)
W = RANDOM.standard_normal((4, 2, 3, 3)).astype(np.float32)
B = RANDOM.standard_normal(4).astype(np.float32)


def network(text_graph, body: str, scale: NDArray[np.float32] = SCALE) -> ir.Model:
    text = f"g (float[N,2,8,8] i) => (float[N,4,h,w] y) {{ {body} }}"
    model = text_graph(text, w=W, b=B, scale=scale, **STATS)
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (f"{CONV} p = MaxPool<{WINDOW}>(x) {BN} y = Relu(n)", ["Conv", "MaxPool", "Relu"]),
        (f"{CONV} p = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x) {BN} y = Relu(n)",
         ["Conv", "MaxPool", "Relu"]),
        (f"{CONV} p = GlobalMaxPool(x) {BN} y = Relu(n)", ["Conv", "GlobalMaxPool", "Relu"]),
        (f"{CONV} p = AveragePool<{WINDOW}>(x) {BN} y = Relu(n)",
         ["Conv", "AveragePool", "Relu"]),
        (f"{CONV} p = GlobalAveragePool(x) {BN} y = Relu(n)",
         ["Conv", "GlobalAveragePool", "Relu"]),
        (f"{CONV} a = AveragePool<{WINDOW}>(x) p = MaxPool<{WINDOW}>(a) {BN} y = Relu(n)",
         ["Conv", "AveragePool", "MaxPool", "Relu"]),
    ],
)  # fmt: skip
def test_a_batch_norm_folds_into_what_is_before_the_pool(
    text_graph, run_pass, body: str, left: list[str]
) -> None:
    fold = FoldBatchNormThroughPool()
    assert run_pass(fold, network(text_graph, body)) == left
    assert (fold.changes, fold.refusals) == (1, [])


def test_a_mean_takes_negative_scales(text_graph, run_pass) -> None:
    model = network(text_graph, f"{CONV} p = AveragePool<{WINDOW}>(x) {BN} y = Relu(n)", -SCALE)
    assert run_pass(FoldBatchNormThroughPool(), model) == ["Conv", "AveragePool", "Relu"]


REFUSED = {
    "has 2 readers": f"{CONV} p = MaxPool<{WINDOW}>(x) {BN} r = Relu(p) y = Add(n, r)",
    "read by others too": (
        f"{CONV} p = MaxPool<{WINDOW}>(x) {BN} a = GlobalAveragePool(x) y = Add(n, a)"
    ),
    "Relu makes a part of it": f"{CONV} r = Relu(x) p = MaxPool<{WINDOW}>(r) {BN} y = Relu(n)",
    "counts its padding": (
        f"{CONV} p = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>"
        f"(x) {BN} y = Relu(n)"
    ),
    "is dilated": (
        f"{CONV} p = MaxPool<kernel_shape = [2, 2], dilations = [2, 2]>(x) {BN} y = Relu(n)"
    ),
    "indices of": (
        f"{CONV} p, k = MaxPool<{WINDOW}>(x) {BN} f = Cast<to = 1>(k) y = Add(n, f)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_exact_is_refused_with_its_reason(text_graph, reason: str) -> None:
    refuses(network(text_graph, REFUSED[reason]), reason)


def test_a_maximum_takes_no_negative_scale(text_graph) -> None:
    scale = SCALE * np.array([1, 1, 1, -1], np.float32)
    body = f"{CONV} p = MaxPool<{WINDOW}>(x) {BN} y = Relu(n)"
    refuses(network(text_graph, body, scale), "takes no negative scale")


def refuses(model: ir.Model, reason: str) -> None:
    before = ir.to_proto(model)
    fold = FoldBatchNormThroughPool()
    assert not fold(model).modified
    assert [reason in refusal.reason for refusal in fold.refusals] == [True], fold.refusals
    assert ir.to_proto(model) == before


def test_a_negative_scale_through_a_maximum_would_be_wrong(
    text_graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f"{CONV} p = MaxPool<{WINDOW}>(x) {BN} y = Relu(n)"
    model = network(text_graph, body, -SCALE)
    inputs = random_inputs(model)
    before = run_outputs(model, inputs)
    monkeypatch.setattr(module, "check_max", lambda *_: None)
    assert FoldBatchNormThroughPool()(model).modified
    error = largest_difference(before, run_outputs(model, inputs))
    assert error > 1000 * TOLERANCES[ir.DataType.FLOAT]
