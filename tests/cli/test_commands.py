"""Commands from file to file on a small network."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit.runtime.accuracy import Accuracy, evaluate
from edgekit.runtime.data.load import load_split
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.runtime.session import open_session

DIGITS = Preprocessing(8, 8, (0.3,), (0.37,), tuple("0123456789"))
ROOT = Path(__file__).parents[2]
Command = Callable[..., Any]

BENCH_KEYS = {
    "path",
    "sha256",
    "opset",
    "precision",
    "file_bytes",
    "accuracy",
    "params",
    "macs",
    "activations",
    "latency_ms",
    "throughput_ips",
    "peak_rss_bytes",
    "score",
}


@pytest.fixture(autouse=True)
def in_scratch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_optimize_folds_and_reports(edgekit: Command, model: Path, tmp_path: Path) -> None:
    outcome = edgekit("optimize", model, "-o", "smaller.onnx", "--data", "digits")
    assert outcome.status == 0, outcome.err
    operators = [node.op_type for node in onnx.load(tmp_path / "smaller.onnx").graph.node]
    assert "BatchNormalization" not in operators
    assert "fold-batch-norm" in outcome.out
    assert "8 images of digits" in outcome.out
    assert stored(tmp_path / "smaller.onnx")["edgekit.verified_on"] == "8 images of digits"


def stored(path: Path) -> dict[str, str]:
    """The metadata of a file."""
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_optimize_as_json_has_every_pass_and_refusal(edgekit: Command, model: Path) -> None:
    outcome = edgekit("optimize", model, "-o", "smaller.onnx", "--format", "json")
    report = json.loads(outcome.out)["report"]
    folded = next(step for step in report["steps"] if step["name"] == "fold-batch-norm")
    assert (folded["changed"], folded["refusals"]) == (1, [])
    assert 0 <= folded["max_error"] <= report["tolerance"]


def test_optimize_runs_the_passes_that_are_named(
    edgekit: Command, model: Path, tmp_path: Path
) -> None:
    assert edgekit("optimize", model, "-o", "o.onnx", "--passes", "remove-identities").status == 0
    operators = [node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node]
    assert "BatchNormalization" in operators


def test_list_passes_needs_no_model(edgekit: Command) -> None:
    outcome = edgekit("optimize", "--list-passes")
    assert outcome.status == 0
    assert "fold-batch-norm" in outcome.out


@pytest.mark.parametrize("precision", ["int8", "int16", "dynamic-int8", "fp16", "fp16-storage"])
def test_quantize_writes_every_precision(
    precision: str, edgekit: Command, model: Path, tmp_path: Path
) -> None:
    edgekit("optimize", model, "-o", "smaller.onnx")
    outcome = edgekit(
        *("quantize", "smaller.onnx", "-o", "small.onnx", "--precision", precision),
        *("--calib", "digits", "--samples", 64, "--format", "json"),
    )
    assert outcome.status == 0, outcome.err
    report = json.loads(outcome.out)["report"]
    assert report["precision"] == precision
    assert sum(report["converted"].values()) > 0
    keys = stored(tmp_path / "small.onnx").keys()
    assert {"edgekit.mean", "edgekit.precision", "edgekit.passes"} <= keys


@pytest.mark.parametrize("command", [("optimize",), ("quantize", "--precision", "fp16")])
def test_sizes_count_external_data(
    command: tuple[str, ...], edgekit: Command, model: Path, tmp_path: Path
) -> None:
    proto = onnx.load(model)
    onnx.save(proto, "ext.onnx", save_as_external_data=True, location="ext.bin", size_threshold=0)
    outcome = edgekit(*command, "ext.onnx", "-o", "o.onnx", "--format", "json")
    found = json.loads(outcome.out)
    parts = [(tmp_path / name).stat().st_size for name in ("ext.onnx", "ext.bin")]
    assert found["bytes_before"] == sum(parts)
    assert found["bytes_after"] == (tmp_path / "o.onnx").stat().st_size


@pytest.mark.parametrize("precision", ["int8", "fp16-storage"])
def test_a_conversion_that_converts_nothing_is_no_such_model(
    precision: str, edgekit: Command, model: Path
) -> None:
    plain = ("quantize", model, "--precision", precision, "--calib", "digits", "--samples", 100)
    said = f"warning: no node was converted to {precision}: see what --exclude matches\n"
    for name, exclude, told, found in (
        ("all.onnx", (), 0, precision),
        ("none.onnx", ("--exclude", "."), 1, "fp32"),
    ):
        outcome = edgekit(*plain, *exclude, "-o", name)
        assert (outcome.status, outcome.err.count(said)) == (0, told), outcome
        inspected = json.loads(edgekit("inspect", name, "--format", "json").out)
        assert inspected["precision"] == found


def linear_classifier(outlier: float) -> onnx.ModelProto:
    """Digits by least squares, with an unused feature `outlier` times as large as the others."""
    train = load_split("digits", "train")
    pixels = DIGITS(train.images.read(np.arange(len(train)))).reshape(len(train), 64)
    weight = np.linalg.lstsq(pixels, np.eye(10)[train.labels] - 0.1, rcond=None)[0]
    features = np.concatenate([np.eye(64), outlier * np.eye(64)[:, 20:21]], axis=1)
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        linear (float[batch, 1, 8, 8] input) => (float[batch, 10] logits)
        { flat = Flatten(input) wide = Gemm(flat, features) logits = Gemm(wide, weight) }"""
    )
    arrays = {"features": features, "weight": np.concatenate([weight, np.zeros((1, 10))])}
    for name, array in arrays.items():
        tensor = onnx.numpy_helper.from_array(array.astype(np.float32), name)
        model.graph.initializer.append(tensor)
    onnx.helper.set_model_props(model, DIGITS.to_metadata())
    return model


def test_quantize_writes_nothing_when_accuracy_drops_too_far(
    edgekit: Command, tmp_path: Path
) -> None:
    limits = ("--calib", "digits", "--samples", 64, "--max-drop", 2)
    onnx.save(linear_classifier(outlier=1.0), tmp_path / "sane.onnx")
    onnx.save(linear_classifier(outlier=1e5), tmp_path / "wild.onnx")
    held_out = edgekit("quantize", "sane.onnx", "-o", "a.onnx", *limits)
    assert held_out.status == 0, held_out.err
    assert "1283 images of digits (train)" in held_out.out
    tested = edgekit("quantize", "sane.onnx", "-o", "b.onnx", *limits, "--eval", "digits")
    assert "450 images of digits (test)" in tested.out
    failed = edgekit("quantize", "wild.onnx", "-o", "c.onnx", *limits)
    assert failed.status == 1
    assert "more than --max-drop 2" in failed.err
    assert not (tmp_path / "c.onnx").exists()


def test_bench_fails_below_a_stated_accuracy_after_its_table(edgekit: Command, model: Path) -> None:
    command = ("bench", model, "--data", "digits", "--iterations", 5)
    outcome = edgekit(*command, "--min-accuracy", 0.99)
    assert outcome.status == 1
    assert "model.onnx" in outcome.out
    assert "--min-accuracy 0.99" in outcome.err
    assert edgekit(*command, "--min-accuracy", 0.0).status == 0


def test_bench_json_holds_the_contract(edgekit: Command, model: Path) -> None:
    outcome = edgekit("bench", model, "--data", "digits", "--iterations", 5, "--format", "json")
    report = json.loads(outcome.out)
    assert report["schema_version"] == 1
    assert {"cpu", "isa", "cores", "onnxruntime"} <= report["machine"].keys()
    settings = report["settings"]
    assert (settings["data"], settings["split"], settings["iterations"]) == ("digits", "test", 5)
    (row,) = report["models"]
    assert row.keys() >= BENCH_KEYS
    assert row["accuracy"]["total"] == 450
    assert row["params"]["total"] == 4 * 9 + 4 + 4 * 4 + 640 + 10
    assert row["macs"]["dense"] == 4 * 9 * 64 + 640


def test_dynamic_models_are_measured_one_image_at_a_time(
    edgekit: Command, model: Path, tmp_path: Path
) -> None:
    edgekit("quantize", model, "-o", "d.onnx", "--precision", "dynamic-int8")
    split = load_split("digits", "test")
    session = open_session(tmp_path / "d.onnx")
    alone = evaluate(session, DIGITS, split, batch_size=1)
    together = evaluate(session, DIGITS, split, batch_size=256)
    assert alone.flips(together) > 0  # or the test could not fail
    outcome = edgekit("bench", "d.onnx", "--data", "digits", "--iterations", 2, "--format", "json")
    (row,) = json.loads(outcome.out)["models"]
    assert row["confusion"]["matrix"] == confusion_of(alone)


def confusion_of(result: Accuracy) -> list[list[int]]:
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (result.labels, result.predictions), 1)
    return matrix.tolist()


def test_help_answers_within_half_a_second() -> None:
    def processor_seconds() -> float:
        """Of all children so far: unlike the clock, no matter what else the machine does."""
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    seconds = []
    for _ in range(3):
        start = processor_seconds()
        subprocess.run([sys.executable, "-m", "edgekit", "--help"], check=True, capture_output=True)
        seconds.append(processor_seconds() - start)
    assert min(seconds) < 0.5


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing torch raises."""
    trap = tmp_path / "trap"
    for name in ("torch", "torchvision", "lightning"):
        (trap / name).mkdir(parents=True)
        (trap / name / "__init__.py").write_text("raise RuntimeError('torch was imported')\n")
    return {**os.environ, "PYTHONPATH": str(trap)}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("inspect", "model.onnx"),
        ("quantize", "model.onnx", "--calib", "digits", "-o", "q.onnx"),
        ("bench", "model.onnx", "--data", "digits", "--iterations", "2"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_of_the_device_run_without_torch(
    arguments: tuple[str, ...], model: Path, without_torch: dict[str, str]
) -> None:
    trap = subprocess.run([sys.executable, "-c", "import torch"], env=without_torch)
    assert trap.returncode != 0
    result = subprocess.run(
        [sys.executable, "-m", "edgekit", *arguments],
        cwd=model.parent,
        env=without_torch,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def test_export_from_a_checkpoint(edgekit: Command, tmp_path: Path) -> None:
    import torch

    from edgekit.runtime.preprocessing import Preprocessing
    from edgekit.train.checkpoint import Checkpoint, save_checkpoint
    from edgekit.train.models.table import build_model

    options = {"blocks": [2], "growth": 4, "stem_width": 8}
    torch.manual_seed(0)
    module = build_model("densenet", options, in_channels=1, num_classes=10)
    checkpoint = Checkpoint(
        architecture="densenet",
        options=options,
        in_channels=1,
        num_classes=10,
        preprocessing=Preprocessing(8, 8, (0.3,), (0.37,), tuple("0123456789")),
        data="digits",
        recipe="",
        state=module.state_dict(),
    )
    save_checkpoint(checkpoint, tmp_path / "net.safetensors")
    outcome = edgekit("export", "net.safetensors", "-o", "net.onnx", "--format", "json")
    assert outcome.status == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["parity"]["samples"] == 256
    assert result["parity"]["top1_agreement"] == 1.0
    settings = json.loads(stored(tmp_path / "net.onnx")["edgekit.export"])
    assert settings == {"opset": 20, "data": "digits", "samples": 256}
    content = (tmp_path / "net.onnx").read_bytes()
    assert str(ROOT).encode() not in content
    assert str(tmp_path).encode() not in content
