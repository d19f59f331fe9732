"""`edgekit quantize --target`: signs and ranges for a processor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekit.bench.saturation import audit
from edgekit.commands.target import TargetChoice
from edgekit.export.graph import from_proto
from edgekit.export.targets import TARGETS

Command = Callable[..., Any]


@pytest.fixture
def quantized(edgekit: Command, model: Path, tmp_path: Path) -> Callable[..., tuple[Any, Any]]:
    """Quantize the small network; returns the outcome and the model."""

    def run(*options: str) -> tuple[Any, onnx.ModelProto]:
        output = tmp_path / "q.onnx"
        command = ("quantize", model, "-o", output, "--samples", "64", "--force")
        outcome = edgekit(*command, "--calib", "digits", "--format", "json", *options)
        assert outcome.status == 0, outcome.err
        return outcome, onnx.load(output)

    return run


def settings(model: onnx.ModelProto) -> dict[str, Any]:
    (text,) = (p.value for p in model.metadata_props if p.key == "edgekit.calibration")
    return dict(json.loads(text))


def largest_weight(model: onnx.ModelProto) -> int:
    arrays = [numpy_helper.to_array(t) for t in model.graph.initializer]
    return max(
        int(np.abs(a.astype(int)).max()) for a in arrays if a.dtype == np.int8 and a.ndim > 1
    )


def input_type(model: onnx.ModelProto) -> np.dtype[Any]:
    quantize = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    zero = next(t for t in model.graph.initializer if t.name == quantize.input[2])
    return numpy_helper.to_array(zero).dtype


def test_avx2_gets_weights_that_cannot_overflow(quantized: Command) -> None:
    outcome, model = quantized("--target", "avx2")
    assert largest_weight(model) <= 64
    found = audit(from_proto(model))
    assert found.checked == 2
    assert found.layers == ()
    assert (settings(model)["target"], settings(model)["weight_bits"]) == ("avx2", 7)
    assert json.loads(outcome.out)["report"]["settings"]["target"] == "avx2"
    assert "overflow" not in outcome.err


def test_vnni_gets_the_full_range(quantized: Command) -> None:
    outcome, model = quantized("--target", "avx512-vnni")
    assert largest_weight(model) == 127
    assert input_type(model) == np.uint8
    assert settings(model)["weight_bits"] == 8
    assert "overflow" not in outcome.err  # it cannot, there


def test_arm_gets_signed_activations(quantized: Command) -> None:
    _, model = quantized("--target", "arm64")
    assert input_type(model) == np.int8
    assert settings(model)["activations"] == "QInt8"


def test_a_full_range_on_avx2_is_warned_of_in_one_line(quantized: Command) -> None:
    outcome, model = quantized("--target", "avx2", "--no-reduce-range")
    assert largest_weight(model) == 127
    (warning,) = [line for line in outcome.err.splitlines() if "overflow" in line]
    overflowing = audit(from_proto(model)).overflowing
    assert overflowing >= 1
    assert warning.startswith(f"warning: {overflowing} of 2 layers can overflow on AVX2")


def test_the_range_is_reduced_for_any_target_on_request(quantized: Command) -> None:
    _, model = quantized("--target", "avx512-vnni", "--reduce-range")
    assert largest_weight(model) <= 64
    assert settings(model)["weight_bits"] == 7


def test_int16_computes_in_floats_and_keeps_8_bits_on_any_processor(
    quantized: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.commands.target.machine_target", lambda _isa: "avx2")
    _, model = quantized("--precision", "int16")
    assert largest_weight(model) == 127
    assert settings(model)["weight_bits"] == 8
    assert "target" not in settings(model)


def test_auto_is_this_machine(quantized: Command) -> None:
    _, model = quantized()
    assert settings(model)["target"] == TargetChoice().resolved()
    assert TargetChoice("auto").resolved() in TARGETS


def test_dynamic_quantization_keeps_to_seven_bits_too(
    edgekit: Command, model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "d.onnx"
    for target, overflows in (("avx2", False), ("avx512-vnni", True)):
        command = ("quantize", model, "-o", output, "--precision", "dynamic-int8", "--force")
        assert edgekit(*command, "--target", target).status == 0
        written = onnx.load(output)
        assert "kernels" not in settings(written)
        found = audit(from_proto(written))
        assert found.checked >= 1
        assert bool(found.overflowing) is overflows


@pytest.mark.parametrize(
    ("options", "recorded"),
    [
        ((), "fast"),
        (("--kernels", "keep"), "keep"),
        (("--kernels", "openvino"), "openvino"),
        (("--precision", "int16"), "keep"),
    ],
)
def test_the_kernels_that_shapes_were_made_for_are_recorded(
    quantized: Command, options: tuple[str, ...], recorded: str
) -> None:
    _, model = quantized(*options)
    assert settings(model)["kernels"] == recorded


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        (("--precision", "int16", "--kernels", "openvino"), "--kernels is for int8"),
        (("--precision", "fp16", "--kernels", "fast"), "--kernels is for int8"),
        (("--precision", "int16", "--batch-norm", "keep"), "--batch-norm is for int8"),
        (("--precision", "int8", "--half-io"), "--half-io is for fp16"),
        (("--precision", "fp16-storage", "--keep-io"), "--keep-io is for fp16"),
    ],
)
def test_an_option_of_another_precision_is_refused(
    refuses: Command, model: Path, tmp_path: Path, options: tuple[str, ...], meant: str
) -> None:
    command = ("quantize", model, "-o", tmp_path / "o.onnx", "--calib", "digits")
    outcome = refuses(*command, *options)
    assert f"{meant}: leave it out with {options[1]}" in outcome.err


@pytest.mark.parametrize(
    "idle", [("--method", "entropy"), ("--max-drop", "1", "--search-seconds", "9")]
)
def test_what_is_done_for_codes_alone_is_refused_with_halves(
    refuses: Command, model: Path, tmp_path: Path, idle: tuple[str, ...]
) -> None:
    output = tmp_path / "o.onnx"
    command = ("quantize", model, "-o", output, "--precision", "fp16", "--calib", "digits")
    assert f"edgekit: {idle[-2]}: fp16 " in refuses(*command, *idle).err
    assert not output.exists()


def test_targets_of_other_precisions_and_unknown_ones_are_refused(
    refuses: Command, model: Path, tmp_path: Path
) -> None:
    command = ("quantize", model, "-o", tmp_path / "q.onnx", "--calib", "digits")
    outcome = refuses(*command, "--precision", "fp16", "--target", "avx2")
    assert "--target has no effect on fp16" in outcome.err
    outcome = refuses(*command, "--precision", "int16", "--no-reduce-range")
    assert "--reduce-range has no effect" in outcome.err
    outcome = refuses(*command, "--target", "sse9")
    assert "avx2, avx512-vnni, arm64, auto" in outcome.err
    assert not (tmp_path / "q.onnx").exists()
