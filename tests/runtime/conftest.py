"""Small models and image folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

CLASSIFIER = """
<ir_version: 8, opset_import: ["" : 17]>
classifier (float[{batch}, 1, 4, 4] input) => (float[{batch}, 3] logits)
<int64[2] shape = {{-1, 16}}>
{{
    flat = Reshape(input, shape)
    logits = MatMul(flat, weight)
}}
"""


@pytest.fixture
def classifier() -> Callable[..., onnx.ModelProto]:
    """Build a linear classifier of 4x4 gray images into 3 classes."""

    def build(batch: str | int = "batch", seed: int = 0) -> onnx.ModelProto:
        model = onnx.parser.parse_model(CLASSIFIER.format(batch=batch))
        weight = np.random.default_rng(seed).normal(size=(16, 3)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "weight"))
        return model

    return build


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes, cat and dog, of five 6x4 RGB images each, one flat color an image."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(5):
            color = (40 * number, 100 * label, 200)
            Image.new("RGB", (6, 4), color).save(tmp_path / "pets" / name / f"{number}.png")
    return tmp_path / "pets"
