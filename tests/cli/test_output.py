"""What is shown: names as they are, each warning once, nothing cut off, nothing made up."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from PIL import Image

from edgekit.runtime.preprocessing import Preprocessing
from edgekit.train.checkpoint import Checkpoint, save_checkpoint
from edgekit.train.models.table import build_model

Edgekit = Callable[..., Any]

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
pets (float[batch, 3, 4, 4] input) => (float[batch, 2] logits)
{
    pooled = GlobalAveragePool(input)
    flat = Flatten(pooled)
    logits = Gemm<transB = 1>(flat, weight)
}
"""


def network(path: Path, weight: float = 1.0, metadata: dict[str, str] | None = None) -> Path:
    model = onnx.parser.parse_model(NETWORK)
    values = np.full((2, 3), weight, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "weight"))
    for node in model.graph.node:
        node.name = f"[/red]{node.op_type}[bold]"
    onnx.helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for shade in (10, 200):
            Image.new("RGB", (4, 4), (shade, 9, 90)).save(tmp_path / f"pets/{name}/{shade}.png")
    return tmp_path / "pets"


def test_brackets_in_names_are_shown_not_obeyed(edgekit: Edgekit, tmp_path: Path) -> None:
    result = edgekit("inspect", network(tmp_path / "m.onnx"))
    assert result.status == 0
    assert "[/red]Gemm[bold]" in result.out


def test_names_do_not_steer_the_terminal(edgekit: Edgekit, tmp_path: Path) -> None:
    model = onnx.load(network(tmp_path / "m.onnx"))
    model.graph.node[0].name = "before\x1b[31mafter"
    onnx.save(model, tmp_path / "escapes.onnx")
    result = edgekit("inspect", tmp_path / "escapes.onnx")
    assert result.status == 0
    assert "\x1b" not in result.out
    assert "before\N{REPLACEMENT CHARACTER}[31mafter" in result.out


def test_a_message_is_one_line_whatever_a_name_holds(edgekit: Edgekit, tmp_path: Path) -> None:
    result = edgekit("inspect", tmp_path / "no\nsuch\x1b[31m.onnx")
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert "\x1b" not in result.err


def test_a_warning_that_holds_for_many_models_is_given_once(
    edgekit: Edgekit, tmp_path: Path, pets: Path
) -> None:
    models = [network(tmp_path / f"{name}.onnx") for name in "ab"]
    result = edgekit("bench", *models, "--data", pets, "--iterations", 1, "--warmup", 0)
    assert result.status == 0
    assert result.err.count("warning:") == 1


def test_a_bench_on_a_narrow_terminal_loses_nothing(
    edgekit: Edgekit, tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(tmp_path / "a.onnx")
    command = ("bench", model, model, "--data", pets, "--iterations", 1, "--warmup", 0)
    wide = edgekit(*command).out
    monkeypatch.setenv("COLUMNS", "60")
    narrow = edgekit(*command).out
    assert max(map(len, narrow.splitlines())) <= 60
    assert "…" not in narrow
    assert narrow.count("50.00% (15.0% to 85.0%)") == wide.count("50.00% (15.0% to 85.0%)") == 2


def test_predict_refuses_numbers_that_are_none(
    edgekit: Edgekit, tmp_path: Path, pets: Path
) -> None:
    model = network(tmp_path / "m.onnx", weight=float("nan"))
    result = edgekit("predict", model, pets / "cat" / "10.png", "--format", "json")
    assert result.status == 2
    assert "not finite" in result.err


def test_predict_refuses_names_that_do_not_fit_the_outputs(
    edgekit: Edgekit, tmp_path: Path, pets: Path
) -> None:
    names = Preprocessing(4, 4, (0.5,) * 3, (0.2,) * 3, ("only",)).to_metadata()
    model = network(tmp_path / "m.onnx", metadata=names)
    result = edgekit("predict", model, pets / "cat" / "10.png")
    assert result.status == 2
    assert "has 2 outputs but names 1 classes" in result.err


@pytest.mark.parametrize("command", [("quantize", "--precision", "fp16"), ("optimize",)])
def test_a_conversion_tells_and_carries_the_normalization_that_it_was_given(
    edgekit: Edgekit, tmp_path: Path, model: Path, command: tuple[str, ...]
) -> None:
    output = tmp_path / "half.onnx"
    given = (*command, model, "--mean", 0.25, "--std", 0.5, "-o", output)
    assert re.search(r"mean +0\.25\s+deviation +0\.5", edgekit(*given).out)
    told = json.loads(edgekit(*given, "--force", "--format", "json").out)
    assert told["normalization"] == {"mean": [0.25], "std": [0.5]}
    recorded = {entry.key: entry.value for entry in onnx.load(output).metadata_props}
    assert recorded["edgekit.mean"] == "[0.25]"
    assert recorded["edgekit.std"] == "[0.5]"


def test_export_says_which_data_it_looked_for_and_how_to_name_it(
    edgekit: Edgekit, tmp_path: Path
) -> None:
    digits = Preprocessing(8, 8, (0.3,), (0.37,), tuple("0123456789"))
    options = {"blocks": [1], "growth": 4, "stem_width": 8}
    network = build_model("densenet", options, in_channels=1, num_classes=10)
    state = network.state_dict()
    checkpoint = Checkpoint("densenet", options, 1, 10, digits, "my/scans", "", state)
    save_checkpoint(checkpoint, tmp_path / "m.safetensors")
    result = edgekit("export", tmp_path / "m.safetensors", "-o", tmp_path / "m.onnx")
    assert result.status == 2
    assert "my/scans" in result.err
    assert "--data" in result.err


@pytest.mark.parametrize("form", ["table", "json"])
def test_names_that_standard_output_cannot_encode_are_escaped(
    edgekit: Edgekit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, image: Path, form: str
) -> None:
    metadata = Preprocessing(4, 4, (0.0,) * 3, (1.0,) * 3, ("\u72ac", "\U0001f408")).to_metadata()
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))
    path = network(tmp_path / "m.onnx", metadata=metadata)
    assert edgekit("predict", path, image, "--format", form).status == 0
    sys.stdout.flush()
    found = written.getvalue().decode("cp1252")
    if form == "json":
        (only,) = json.loads(found)
        assert set(only["classes"]) == {"\u72ac", "\U0001f408"}
    else:
        assert "\\u72ac" in found
        assert "\\U0001f408" in found


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_reader_that_stops_is_no_error(tmp_path: Path, form: str) -> None:
    command = [sys.executable, "-m", "edgekit", "inspect", network(tmp_path / "m.onnx")]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*command, "--format", form], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
