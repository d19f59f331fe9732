"""`edgekit report` on what `edgekit bench` and `edgekit quantize` leave behind."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Edgekit = Callable[..., Any]


RESULTS: dict[str, Any] = {
    "schema_version": 1,
    "edgekit": "0.1.0",
    "machine": {"cpu": "Example CPU", "isa": [], "cores": 2, "onnxruntime": "1.32.0"},
    "settings": {"data": "digits", "split": "test", "threads": 1, "batch_size": 1},
    "models": [
        {
            "path": "model.onnx",
            "sha256": "0" * 64,
            "opset": 20,
            "precision": "fp32",
            "file_bytes": 5_000,
            "accuracy": {
                "correct": 9,
                "total": 10,
                "top1": 0.9,
                "ci95": [0.6, 0.98],
                "flips_vs_first": 0,
            },
            "params": {"total": 30, "nonzero": 20, "stored_bits": 960},
            "macs": {"dense": 600, "effective": 400, "uncounted_ops": []},
            "activations": {"peak_bytes": 400},
            "latency_ms": {"p50": 0.1, "p90": 0.2, "p99": 0.3, "mean": 0.1, "min": 0.1},
            "throughput_ips": 1e4,
            "peak_rss_bytes": None,
            "score": {"imt": 0.01, "micronet2019": 0.001},
        }
    ],
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """What an earlier bench wrote, without details."""
    path = tmp_path / "results.json"
    path.write_text(json.dumps(RESULTS))
    return path


@pytest.fixture
def measured(tmp_path: Path, edgekit: Edgekit, model: Path) -> Path:
    """A float and an int8 model beside each other, with a calibration report."""
    quantized, calibration = tmp_path / "int8.onnx", tmp_path / "calibration.json"
    calibrate = ("--calib", "digits", "--samples", 32, "--calibration-report", calibration)
    assert edgekit("quantize", model, *calibrate, "-o", quantized).status == 0
    path = tmp_path / "measured.json"
    limits = ("--limit", 50, "--warmup", 0, "--iterations", 2, "--signal-to-noise", 8)
    outcome = edgekit("bench", model, quantized, "--data", "digits", *limits, "--format", "json")
    assert outcome.status == 0, outcome.err
    path.write_text(outcome.out)
    return path


def test_results_become_a_page_markdown_and_a_picture(
    tmp_path: Path, edgekit: Edgekit, measured: Path
) -> None:
    page, text, picture = (tmp_path / f"report.{end}" for end in ("html", "md", "png"))
    calibration = tmp_path / "calibration.json"
    made = edgekit("report", measured, "-o", page, "--calibration", calibration, "--title", "A <b>")
    assert made.status == 0, made.err
    assert made.out == ""
    html = page.read_text()
    assert "<h1>A &lt;b&gt;</h1>" in html
    for section in ("models", "front", "layers", "noise", "mistakes", "calibration", "provenance"):
        assert f'<section id="{section}"' in html
    assert "http://" not in html.replace("http://www.w3.org/", "")
    assert edgekit("report", measured, "-o", text).status == 0
    assert "| `int8.onnx` | int8 |" in text.read_text()
    assert text.read_text().startswith("# Models side by side\n")
    titled = edgekit("report", measured, "-o", text, "--force", "--title", "Ours,\n# today")
    assert titled.status == 0, titled.err
    assert text.read_text().startswith("# Ours, # today\n")
    assert edgekit("report", measured, "-o", picture).status == 0
    with Image.open(picture) as image:
        assert image.width > 1000


def test_an_output_that_exists_needs_force(
    tmp_path: Path, edgekit: Edgekit, refuses: Edgekit, results: Path
) -> None:
    page = tmp_path / "report.html"
    page.write_text("mine")
    assert "--force" in refuses("report", results, "-o", page).err
    assert page.read_text() == "mine"
    assert edgekit("report", results, "-o", page, "--force").status == 0


def test_bad_input_is_one_line(tmp_path: Path, refuses: Edgekit, results: Path) -> None:
    page = tmp_path / "report.html"
    assert "no such file" in refuses("report", tmp_path / "absent.json", "-o", page).err
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(results.read_text()) | {"schema_version": 7}))
    assert "schema version 7" in refuses("report", results, other, "-o", page).err
    other.write_text("<html>")
    assert "not JSON" in refuses("report", other, "-o", page).err
    assert "calibration" in refuses("report", results, "-o", page, "--calibration", results).err
    assert "--format" in refuses("report", results, "-o", tmp_path / "report.doc").err
    assert "input" in refuses("report", results, "-o", results, "--force").err
    assert not page.exists()


def test_without_accuracy_its_plots_are_left_out(
    tmp_path: Path, edgekit: Edgekit, refuses: Edgekit, results: Path
) -> None:
    bare = json.loads(results.read_text())
    for one in bare["models"]:
        one["accuracy"] = one["confusion"] = None
    results.write_text(json.dumps(bare))
    page = tmp_path / "report.html"
    outcome = edgekit("report", results, "-o", page)
    assert outcome.status == 0
    assert "no accuracy in the results" in outcome.err
    assert "Left out for want of accuracy" in page.read_text()
    assert "needs accuracy" in refuses("report", results, "-o", tmp_path / "report.png").err


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_extra_is_named(
    tmp_path: Path,
    refuses: Edgekit,
    results: Path,
    package: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    page = tmp_path / "report.html"
    assert "edgekit[report]" in refuses("report", results, "-o", page).err
    assert not page.exists()


def test_a_precision_without_ranges_has_no_calibration_report(
    tmp_path: Path, refuses: Edgekit, model: Path
) -> None:
    report = ("--precision", "fp16", "--calibration-report", tmp_path / "calibration.json")
    error = refuses("quantize", model, "-o", tmp_path / "out.onnx", *report).err
    assert "fp16 chooses no ranges" in error
    same = ("--calib", "digits", "--calibration-report", tmp_path / "out.onnx")
    assert "own file" in refuses("quantize", model, "-o", tmp_path / "out.onnx", *same).err
    assert not (tmp_path / "out.onnx").exists()


def test_noise_without_images_is_refused(refuses: Edgekit, model: Path) -> None:
    assert "--data" in refuses("bench", model, "--signal-to-noise", 4).err
