"""No output of a command may replace what it reads or another output, with --force neither."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def in_scratch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "command",
    [
        ("optimize", "ext.onnx", "-o", "ext.bin"),
        ("quantize", "ext.onnx", "--precision", "fp16", "-o", "ext.bin"),
        ("quantize", "ext.onnx", "-o", "q.onnx", "--calib", "digits", "--calib-cache", "ext.bin"),
        (
            *("quantize", "ext.onnx", "-o", "q.onnx", "--calib", "digits"),
            *("--calibration-report", "ext.bin"),
        ),
        ("bench", "model.onnx", "ext.onnx", "--max-bytes", "1", "--junit", "ext.bin"),
    ],
    ids=lambda command: f"{command[0]} {command[-2]}",
)
def test_the_external_data_of_a_model(
    command: tuple[str, ...], refuses: Command, model: Path, tmp_path: Path
) -> None:
    onnx.save(
        onnx.load(model),
        "ext.onnx",
        save_as_external_data=True,
        location="ext.bin",
        size_threshold=0,
    )
    before = files(tmp_path)
    flag = "-o/--output" if command[-2] == "-o" else command[-2]
    reason = f"ext.bin: the output is also the input; choose another {flag}\n"
    assert refuses(*command, "--force").err.endswith(reason)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "command",
    [
        ("optimize", "model.onnx", "--data", "set.npz", "-o", "set.npz"),
        ("quantize", "model.onnx", "--calib", "set.npz", "-o", "set.npz"),
        (
            *("quantize", "model.onnx", "--calib", "digits", "-o", "set.npz"),
            *("--max-drop", "1", "--eval", "set.npz"),
        ),
        (
            *("quantize", "model.onnx", "--calib", "set.npz", "-o", "q.onnx"),
            *("--calib-cache", "set.npz"),
        ),
        (
            *("quantize", "model.onnx", "--calib", "set.npz", "-o", "q.onnx"),
            *("--calibration-report", "set.npz"),
        ),
        (
            *("bench", "model.onnx", "--data", "set.npz"),
            *("--min-accuracy", "0", "--junit", "set.npz"),
        ),
        ("export", "densenet-cifar10", "--data", "set.npz", "-o", "set.npz"),
    ],
    ids=lambda command: f"{command[0]} {command[-2]}",
)
def test_an_archive_of_images(
    command: tuple[str, ...], refuses: Command, model: Path, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 255, (20, 8, 8), dtype=np.uint8)
    labels = np.arange(20) % 10
    np.savez("set.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    before = files(tmp_path)
    assert "set.npz: the output is also the input" in refuses(*command, "--force").err
    assert files(tmp_path) == before
    assert model.is_file()


def test_the_baseline_of_a_comparison(refuses: Command, model: Path) -> None:
    Path("old.json").write_text("{}")
    gate = ("--max-bytes", 1, "--junit", "old.json", "--force")
    outcome = refuses("bench", model, "--baseline", "old.json", *gate)
    assert "old.json: the output is also the input" in outcome.err


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--calibration-report", "f.json", "--calib-cache", "f.json"), "--calib-cache"),
        (("--calibration-report", "f.json", "--calib-cache", "new/../f.json"), "--calib-cache"),
        (("--calib-cache", "q.onnx"), "--calib-cache"),
        (("--calibration-report", "q.onnx"), "--calibration-report"),
        (("--max-drop", "1", "--calib-cache", "q.best.onnx"), "--calib-cache"),
    ],
)
def test_one_file_for_two_outputs(
    flags: tuple[str, ...], named: str, refuses: Command, model: Path, tmp_path: Path
) -> None:
    before = files(tmp_path)
    outcome = refuses("quantize", model, "-o", "q.onnx", "--calib", "digits", *flags, "--force")
    assert f"is another output's own file; choose another {named}" in outcome.err
    assert files(tmp_path) == before
