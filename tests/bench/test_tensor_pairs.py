"""Which tensor of one version of a model is which of another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.bench.signal_to_noise import signal_to_noise
from edgekit.bench.tensor_pairs import tensor_pairs
from edgekit.export.graph import load_graph, to_proto
from tests.processor import needs_exact_int8

Build = Callable[..., ir.Model]

# What onnxruntime's QOperator form makes of the classifier: codes from the first layer to the last.
ON_CODES = """
<ir_version: 10, opset_import: ["" : 20]>
classifier (float[batch, 1, 8, 8] image) => (float[batch, 4] logits)
{
    image_quantized = QuantizeLinear (image, image_scale, image_zero)
    relu_quantized = QLinearConv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]>
        (image_quantized, image_scale, image_zero, w, w_scale, w_zero, relu_scale, zero)
    pooled_quantized = MaxPool <kernel_shape = [8, 8]> (relu_quantized)
    relu_float = DequantizeLinear (pooled_quantized, relu_scale, zero)
    flat = Flatten (relu_float)
    logits = Gemm <transB = 1> (flat, w2, b2)
}
"""
FLOAT = """
<ir_version: 10, opset_import: ["" : 20]>
classifier (float[batch, 1, 8, 8] image) => (float[batch, 4] logits)
{
    conv = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w)
    relu = Relu (conv)
    pooled = MaxPool <kernel_shape = [8, 8]> (relu)
    flat = Flatten (pooled)
    logits = Gemm <transB = 1> (flat, w2, b2)
}
"""


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(0).random((6, 1, 8, 8), np.float32)


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    return {
        "w": generator.integers(-127, 128, (3, 1, 3, 3)).astype(np.float32) / 64,
        "w2": generator.normal(size=(4, 3)).astype(np.float32),
        "b2": generator.normal(size=4).astype(np.float32),
    }


def on_codes(graph: Build, weights: dict[str, np.ndarray], relu_scale: float = 1 / 16) -> ir.Model:
    return graph(
        ON_CODES,
        image_scale=np.float32(1 / 255),
        image_zero=np.uint8(0),
        w_scale=np.float32(1 / 64),
        w_zero=np.int8(0),
        relu_scale=np.float32(relu_scale),
        zero=np.uint8(0),
        **{**weights, "w": (weights["w"] * 64).astype(np.int8)},
    )


@needs_exact_int8
def test_codes_are_compared_with_the_numbers_that_they_stand_for(
    graph: Build, weights: dict[str, np.ndarray], samples: np.ndarray
) -> None:
    reference = graph(FLOAT, **weights)
    found = signal_to_noise(reference, on_codes(graph, weights), [(samples, samples)])
    db = {one.tensor: one.db for one in found.layers}
    assert list(db) == ["relu", "pooled", "flat", "logits"]
    assert all(value is not None and 25 < value < 60 for value in db.values()), db
    assert [one.tensor for one in found.reference_only] == ["conv"]  # codes start behind its Relu
    assert found.model_only == ()
    coarse = on_codes(graph, weights, relu_scale=1 / 4)  # two bits fewer, 12 dB
    worse = {
        o.tensor: o.db for o in signal_to_noise(reference, coarse, [(samples, samples)]).layers
    }
    assert db["relu"] - worse["relu"] == pytest.approx(12, abs=2)


def test_renamed_nodes_are_matched_by_place(
    classifier_file: Callable[..., Path], samples: np.ndarray
) -> None:
    reference, renamed = load_graph(classifier_file()), load_graph(classifier_file())
    for number, node in enumerate(renamed.graph):
        node.name = f"n{number}"
        for value in node.outputs:
            if not value.is_graph_output():
                value.name = f"v{number}"
    found = signal_to_noise(reference, renamed, [(samples, samples)])
    assert {one.db for one in found.layers} == {None}
    assert {one.tensor: one.matched for one in found.layers} == {
        "conv": "place",
        "relu": "place",
        "pooled": "place",
        "flat": "place",
        "logits": "name",
    }
    assert found.reference_only == found.model_only == ()


def test_what_only_one_model_has_is_named(
    classifier_file: Callable[..., Path], samples: np.ndarray
) -> None:
    reference, wider = load_graph(classifier_file()), load_graph(classifier_file(filters=7))
    found = signal_to_noise(reference, wider, [(samples, samples)])
    assert [one.tensor for one in found.layers] == ["logits"]
    reasons = {one.tensor: one.reason for one in found.reference_only}
    assert reasons["relu"] == "shape [6, 8, 8], [7, 8, 8] in the other model"
    extra = load_graph(classifier_file())
    relu = next(node for node in extra.graph if node.op_type == "Relu")
    added = ir.node("Neg", [relu.outputs[0]], name="added")
    added.outputs[0].name = "negated"
    extra.graph.append(added)
    assert [one.tensor for one in tensor_pairs(reference, extra).model_only] == ["negated"]


def test_the_worst_tensor_comes_first_and_equal_ones_last(
    classifier_file: Callable[..., Path], samples: np.ndarray
) -> None:
    reference, broken = load_graph(classifier_file()), load_graph(classifier_file(zeros=20))
    assert to_proto(reference) != to_proto(broken)
    found = signal_to_noise(reference, broken, [(samples, samples)])
    ratios = [one.db for one in found.worst_first]
    assert ratios == sorted(ratios)
    assert ratios[0] < ratios[-1]
    same = signal_to_noise(reference, reference, [(samples, samples)])
    assert [one.db for one in same.worst_first] == [None] * 5
