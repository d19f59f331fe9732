from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def in_scratch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_was_tried_is_told_and_can_be_switched_off(edgekit: Command, model: Path) -> None:
    quantize = ("quantize", model, "--calib", "digits", "--samples", "64", "--format", "json")
    told = json.loads(edgekit(*quantize, "-o", "a.onnx", "--rounding", "adaptive").out)
    tried = told["report"]["settings"]["refinements"]
    assert [one["step"] for one in tried][-2:] == ["correct biases", "round adaptively"]
    off = ("--equalize", "off", "--bias-correction", "off")
    told = json.loads(edgekit(*quantize, "-o", "b.onnx", *off).out)
    assert "refinements" not in told["report"]["settings"]


def test_refinements_without_effect_are_refused(refuses: Command, model: Path) -> None:
    quantize = ("quantize", model, "-o", "q.onnx")
    assert "int8 and int16" in refuses(*quantize, "--precision", "fp16", "--equalize", "on").err
    timed = ("--calib", "digits", "--rounding-seconds", "5")
    assert "--rounding adaptive" in refuses(*quantize, *timed).err
