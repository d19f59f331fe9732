"""An option without effect is refused, not ignored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
QUICK = ("--iterations", 1, "--warmup", 0, "--cold-starts", 0)


@pytest.fixture(autouse=True)
def in_scratch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGEKIT_DATA", raising=False)


@pytest.mark.parametrize(
    ("command", "idle", "needed"),
    [
        (("bench", "model.onnx"), ("--limit", "3"), "--data"),
        (("bench", "model.onnx"), ("--split", "test"), "--data"),
        (("bench", "model.onnx"), ("--mean", "0.4"), "--data"),
        (("bench", "model.onnx"), ("--std", "0.4"), "--data"),
        (("bench", "model.onnx"), ("--data-dir", "."), "--data"),
        (("bench", "model.onnx"), ("--download",), "--data"),
        (("bench", "model.onnx"), ("--force",), "--junit"),
        (("bench", "model.onnx"), ("--loadgen-seconds", "3"), "--loadgen"),
        (("inspect", "model.onnx"), ("--port", "99"), "--netron"),
        (("inspect", "model.onnx"), ("--no-browser",), "--netron"),
        (("optimize", "model.onnx", "-o", "o.onnx"), ("--download",), "--data"),
        (("optimize", "model.onnx", "-o", "o.onnx"), ("--data-dir", "."), "--data"),
        (
            ("quantize", "model.onnx", "-o", "o.onnx", "--precision", "fp16"),
            ("--data-dir", "."),
            "--calib or --eval",
        ),
        (
            ("quantize", "model.onnx", "-o", "o.onnx", "--calib", "digits"),
            ("--fallback", "int16"),
            "--exclude or --max-drop",
        ),
        (
            ("export", "densenet-cifar10", "-o", "o.onnx", "--no-optimize"),
            ("--batch-norm", "auto"),
            "--optimize",
        ),
        (
            ("optimize", "model.onnx", "-o", "o.onnx", "--no-verify"),
            ("--data", "digits"),
            "--verify or --pack",
        ),
        (
            ("optimize", "model.onnx", "-o", "o.onnx", "--passes", "fold-batch-norm"),
            ("--batch-norm", "threshold"),
            "turn-batch-norm-into-threshold among --passes",
        ),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else part,
)
def test_what_needs_another_option(
    command: tuple[str, ...], idle: tuple[str, ...], needed: str, refuses: Command, model: Path
) -> None:
    outcome = refuses(*command, *idle)
    assert f"{idle[0]} has no effect without {needed}; give both or none" in outcome.err
    assert not Path("o.onnx").exists()
    assert model.is_file()


def test_thresholds_are_for_kernels_that_take_them(refuses: Command, model: Path) -> None:
    idle = ("--kernels", "openvino", "--batch-norm", "threshold")
    outcome = refuses("quantize", model, "-o", "o.onnx", "--calib", "digits", *idle)
    assert "--batch-norm threshold: --kernels openvino has no thresholds" in outcome.err
    assert not Path("o.onnx").exists()


def test_the_same_where_it_has_an_effect(edgekit: Command, model: Path) -> None:
    optimize = ("optimize", model, "-o", "o.onnx", "--force")
    for options in (
        ("--no-verify", "--data", "digits", "--pack"),
        ("--no-verify", "--data", "digits", "--codebook", 4),
        ("--passes", "turn-batch-norm-into-threshold", "--batch-norm", "threshold"),
    ):
        outcome = edgekit(*optimize, *options)
        assert outcome.status == 0, outcome.err


def test_where_the_environment_keeps_data_is_no_option(
    edgekit: Command, refuses: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_DATA", "sets/")
    assert edgekit("bench", model, *QUICK).status == 0
    assert edgekit("optimize", model, "-o", "o.onnx").status == 0
    half = ("quantize", model, "-o", "q.onnx", "--precision", "fp16")
    assert edgekit(*half).status == 0
    assert "--data-dir has no effect" in refuses("bench", model, "--data-dir", "other").err


@pytest.mark.parametrize(
    "idle",
    [("--mask-bits", 2), ("--accumulator-bits", 16), ("--free-16-bits",)],
    ids=lambda idle: idle[0],
)
def test_what_is_counted_in_one_model_alone(
    idle: tuple[object, ...], refuses: Command, edgekit: Command, model: Path
) -> None:
    pair = ("inspect", "--before", model, "--after", model)
    shapes = ("--input-shape", "input:1,1,8,8")
    for given in (idle, shapes):
        assert f"{given[0]} is for one model: leave it out" in refuses(*pair, *given).err
    assert edgekit("inspect", model, *idle, *shapes).status == 0


def test_what_needs_two_models_or_another_form(refuses: Command, model: Path) -> None:
    alone = refuses("bench", model, "--data", "digits", "--signal-to-noise", 4, *QUICK)
    assert "--signal-to-noise compares with the first model: give two or more" in alone.err
    picture = refuses("report", "r.json", "-o", "r.png", "--calibration", "c.json")
    assert "--calibration is shown in html and md alone" in picture.err
    strict = refuses("inspect", "--before", model, "--after", model, "--strict")
    assert "--strict is for one model" in strict.err
    assert not strict.out
    twice = ("--input-shape", "x:1,1,8,8", "--input-shape", "x:2,1,8,8")
    assert "x has a shape already" in refuses("inspect", model, *twice).err


def test_bits_beyond_any_arithmetic_are_refused(refuses: Command, model: Path) -> None:
    for flag in ("--mask-bits", "--accumulator-bits"):
        assert flag in refuses("inspect", model, flag, "1" + "0" * 400).err
