"""Small classifiers, and one way to turn ONNX text into a counted graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def results_json() -> Callable[..., dict[str, Any]]:
    """Build what `edgekit bench --format json` writes, for three models of the given names."""

    def build(*names: str) -> dict[str, Any]:
        first, second, third = names
        return {
            "schema_version": 1,
            "edgekit": "0.1.0",
            "machine": {"cpu": "Example CPU", "isa": [], "cores": 2, "onnxruntime": "1.32.0"},
            "settings": {"data": "digits", "split": "test", "threads": 1, "batch_size": 1},
            "models": [
                result_json(first, 9_000, 99, 0.4, None),
                result_json(second, 100_000, 98, 0.1, 31.5),
                result_json(third, 20_000, 97, 0.2, 25.0),
            ],
        }

    return build


def node_json(name: str, macs: int, nonzero: int) -> dict[str, Any]:
    return {
        "name": name,
        "op_type": "Conv",
        "output_shape": [1, 4, 8, 8],
        "params": 100,
        "nonzero": nonzero,
        "macs": macs,
        "effective_macs": macs * nonzero // 100,
        "weight_bits": 8,
        "activation_bits": 8,
        "time_share": 0.25,
    }


def result_json(
    path: str, size: int, correct: int, p50: float, noise: float | None
) -> dict[str, Any]:
    return {
        "path": f"/models/{path}",
        "sha256": "0" * 64,
        "opset": 20,
        "precision": "int8",
        "file_bytes": size,
        "accuracy": {
            "correct": correct,
            "total": 100,
            "top1": correct / 100,
            "ci95": [correct / 100 - 0.03, correct / 100 + 0.01],
            "flips_vs_first": 100 - correct,
        },
        "params": {"total": 300, "nonzero": 200, "stored_bits": 2400},
        "macs": {"dense": 60_000, "effective": 40_000, "uncounted_ops": []},
        "activations": {"peak_bytes": 4096},
        "latency_ms": {"p50": p50, "p90": p50 * 2, "p99": p50 * 3, "mean": p50, "min": p50},
        "throughput_ips": 1000 / p50,
        "peak_rss_bytes": None,
        "score": {"imt": size / 1e7, "micronet2019": 0.001},
        "nodes": [node_json("first", 40_000, 80), node_json(path, 20_000, 20)],
        "provenance": {"passes": ["fold-constants", path], "calibration": {"samples": 9}},
        "confusion": {"class_names": ["cat", path], "matrix": [[40, 10], [100 - correct, 50]]},
        "signal_to_noise": None
        if noise is None
        else {
            "reference": "/models/fp32.onnx",
            "images": 8,
            "layers": [
                {"tensor": path, "node": "n", "op_type": "Relu", "db": noise},
                {"tensor": "out", "node": "m", "op_type": "Gemm", "db": None},
            ],
        },
    }
