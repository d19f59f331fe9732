"""The command line as a user meets it, in this process, and something to run it on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from edgekit.cli import main
from edgekit.runtime.preprocessing import Preprocessing

DIGITS = Preprocessing(8, 8, (0.3,), (0.37,), tuple("0123456789"))
NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
digits (float[batch, 1, 8, 8] input) => (float[batch, 10] logits)
{
    features = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(input, conv_weight, conv_bias)
    normal = BatchNormalization(features, scale, shift, mean, variance)
    active = Relu(normal)
    pooled = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(active)
    flat = Flatten(pooled)
    logits = Gemm<transB = 1>(flat, weight, bias)
}
"""


@dataclass(frozen=True)
class Outcome:
    """What a command left behind: exit status, standard output, standard error."""

    status: int
    out: str
    err: str


Edgekit = Callable[..., Outcome]


@pytest.fixture
def edgekit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Edgekit:
    """Run a command line."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["edgekit", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture
def refuses(edgekit: Edgekit) -> Edgekit:
    """Run a command line that must fail with one line and exit status 2; returns the outcome."""

    def run(*arguments: object) -> Outcome:
        outcome = edgekit(*arguments)
        assert outcome.status == 2, outcome
        assert outcome.out == ""
        assert outcome.err.startswith("edgekit: ")
        assert outcome.err.count("\n") == 1, outcome.err
        return outcome

    return run


def digits_network(seed: int = 0) -> onnx.ModelProto:
    """A network of random weights for 8x8 gray images and 10 classes, normalized like digits."""
    model = onnx.parser.parse_model(NETWORK)
    generator = np.random.default_rng(seed)
    shapes = {"conv_weight": (4, 1, 3, 3), "conv_bias": (4,), "weight": (10, 64), "bias": (10,)}
    shapes |= dict.fromkeys(("scale", "shift", "mean", "variance"), (4,))
    for name, shape in shapes.items():
        values = generator.normal(size=shape).astype(np.float32)
        values = np.abs(values) + 0.5 if name == "variance" else values
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.helper.set_model_props(model, DIGITS.to_metadata())
    return model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file with `digits_network`."""
    path = tmp_path / "model.onnx"
    onnx.save(digits_network(), path)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A gray gradient of 20x16 pixels."""
    path = tmp_path / "image.png"
    Image.linear_gradient("L").resize((20, 16)).save(path)
    return path
