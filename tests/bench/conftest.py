"""Small classifiers, and one way to turn ONNX text into a counted graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.runtime.data.source import ArrayImages, Split
from edgekit.runtime.preprocessing import Preprocessing

Tensors = dict[str, NDArray[np.generic]]

CLASSIFIER = """
<ir_version: 10, opset_import: ["" : 20]>
classifier (float[batch, 1, 8, 8] image) => (float[batch, 4] logits)
{
    conv = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w1, b1)
    relu = Relu (conv)
    pooled = GlobalAveragePool (relu)
    flat = Flatten <axis = 1> (pooled)
    logits = Gemm <transB = 1> (flat, w2, b2)
}
"""


@pytest.fixture
def graph() -> Callable[..., ir.Model]:
    """Build a model from ONNX text and named initializers."""

    def build(text: str, **tensors: NDArray[np.generic]) -> ir.Model:
        return ir.from_proto(proto_of(text, tensors))

    return build


@pytest.fixture
def classifier_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a convolutional classifier of 8x8 gray images into 4 classes."""

    def build(
        name: str = "model.onnx", *, zeros: int = 0, names: str = "abcd", filters: int = 6
    ) -> Path:
        rng = np.random.default_rng(1)
        tensors: Tensors = {
            "w1": rng.normal(size=(filters, 1, 3, 3)).astype(np.float32),
            "b1": rng.normal(size=filters).astype(np.float32),
            "w2": rng.normal(size=(4, filters)).astype(np.float32),
            "b2": rng.normal(size=4).astype(np.float32) / 10,
        }
        tensors["w1"].reshape(-1)[:zeros] = 0
        proto = proto_of(CLASSIFIER, tensors)
        preprocessing = Preprocessing(8, 8, (0.5,), (0.5,), tuple(names))
        onnx.helper.set_model_props(proto, preprocessing.to_metadata())
        path = tmp_path / name
        path.write_bytes(proto.SerializeToString())
        return path

    return build


@pytest.fixture
def images() -> Split:
    """64 random gray images of 8x8, each of its own brightness and contrast, in 4 classes."""
    rng = np.random.default_rng(2)
    low, high = np.sort(rng.random((2, 64, 1, 1, 1)) * 255, axis=0)
    pixels = (low + (high - low) * rng.random((64, 8, 8, 1))).astype(np.uint8)
    labels = rng.integers(0, 4, 64).astype(np.int64)
    return Split("noise", "test", ArrayImages(pixels), labels, tuple("abcd"))


def proto_of(text: str, tensors: Tensors) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(text)
    for name, array in tensors.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto
