"""What is printed about speed besides the main table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.bench.baseline import Change, Comparison
from edgekit.bench.compare import bench_models
from edgekit.bench.conditions import Conditions
from edgekit.bench.latency import Ratio, Warmup
from edgekit.bench.profile import OperatorTime, Overhead, Profile
from edgekit.bench.report.table import heading
from edgekit.bench.results import BenchReport
from edgekit.bench.settings import BenchSettings
from edgekit.bench.speed_tables import comparison_table, speed_notes, speed_tables

QUICK = BenchSettings(warmup=1, iterations=2, cold_starts=0)


@pytest.fixture
def report(classifier_file: Callable[..., Path]) -> BenchReport:
    paths = [classifier_file("a.onnx"), classifier_file("b.onnx")]
    return replace(bench_models(paths, None, QUICK), conditions=None)


def test_one_model_alone_has_no_ratio(report: BenchReport) -> None:
    alone = replace(report, models=report.models[:1])
    assert list(speed_tables(alone)) == []
    (ratios,) = speed_tables(report)
    assert [row[0] for row in ratios.rows] == ["a.onnx", "b.onnx"]


def test_every_row_has_a_cell_for_every_title(classifier_file: Callable[..., Path]) -> None:
    settings = replace(
        QUICK, sweep_batch_sizes=(1, 2), cold_starts=1, profile=True, sweep_threads=(2,)
    )
    paths = [classifier_file("a.onnx"), classifier_file("b.onnx")]
    tables = list(speed_tables(bench_models(paths, None, settings)))
    assert [len(table.rows) for table in tables[:3]] == [2, 8, 2]
    assert len(tables) == 5  # ratios, sweep, cold start and a profile each
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.titles)}


def test_a_ratio_is_shown_with_its_interval(report: BenchReport) -> None:
    first, second = report.models
    assert second.timing is not None
    timing = replace(second.timing, ratio=Ratio(0.5, (0.45, 0.5512)))
    (table,) = speed_tables(replace(report, models=(first, replace(second, timing=timing))))
    assert table.rows[1][1:3] == ("0.500", "0.450 to 0.551")
    assert table.rows[0][1:3] == ("1.000", "")  # two rounds tell no interval


def test_a_long_profile_is_cut_and_its_rest_is_summed(report: BenchReport) -> None:
    rows = tuple(OperatorTime(f"Op{n}", 2, 1, 0.1, 0.1) for n in range(10))
    overhead = {"cast": Overhead(0.25, 0.2)}
    profile = Profile(5, 1.3, 1.0, rows, overhead, ())
    model = replace(report.models[0], profile=profile)
    (table,) = speed_tables(replace(report, models=(model,)))
    assert len(table.rows) == 9
    assert table.rows[-1] == ("2 more", "4", "2", "0.2", "20.0%")
    assert "cast 25.0% (20.0% inserted by onnxruntime)" in table.caption


def test_notes_say_what_makes_latency_uncertain(report: BenchReport) -> None:
    conditions = Conditions(("powersave",), None, None, None, None, ("it was hot",))
    first, second = report.models
    assert first.timing is not None
    assert second.timing is not None
    settled = replace(first.timing, warmup=Warmup(20, stable=True))
    unsettled = replace(second.timing, warmup=Warmup(100, stable=False))
    noted = replace(
        report,
        conditions=conditions,
        settings=replace(QUICK, engine="openvino"),
        engine_version="2026.4",
        models=(
            replace(first, timing=settled, difference_to_onnxruntime=0.0001),
            replace(second, timing=unsettled, difference_to_onnxruntime=0.5),
        ),
    )
    assert speed_notes(noted) == [
        "it was hot.",
        "times had not settled after warm-up: b.onnx.",
        "b.onnx: openvino's outputs differ from onnxruntime's by up to 0.5 times the largest.",
    ]
    assert heading(noted).endswith("openvino 2026.4.")
    assert "onnxruntime 1" in heading(report)


def test_changes_are_told_then_to_now() -> None:
    change = Change("out/int8.onnx", False, 1.5, (60_000, 80_000), (900, 1000), 0.75, None)
    comparison = Comparison("old.json", "0.0.9", (change,), ("b.onnx is not in the baseline",))
    table = comparison_table(comparison)
    assert table.rows == (
        ("int8.onnx", "changed", "-1.50", "80.0 kB to 60.0 kB", "-100", "0.750", ""),
    )
    assert table.caption == "Since old.json (edgekit 0.0.9).\nb.onnx is not in the baseline"


@pytest.mark.parametrize("drop", [0.0, -0.0, 0.001, -0.001])
def test_no_change_in_accuracy_has_no_minus(drop: float) -> None:
    change = Change("a.onnx", True, drop, (1, 1), (0, 0), None, None)
    table = comparison_table(Comparison("old.json", "0.1.0", (change,), ()))
    assert table.rows[0][2] == "+0.00"
