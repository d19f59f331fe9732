from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageColor

from edgekit.bench.figures import Figures
from edgekit.bench.latency import Latency
from edgekit.bench.machine import Machine
from edgekit.bench.report.front import pareto_front, report_front_png
from edgekit.bench.report.style import LIGHT, SERIES
from edgekit.bench.report.table import bytes_text, count_text, summary_markdown
from edgekit.bench.results import AccuracyFigures, BenchReport, ModelResult
from edgekit.bench.scores import Scores
from edgekit.bench.settings import BenchSettings
from edgekit.runtime.errors import DataError, MissingExtraError


def model(path: str, precision: str, size: int, correct: int, p50: float) -> ModelResult:
    figures = Figures(
        path=path,
        sha256="0" * 64,
        opset=20,
        precision=precision,
        file_bytes=size,
        params=40_000,
        nonzero=20_400,
        stored_bits=size * 8,
        macs=2_812_000,
        effective_macs=1_401_000,
        uncounted_ops=(),
        peak_activation_bytes=4096,
        score=Scores(0.0213, 0.00123),
    )
    accuracy = AccuracyFigures(
        correct, 450, correct / 450, (correct / 450 - 0.013, correct / 450 + 0.005), 450 - correct
    )
    latency = Latency(p50, p50 * 1.1, p50 * 1.5, p50 * 1.05, p50 * 0.9, 1000 / p50)
    return ModelResult(figures, accuracy, latency, 52_400_000)


@pytest.fixture
def report() -> BenchReport:
    return BenchReport(
        machine=Machine("Example CPU", ("avx2",), 2, "1.32.0"),
        settings=BenchSettings(),
        data="digits",
        split="test",
        models=(
            model("out/fp32.onnx", "fp32", 171_234, 446, 0.4),
            model("out/fp16.onnx", "fp16", 92_100, 446, 0.52),
            model("out/fp16-storage.onnx", "fp16-storage", 92_800, 446, 0.4),
            model("out/int8.onnx", "int8", 60_450, 445, 0.21),
            model("out/int16.onnx", "int16", 61_100, 446, 1.3),
        ),
    )


GOLDEN = """\
digits (test); Example CPU, 1 thread, batch 1, median of 100 runs, onnxruntime 1.32.0.

| model | precision | top-1 (95% interval) | flips | file | non-zero params | MACs (effective) \
| p50 ms | p90 ms | speed | memory | IMT | MicroNet |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| `fp32.onnx` | fp32 | 99.11% (97.8% to 99.6%) | 4 | 171.2 kB | 20.4 k | 2.81 M (1.4 M) \
| 0.4 | 0.44 | 1.00x | 52.4 MB | 0.0213 | 0.00123 |
| `int8.onnx` | int8 | 98.89% (97.6% to 99.4%) | 5 | 60.5 kB | 20.4 k | 2.81 M (1.4 M) \
| 0.21 | 0.231 | 1.90x | 52.4 MB | 0.0213 | 0.00123 |
"""


def test_the_table_is_the_golden_one(report: BenchReport) -> None:
    short = replace(report, models=(report.models[0], report.models[3]))
    assert summary_markdown(short) == GOLDEN


def test_columns_without_figures_are_left_out(report: BenchReport) -> None:
    bare = replace(report.models[0], accuracy=None, peak_rss_bytes=None)
    table = summary_markdown(replace(report, models=(bare,), data=None, split=None))
    assert table.startswith("no data, random input;")
    assert "top-1" not in table
    assert "memory" not in table


def test_operators_without_a_rule_are_named_below_the_table(report: BenchReport) -> None:
    first = report.models[0]
    odd = replace(first, figures=replace(first.figures, uncounted_ops=("Einsum",)))
    table = summary_markdown(replace(report, models=(odd,)))
    assert table.endswith("\nfp32.onnx: MACs not counted of Einsum.\n")


def test_models_of_one_name_show_their_folders(report: BenchReport) -> None:
    first = report.models[0]
    other = replace(first, figures=replace(first.figures, path="old/fp32.onnx"))
    table = summary_markdown(replace(report, models=(first, other)))
    assert "`out/fp32.onnx`" in table
    assert "`old/fp32.onnx`" in table


def test_sizes_and_counts_are_short() -> None:
    assert [bytes_text(n) for n in (999, 1_000, 2_345_678)] == ["999 B", "1.0 kB", "2.3 MB"]
    assert [bytes_text(n) for n in (999_949, 999_950)] == ["999.9 kB", "1.0 MB"]
    assert [count_text(n) for n in (999_499, 999_500, 999_999_999)] == ["999 k", "1 M", "1 G"]
    assert count_text(12_345_678_901_234) == "12,345,678,901,234"
    assert [count_text(n) for n in (0, 999, 1_234, 9_876_543, 2_834_161_664)] == [
        "0",
        "999",
        "1.23 k",
        "9.88 M",
        "2.83 G",
    ]


def test_the_front_is_drawn(report: BenchReport, tmp_path: Path) -> None:
    report_front_png(report, tmp_path / "front.png")
    with Image.open(tmp_path / "front.png") as image:
        assert image.width > 1000
        drawn = {color for _, color in image.convert("RGB").getcolors(1 << 24) or []}
    for stand_in in SERIES[: len(report.models)]:
        assert ImageColor.getrgb(LIGHT[stand_in]) in drawn
    assert ImageColor.getrgb(LIGHT[SERIES[6]]) not in drawn  # no seventh model
    assert ImageColor.getrgb(SERIES[0]) not in drawn


def test_the_front_needs_accuracy(report: BenchReport, tmp_path: Path) -> None:
    bare = replace(report.models[0], accuracy=None)
    with pytest.raises(DataError, match="--data"):
        report_front_png(replace(report, models=(bare,)), tmp_path / "front.png")


def test_the_front_names_its_extra(
    report: BenchReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"edgekit\[report\]"):
        report_front_png(report, tmp_path / "front.png")
    assert not (tmp_path / "front.png").exists()


def test_the_front_is_what_nothing_beats() -> None:
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 7.0), (3.0, 7.0), (4.0, 9.0)]
    assert pareto_front(points) == [0, 2, 4]
