"""What `edgekit quantize` says of its calibration: cache, warnings, overlap, agreement."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit.export.constant_changes import to_text
from edgekit.runtime.data.load import load_split

Quantize = Callable[..., dict[str, Any]]


def uneven_channels(model: Path) -> None:
    """Make a channel reach so far that equalization helps, in place."""
    uneven = onnx.load(model)
    for tensor in uneven.graph.initializer:
        if tensor.name in ("conv_weight", "conv_bias"):
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[0] *= 300
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(uneven, model)


# What runs a model on calibration data, where it is used; and what a cache must not change.
STEPS = (
    "edgekit.export.calibrators.table.observe",
    "edgekit.export.static.try_equalization",
    "edgekit.export.static.choose_method",
    "edgekit.export.static.refine",
    "edgekit.commands.calibrating.agreement",
)
KEPT = ("bytes", "report", "agreement", "warnings")


@pytest.fixture
def quantize(edgekit: Any, model: Path, tmp_path: Path) -> Quantize:
    """Quantize the model and return what is told as JSON, with standard error under `said`."""

    def run(*arguments: object, status: int = 0) -> dict[str, Any]:
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}.onnx"
        outcome = edgekit("quantize", model, "-o", output, *arguments, "--format", "json")
        assert outcome.status == status, outcome
        told: dict[str, Any] = json.loads(outcome.out)
        return {**told, "said": outcome.err, "bytes": output.read_bytes()}

    return run


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Digits whose first 30 test images are training images."""
    train, test = load_split("digits", "train"), load_split("digits", "test")
    images = train.images.read(np.arange(400)), test.images.read(np.arange(100))
    images[1][:30] = images[0][:30]
    path = tmp_path / "mixed.npz"
    np.savez(
        path,
        x_train=images[0],
        y_train=train.labels[:400],
        x_test=images[1],
        y_test=test.labels[:100],
    )
    return path


@pytest.mark.parametrize("method", ["percentile", "auto"])
def test_a_cache_makes_the_same_model_without_a_run_on_calibration_data(
    quantize: Quantize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    cache = tmp_path / "ranges.json"
    arguments = ("--calib", "digits", "--method", method, "--calib-cache", cache)
    first = quantize(*arguments)
    assert first["calibration_cache"] == {"path": str(cache), "reused": False}
    content = json.loads(cache.read_text())
    manifest = content["manifest"]
    assert manifest["samples"] == len(manifest["sample_hashes"]) == 512
    assert sum(manifest["classes"].values()) == 512
    before = cache.read_bytes()
    with monkeypatch.context() as nothing_runs:
        for step in STEPS:
            nothing_runs.setattr(step, lambda *_, **__: pytest.fail("ran on calibration data"))
        again = quantize(*arguments)
    assert again["calibration_cache"] == {"path": str(cache), "reused": True}
    assert [again[key] for key in KEPT] == [first[key] for key in KEPT]
    assert cache.read_bytes() == before
    for found in content["models"].values():
        found["ranges"] = {
            name: [low / 9, high / 9] for name, (low, high) in found["ranges"].items()
        }
    cache.write_text(json.dumps(content))
    assert quantize(*arguments)["bytes"] != first["bytes"]


def test_a_cache_learns_what_other_refinements_find(quantize: Quantize, tmp_path: Path) -> None:
    arguments = ("--calib", "digits", "--calib-cache", tmp_path / "ranges.json")
    sizes = []
    for rounding in ("nearest", "adaptive", "adaptive", "nearest"):
        refined = ("--equalize", "off", "--rounding", rounding)
        found = quantize(*arguments, *refined)
        assert found["calibration_cache"]["reused"] is bool(sizes)
        assert found["bytes"] == quantize("--calib", "digits", *refined)["bytes"]
        sizes.append((tmp_path / "ranges.json").stat().st_size)
    assert sizes[0] < sizes[1] == sizes[2] == sizes[3]


def damage(found: dict[str, Any], kind: str) -> None:
    """Change a calibration cache's findings in place."""
    refined = next(one for one in found.values() if "changes" in one)
    equalized = next(one for one in found.values() if "scaling" in one)
    agreed = next(one for one in found.values() if "top1" in one)
    match kind:
        case "step":
            del refined["trials"][0]["step"]
        case "ratio":
            refined["trials"][0]["before_db"] = "x"
        case "bytes":
            refined["changes"] = dict.fromkeys(refined["changes"], "AAAA")
        case "name":
            refined["changes"] = {"no such constant": next(iter(refined["changes"].values()))}
        case "scales":
            equalized["scaling"]["scales"] = to_text(np.ones(3).tobytes())
        case "count":
            equalized["scaling"]["count"] = float("inf")
        case "top1":
            agreed["top1"] = "x"


@pytest.mark.parametrize("kind", ["step", "ratio", "bytes", "name", "scales", "count", "top1"])
def test_a_cache_whose_findings_are_damaged_is_refused_and_replaced_when_told(
    quantize: Quantize, refuses: Any, model: Path, tmp_path: Path, kind: str
) -> None:
    cache, output = tmp_path / "ranges.json", tmp_path / "new.onnx"
    uneven_channels(model)
    first = quantize("--calib", "digits", "--calib-cache", cache)
    content = json.loads(cache.read_text())
    damage(content["findings"], kind)
    cache.write_text(json.dumps(content))
    before = cache.read_bytes()
    command = ("quantize", model, "-o", output, "--calib", "digits", "--calib-cache", cache)
    assert "no file that --calib-cache wrote" in refuses(*command).err
    assert cache.read_bytes() == before
    assert not output.exists()
    again = quantize("--calib", "digits", "--calib-cache", cache, "--force")
    assert [again[key] for key in KEPT] == [first[key] for key in KEPT]
    assert cache.read_bytes() != before
    quantize("--calib", "digits", "--calib-cache", cache)


def test_findings_of_another_processor_are_not_taken(
    quantize: Quantize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "ranges.json"
    quantize("--calib", "digits", "--calib-cache", cache)
    own = json.loads(cache.read_text())["findings"]
    monkeypatch.setattr("edgekit.commands.calibrating._kernels", lambda: "another:")
    found = quantize("--calib", "digits", "--calib-cache", cache)
    assert found["calibration_cache"]["reused"]
    both = json.loads(cache.read_text())["findings"]
    assert {key for key in both if not key.startswith("another: ")} == set(own)
    assert len(both) == 2 * len(own)


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (("--seed", 1), "seed"),
        (("--samples", 300), "samples"),
        (("--method", "mse"), "method"),
        (("--mean", "0.1", "--std", "1"), "preprocessing"),
    ],
)
def test_a_stale_cache_is_refused_and_replaced_when_told(
    quantize: Quantize, refuses: Any, model: Path, tmp_path: Path, change: Any, differs: str
) -> None:
    cache, output = tmp_path / "ranges.json", tmp_path / "new.onnx"
    quantize("--calib", "digits", "--calib-cache", cache)
    before = cache.read_bytes()
    stale = ("quantize", model, "-o", output, "--calib", "digits", "--calib-cache", cache, *change)
    outcome = refuses(*stale)
    assert f"otherwise: {differs}" in outcome.err
    assert not output.exists()
    assert cache.read_bytes() == before
    quantize("--calib", "digits", "--calib-cache", cache, *change, "--force")
    assert cache.read_bytes() != before


def test_a_cache_goes_with_calibration_and_is_no_model(
    refuses: Any, model: Path, tmp_path: Path
) -> None:
    output, cache = tmp_path / "new.onnx", tmp_path / "ranges.json"
    command = ("quantize", model, "-o", output, "--calib-cache")
    assert "--calib" in refuses(*command, cache).err
    for path in (model, output):
        assert "choose another" in refuses(*command, path, "--calib", "digits").err
    idle = (*command, cache, "--calib", "digits", "--precision", "fp16")
    assert "chooses no ranges" in refuses(*idle).err
    assert not cache.exists()
    assert not output.exists()


def test_evaluation_on_calibration_images_is_told(quantize: Quantize, archive: Path) -> None:
    limits = ("--max-drop", 100, "--eval", archive)
    found = quantize("--calib", archive, "--samples", 400, *limits)
    (warning,) = found["warnings"]
    assert warning.startswith("30 of 100 evaluation images of ")
    assert f"warning: {warning}" in found["said"]
    few = quantize("--calib", "digits", *limits)["warnings"]
    assert len(few) <= 1  # some of the thirty may be among digits' own 512
    assert quantize("--calib", "digits", "--max-drop", 100, "--eval", "digits")["warnings"] == []


def test_doubtful_calibration_is_told(quantize: Quantize) -> None:
    found = quantize("--calib", "digits", "--samples", 40)
    assert found["warnings"] == ["40 calibration samples are few; give 100 or more --samples"]
    assert "warning: 40 calibration samples are few" in found["said"]
    assert quantize("--calib", "digits")["said"] == ""


@pytest.mark.parametrize("precision", ["int8", "int16"])
def test_agreement_is_measured_on_images_that_calibration_left(
    quantize: Quantize, precision: str
) -> None:
    found = quantize("--calib", "digits", "--precision", precision)["agreement"]
    assert (found["samples"], found["held_out"]) == (256, True)
    assert found["top1"] > 0.9
    assert found["snr_db"] > 20
    assert set(found) == {"samples", "held_out", "top1", "snr_db"}


def test_agreement_is_measured_on_calibration_images_where_no_others_are(
    edgekit: Any, model: Path, archive: Path, tmp_path: Path
) -> None:
    output = tmp_path / "new.onnx"
    command = ("quantize", model, "-o", output, "--calib", archive, "--samples", 400)
    outcome = edgekit(*command)
    assert "on 400 calibration images, as none are left" in outcome.out


def test_a_calibration_report_tells_of_the_values_that_were_calibrated(
    quantize: Quantize, model: Path, tmp_path: Path
) -> None:
    uneven_channels(model)
    path = tmp_path / "report.json"
    found = quantize("--calib", "digits", "--calibration-report", path)
    steps = found["report"]["settings"]["refinements"]
    assert [step["kept"] for step in steps if step["step"] == "equalize"] == [True]
    for tensor in json.loads(path.read_text())["tensors"]:
        assert tensor["outside"] == 0
        assert tensor["largest"] > tensor["high"] / 2


def test_what_calibrates_nothing_has_no_agreement(quantize: Quantize) -> None:
    found = quantize("--precision", "fp16")
    assert (found["agreement"], found["warnings"]) == (None, [])
