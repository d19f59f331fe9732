"""`edgekit predict`: names and probabilities of image files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image

Command = Callable[..., Any]


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    """An image of the size that the model takes."""
    pixels = np.random.default_rng(3).integers(0, 256, (8, 8), dtype=np.uint8)
    path = tmp_path / "digit.png"
    Image.fromarray(pixels).save(path)
    return path


def predicted(edgekit: Command, *arguments: object) -> list[dict[str, Any]]:
    outcome = edgekit("predict", *arguments, "--format", "json")
    assert outcome.status == 0, outcome.err
    found: list[dict[str, Any]] = json.loads(outcome.out)
    return found


def probabilities(model: Path, image: Path, mean: float, std: float) -> np.ndarray:
    """What the model makes of an image, worked out by hand."""
    pixels = np.asarray(Image.open(image), np.float32)[None, None] / 255
    (logits,) = ort.InferenceSession(model).run(None, {"input": (pixels - mean) / std})
    powers = np.exp(logits[0].astype(np.float64) - logits.max())
    shares: np.ndarray = powers / powers.sum()
    return shares


def test_classes_come_with_their_probabilities(edgekit: Command, model: Path, digit: Path) -> None:
    (found,) = predicted(edgekit, model, digit, "--top", "10")
    expected = probabilities(model, digit, 0.3, 0.37)
    assert found["image"] == str(digit)
    assert found["classes"] == [str(index) for index in np.argsort(-expected)]
    np.testing.assert_allclose(found["probabilities"], np.sort(expected)[::-1], rtol=1e-4)
    assert sum(found["probabilities"]) == pytest.approx(1)


def test_another_normalization_gives_other_probabilities(
    edgekit: Command, model: Path, digit: Path
) -> None:
    (found,) = predicted(edgekit, model, digit, "--top", "10", "--mean", "0.1", "--std", "0.9")
    expected = probabilities(model, digit, 0.1, 0.9)
    np.testing.assert_allclose(found["probabilities"], np.sort(expected)[::-1], rtol=1e-4)
    (stored,) = predicted(edgekit, model, digit, "--top", "10")
    assert found["probabilities"] != stored["probabilities"]


def test_names_are_those_of_the_model(edgekit: Command, model: Path, digit: Path) -> None:
    proto = onnx.load(model)
    (names,) = (entry for entry in proto.metadata_props if entry.key == "edgekit.class_names")
    names.value = json.dumps(["zero", "one", "two", *"3456789"])
    onnx.save(proto, model)
    (found,) = predicted(edgekit, model, digit, "--top", "10")
    assert {"zero", "one", "two"} < set(found["classes"])
    names.value = "[]"
    onnx.save(proto, model)
    (found,) = predicted(edgekit, model, digit, "--top", "10")
    assert set(found["classes"]) == set("0123456789")


def test_every_image_has_its_rows_in_the_table(
    edgekit: Command, model: Path, digit: Path, image: Path
) -> None:
    outcome = edgekit("predict", model, digit, image, "--top", "2")
    assert (outcome.status, outcome.err) == (0, "")
    header, *rows = outcome.out.splitlines()
    assert header.split() == ["image", "class", "probability"]
    assert len(rows) == 4
    assert [rows[0].split()[0], rows[2].split()[0]] == [str(digit), str(image)]
    assert all(row.strip().endswith("%") for row in rows)


def test_an_image_of_another_size_is_resized(edgekit: Command, model: Path, image: Path) -> None:
    (found,) = predicted(edgekit, model, image)
    assert len(found["classes"]) == 3
    assert found["probabilities"] == sorted(found["probabilities"], reverse=True)


def test_bad_input_is_one_line(refuses: Command, model: Path, digit: Path, tmp_path: Path) -> None:
    assert "no such file" in refuses("predict", tmp_path / "absent.onnx", digit).err
    assert "absent.png" in refuses("predict", model, tmp_path / "absent.png").err
    words = tmp_path / "words.png"
    words.write_bytes(b"words")
    assert "words.png: does not decode" in refuses("predict", model, words).err
    assert str(tmp_path) in refuses("predict", model, tmp_path).err
    assert "1 or 3 values" in refuses("predict", model, digit, "--mean", "1,2").err
    assert "std" in refuses("predict", model, digit, "--std", "0").err


def test_a_model_that_says_nothing_of_its_images_is_taken_at_a_word(
    edgekit: Command, model: Path, digit: Path
) -> None:
    proto = onnx.load(model)
    del proto.metadata_props[:]
    onnx.save(proto, model)
    outcome = edgekit("predict", model, digit)
    assert outcome.status == 0
    assert "taking mean [0.0] and std [1.0] of pixel / 255" in " ".join(outcome.err.split())
    (found,) = predicted(edgekit, model, digit, "--top", "10")
    expected = probabilities(model, digit, 0, 1)
    np.testing.assert_allclose(found["probabilities"], np.sort(expected)[::-1], rtol=1e-4)


def test_usage_errors_have_exit_status_2(edgekit: Command, model: Path, digit: Path) -> None:
    for arguments in ((model,), (model, digit, "--top", "0"), (model, digit, "--mean", "x")):
        outcome = edgekit("predict", *arguments)
        assert outcome.status == 2
        assert "Traceback" not in outcome.err
