"""`edgekit quantize --max-drop`: which layers are spared, and what if none are enough."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit.commands.max_drop import fewest
from edgekit.runtime.data.load import load_split
from edgekit.runtime.preprocessing import Preprocessing
from tests.processor import needs_exact_int8

Command = Callable[..., Any]
DIGITS = Preprocessing(8, 8, (0.3,), (0.37,), tuple("0123456789"))
SPOILT = ("turn", "turn_back", "turn_again", "classes")
CALIBRATED = ("--calib", "digits", "--samples", 64, "--format", "json")
NETWORK = """<ir_version: 8, opset_import: ["" : 17]>
rotations (float[batch, 1, 8, 8] input) => (float[batch, 10] logits)
{
    flat = Flatten (input)
    turned = Gemm (flat, turn, none)
    back = Gemm (turned, turn_back)
    again = Gemm (back, turn_again)
    logits = Gemm (again, classes, bias)
}"""


def network(unused: float, *layers: str) -> onnx.ModelProto:
    """Digits by least squares behind rotations; `layers` have weights of `unused` for zeros."""
    train = load_split("digits", "train")
    pixels = DIGITS(train.images.read(np.arange(len(train)))).reshape(len(train), 64)
    affine = np.concatenate([pixels, np.ones((len(train), 1), np.float32)], axis=1)
    weight = np.linalg.lstsq(affine, np.eye(10)[train.labels], rcond=None)[0]
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))
    spare = {name: np.full((1, 64), unused if name in layers else 0.0) for name in SPOILT}
    arrays = {
        "turn": np.pad(turn, ((0, 0), (0, 1))),
        "none": np.zeros(65),
        "turn_back": np.pad(np.concatenate([turn.T, spare["turn_back"]]), ((0, 0), (0, 1))),
        "turn_again": np.pad(np.concatenate([turn, spare["turn_again"]]), ((0, 0), (0, 1))),
        "classes": np.concatenate([turn.T @ weight[:64], spare["classes"][:, :10]]),
        "bias": weight[64],
    }
    if "turn" in layers:  # the first pixel is black in every image
        arrays["turn"][0, :64] = unused
        arrays["none"][:64] = unused * DIGITS.mean[0] / DIGITS.std[0]
    model = onnx.parser.parse_model(NETWORK)
    for node in model.graph.node:
        node.name = f"layer.{node.output[0]}"
    for name, array in arrays.items():
        tensor = onnx.numpy_helper.from_array(array.astype(np.float32), name)
        model.graph.initializer.append(tensor)
    onnx.helper.set_model_props(model, DIGITS.to_metadata())
    return model


@pytest.fixture
def awful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network whose layer `layer.back` does not survive int8."""
    monkeypatch.chdir(tmp_path)
    onnx.save(network(3000.0, "turn_back"), tmp_path / "awful.onnx")
    return tmp_path / "awful.onnx"


@needs_exact_int8
def test_the_one_awful_layer_is_found_and_the_expression_gives_the_same_file(
    edgekit: Command, awful: Path, tmp_path: Path
) -> None:
    outcome = edgekit("quantize", awful, "-o", "q.onnx", *CALIBRATED, "--max-drop", 1)
    assert outcome.status == 0, outcome.err
    found = json.loads(outcome.out)["kept_layers"]
    assert found["met"]
    assert not found["timed_out"]
    kept = [layer["layer"] for layer in found["layers"] if layer["kept_as"] == "float"]
    assert kept == ["layer.back"]
    assert [layer["rank"] for layer in found["layers"]] == [1, 2, 3, 4]
    worst, second = (layer["sensitivity_db"] for layer in found["layers"][:2])
    assert worst < 5 < 15 < second
    assert [trial["kept"] for trial in found["trials"]] == [0, 1]
    assert found["trials"][0]["points"] > 50
    assert found["exclude"] == r"^(?:layer\.back)$"
    plain = edgekit("quantize", awful, "-o", "p.onnx", *CALIBRATED, "--exclude", found["exclude"])
    assert plain.status == 0, plain.err
    assert (tmp_path / "p.onnx").read_bytes() == (tmp_path / "q.onnx").read_bytes()


def test_the_users_own_expression_keeps_its_flags(
    edgekit: Command, awful: Path, tmp_path: Path
) -> None:
    command = ("quantize", awful, *CALIBRATED)
    outcome = edgekit(*command, "-o", "q.onnx", "--max-drop", 1, "--exclude", "(?i)LAYER.AGAIN")
    assert outcome.status == 0, outcome.err
    found = json.loads(outcome.out)["kept_layers"]
    assert found["exclude"] == r"(?i:LAYER.AGAIN)|^(?:layer\.back)$"
    plain = edgekit(*command, "-o", "p.onnx", "--exclude", found["exclude"])
    assert plain.status == 0, plain.err
    assert (tmp_path / "p.onnx").read_bytes() == (tmp_path / "q.onnx").read_bytes()


@pytest.mark.parametrize("fallback", ["int16", "fp16"])
def test_what_layers_are_kept_in(
    fallback: str, edgekit: Command, awful: Path, tmp_path: Path
) -> None:
    command = ("quantize", awful, *CALIBRATED, "--fallback", fallback)
    outcome = edgekit(*command, "-o", "q.onnx", "--max-drop", 1)
    found = json.loads(outcome.out)["kept_layers"]
    assert (tmp_path / "q.onnx").exists() == found["met"] == (fallback == "fp16")
    if fallback == "int16":  # wider activations do not mend weights
        assert outcome.status == 1
        return
    assert outcome.status == 0, outcome.err
    shown = edgekit(
        "quantize", awful, *CALIBRATED[:-2], "-o", "r.onnx", *command[-2:], "--max-drop", 1
    )
    (line,) = [line for line in shown.out.splitlines() if "--exclude" in line]
    options = shlex.split(line[line.index("--exclude") :])
    again = edgekit("quantize", awful, "-o", "p.onnx", *CALIBRATED, *options)
    assert again.status == 0, again.err
    assert (tmp_path / "p.onnx").read_bytes() == (tmp_path / "q.onnx").read_bytes()
    halves = [t.name for t in onnx.load("q.onnx").graph.initializer if t.data_type == 10]
    assert halves == ["turn_back"]


@needs_exact_int8
def test_a_limit_that_is_met_at_once_needs_no_search(edgekit: Command, awful: Path) -> None:
    onnx.save(network(0.0), awful)
    outcome = edgekit("quantize", awful, "-o", "q.onnx", *CALIBRATED, "--max-drop", 1)
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out)["kept_layers"] is None


def test_the_best_file_is_kept_aside_where_no_layers_are_enough(
    edgekit: Command, awful: Path, tmp_path: Path
) -> None:
    command = ("quantize", awful, "-o", "q.onnx", "--max-drop", 1, "--search-seconds", 0)
    outcome = edgekit(*command, *CALIBRATED)
    assert outcome.status == 1
    assert not (tmp_path / "q.onnx").exists()
    result = json.loads(outcome.out)
    assert result["output"] == "q.best.onnx"
    assert (tmp_path / "q.best.onnx").is_file()
    assert "more than --max-drop 1 after 0 s: the best file found is q.best.onnx" in outcome.err
    found = result["kept_layers"]
    assert found["timed_out"]
    assert {layer["sensitivity_db"] for layer in found["layers"]} == {None}
    assert found["exclude"] is None
    again = edgekit(*command, *CALIBRATED)
    assert again.status == 2
    assert "q.best.onnx: exists already" in again.err


def test_an_impossible_limit_ends_with_the_smallest_loss(
    edgekit: Command, awful: Path, tmp_path: Path
) -> None:
    onnx.save(network(3000.0, *SPOILT), awful)
    outcome = edgekit("quantize", awful, "-o", "q.onnx", *CALIBRATED, "--max-drop", 1)
    assert outcome.status == 1, outcome
    result = json.loads(outcome.out)
    found = result["kept_layers"]
    assert (found["met"], found["timed_out"]) == (False, False)
    points = {trial["kept"]: trial["points"] for trial in found["trials"]}
    assert list(points) == [0, 1, 2, 3]  # one layer of the four must be quantized
    lost = 100 * (result["drop"]["before"] - result["drop"]["after"])
    assert lost == pytest.approx(min(points.values()))
    assert lost > 1
    assert not (tmp_path / "q.onnx").exists()
    assert (tmp_path / "q.best.onnx").is_file()


@pytest.mark.parametrize("needed", range(1, 12))
def test_the_smallest_number_is_found_in_few_trials(needed: int) -> None:
    tried: list[int] = []

    def fits(count: int) -> bool:
        tried.append(count)
        return count >= needed

    assert fewest(10, fits, lambda: True)
    assert min((count for count in tried if count >= needed), default=11) == needed
    assert max(tried) <= 10
    assert len(set(tried)) == len(tried) <= 7


def test_the_time_is_looked_at_before_each_trial() -> None:
    tried: list[int] = []

    def fits(count: int) -> bool:
        tried.append(count)
        return False

    assert not fewest(1000, fits, lambda: len(tried) < 3)
    assert tried == [1, 2, 4]


def test_options_that_do_nothing_are_refused(refuses: Command, awful: Path) -> None:
    command = ("quantize", awful, "-o", "q.onnx")
    error = refuses(*command, *CALIBRATED, "--search-seconds", 5).err
    assert "--search-seconds has no effect without --max-drop" in error
    error = refuses(*command, *CALIBRATED, "--fallback", "int4").err
    assert "no fallback 'int4'" in error
    error = refuses(*command, "--precision", "fp16", "--fallback", "int16").err
    assert "--fallback int16 is for int8" in error
