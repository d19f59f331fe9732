"""`edgekit compare` as a user meets it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit.runtime.accuracy import evaluate
from edgekit.runtime.data.load import load_split
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.runtime.session import open_session, run_batch

Command = Callable[..., Any]
DIGITS = Preprocessing(8, 8, (0.3,), (0.37,), tuple("0123456789"))


@pytest.fixture
def other(model: Path) -> Path:
    """The same network, its convolution a little off, that says 3 for every second image."""
    split = load_split("digits", "test")
    logits = run_batch(open_session(model), DIGITS(split.images.read(np.arange(len(split)))))
    margin = np.median(logits.max(axis=1) - logits[:, 3])
    added = {"bias": margin * np.eye(10)[3], "conv_bias": 0.001}

    def edit(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            if tensor.name in added:
                values = onnx.numpy_helper.to_array(tensor) + added[tensor.name]
                array = values.astype(np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))

    return changed(edit, model).rename(model.with_name("other.onnx"))


def changed(edit: Callable[[onnx.ModelProto], None], model: Path) -> Path:
    proto = onnx.load(model)
    edit(proto)
    path = model.with_name("changed.onnx")
    onnx.save(proto, path)
    return path


def test_tensors_worst_first_and_flips_with_their_indices(
    edgekit: Command, model: Path, other: Path
) -> None:
    command = ("compare", model, other, "--data", "digits", "--samples", 100)
    outcome = edgekit(*command, "--format", "json")
    assert outcome.status == 0, outcome.err
    result = json.loads(outcome.out)
    ratios = [layer["db"] for layer in result["signal_to_noise"]["layers"]]
    assert ratios == sorted(ratios)
    assert result["signal_to_noise"]["layers"][0]["tensor"] == "logits"
    assert result["signal_to_noise"]["unmatched"] == {"reference": [], "model": []}
    split = load_split("digits", "test")
    answers = [evaluate(open_session(path), DIGITS, split).predictions for path in (model, other)]
    seen = np.linspace(0, 449, 100).astype(int)
    expected = [int(i) for i in seen if answers[0][i] != answers[1][i]]
    assert [flip["index"] for flip in result["flips"]] == expected
    assert 0 < len(expected) < 100
    assert result["flips"][0]["before"] == str(answers[0][expected[0]])
    assert result["flips"][0]["after"] == "3"
    shown = edgekit(*command, "--top", 2)
    assert "2 of 6 tensors, worst first" in shown.out
    assert f"{len(expected)} images" in shown.out


def test_a_model_beside_itself_differs_nowhere(edgekit: Command, model: Path) -> None:
    outcome = edgekit("compare", model, model, "--data", "digits", "--format", "json")
    result = json.loads(outcome.out)
    as_stored = {"mean": None, "std": None}
    assert result["settings"] == {"data": "digits", "split": "test", "samples": 450, **as_stored}
    assert {layer["db"] for layer in result["signal_to_noise"]["layers"]} == {None}
    assert result["flips"] == []


def test_a_normalization_given_by_hand_is_told(edgekit: Command, model: Path) -> None:
    command = ("compare", model, model, "--data", "digits", "--mean", "0.25", "--std", "0.5")
    settings = json.loads(edgekit(*command, "--format", "json").out)["settings"]
    assert (settings["mean"], settings["std"]) == ([0.25], [0.5])
    assert re.search(r"^mean +0\.25 *\ndeviation +0\.5 *$", edgekit(*command).out, re.MULTILINE)


@pytest.mark.parametrize("kept", [True, False])
def test_an_equalized_model_is_told(kept: bool, edgekit: Command, model: Path) -> None:
    record = json.dumps({"refinements": [{"step": "equalize", "kept": kept}]})

    def note(proto: onnx.ModelProto) -> None:
        proto.metadata_props.add(key="edgekit.calibration", value=record)

    outcome = edgekit("compare", model, changed(note, model), "--data", "digits", "--samples", 4)
    assert ("was equalized" in outcome.err) is kept


def test_models_that_cannot_be_compared(refuses: Command, model: Path, tmp_path: Path) -> None:
    def run(path: Path) -> str:
        error: str = refuses("compare", model, path, "--data", "digits").err
        return error

    def rename_classes(proto: onnx.ModelProto) -> None:
        names = Preprocessing(8, 8, (0.3,), (0.37,), tuple("01234567x9"))
        onnx.helper.set_model_props(proto, names.to_metadata())

    def resize(proto: onnx.ModelProto) -> None:
        larger = Preprocessing(9, 8, (0.3,), (0.37,), tuple("0123456789"))
        onnx.helper.set_model_props(proto, larger.to_metadata())

    assert "class 8 is '8', 'x'" in run(changed(rename_classes, model))
    assert "8x8x1" in (error := run(changed(resize, model)))
    assert "9x8x1" in error
    stranger = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[b, 1, 8, 8] x) => (float[b, 10] y) { f = Flatten (x) y = Tanh (cut) cut = Slice
        (f, from, to, axis) }""".replace("y = Tanh (cut) cut =", "cut =").replace(
            "axis) }", "axis) y = Tanh (cut) }"
        )
    )
    for name, value in {"from": [0], "to": [10], "axis": [1]}.items():
        stranger.graph.initializer.append(onnx.numpy_helper.from_array(np.int64(value), name))
    onnx.helper.set_model_props(stranger, DIGITS.to_metadata())
    onnx.save(stranger, tmp_path / "stranger.onnx")
    assert "share no tensor" in run(tmp_path / "stranger.onnx")
    (tmp_path / "words.onnx").write_text("words")
    assert "words.onnx" in run(tmp_path / "words.onnx")
