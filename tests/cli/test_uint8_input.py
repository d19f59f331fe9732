"""`edgekit quantize --uint8-input`: a model that takes pixels, in the commands that feed it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from tests.cli.conftest import Edgekit
from tests.processor import needs_exact_int8


@needs_exact_int8
def test_a_model_of_pixels_is_measured_and_predicts_like_one_of_floats(
    edgekit: Edgekit, model: Path, image: Path, tmp_path: Path
) -> None:
    floats, pixels = tmp_path / "floats.onnx", tmp_path / "pixels.onnx"
    command = ("quantize", model, "--calib", "digits")
    assert edgekit(*command, "-o", floats).status == 0
    outcome = edgekit(*command, "-o", pixels, "--uint8-input")
    assert outcome.status == 0, outcome.err
    (entry,) = onnx.load(pixels).graph.input
    assert entry.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value for d in entry.type.tensor_type.shape.dim][1:] == [8, 8, 1]
    bench = ("bench", model, floats, pixels, "--data", "digits", "--iterations", 1)
    outcome = edgekit(*bench, "--format", "json")
    assert outcome.status == 0, outcome.err
    # Fewer than 5 of 450 images change class, among networks of random weights.
    _, *both = (entry["accuracy"]["flips_vs_first"] for entry in json.loads(outcome.out)["models"])
    assert max(both) < 5
    said = [edgekit("predict", path, image, "--format", "json") for path in (floats, pixels)]
    (first,), (second,) = (json.loads(outcome.out) for outcome in said)
    assert first["classes"][0] == second["classes"][0]


@pytest.mark.parametrize("precision", ["fp16", "dynamic-int8"])
def test_other_precisions_have_no_such_input(
    refuses: Edgekit, model: Path, tmp_path: Path, precision: str
) -> None:
    output = tmp_path / "out.onnx"
    command = ("quantize", model, "-o", output, "--precision", precision)
    outcome = refuses(*command, "--uint8-input")
    assert "--uint8-input is for int8" in outcome.err
    assert not output.exists()
