from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.bench.baseline import Change, Comparison
from edgekit.bench.compare import bench_models
from edgekit.bench.gates import Gates, check_gates, checks_json, junit_xml, require_gates
from edgekit.bench.results import BenchReport
from edgekit.bench.settings import BenchSettings
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import GateError, InputError


@pytest.fixture
def report(classifier_file: Callable[..., Path], images: Split) -> BenchReport:
    """Two models with 20 and 19 of 64 right, of 2000 and 1000 bytes, of 1 and 0.5 ms."""
    paths = [classifier_file("first.onnx"), classifier_file("second.onnx")]
    measured = bench_models(paths, images, BenchSettings(warmup=0, iterations=2, cold_starts=0))
    models = []
    for model, correct, size, p50 in zip(
        measured.models, (20, 19), (2000, 1000), (1.0, 0.5), strict=True
    ):
        assert model.accuracy is not None
        models.append(
            replace(
                model,
                figures=replace(model.figures, path=Path(model.figures.path).name, file_bytes=size),
                accuracy=replace(model.accuracy, correct=correct, top1=correct / 64),
                latency=replace(model.latency, p50_ms=p50),
            )
        )
    return replace(measured, models=tuple(models))


# Each gate just kept and just broken, and by which models.
@pytest.mark.parametrize(
    ("kept", "broken", "failing"),
    [
        (Gates(min_accuracy=19 / 64), Gates(min_accuracy=0.297), ["second.onnx"]),
        (Gates(max_drop=100 / 64), Gates(max_drop=1.5), ["second.onnx"]),
        (Gates(max_bytes=2000), Gates(max_bytes=999), ["first.onnx", "second.onnx"]),
        (Gates(max_latency_ratio=0.5), Gates(max_latency_ratio=0.49), ["second.onnx"]),
    ],
)
def test_a_gate_passes_up_to_its_limit(
    report: BenchReport, kept: Gates, broken: Gates, failing: list[str]
) -> None:
    checks = check_gates(report, kept)
    assert checks
    assert all(check.passed for check in checks)
    require_gates(checks)
    failed = [check for check in check_gates(report, broken) if not check.passed]
    assert [check.model for check in failed] == failing
    with pytest.raises(GateError) as caught:
        require_gates(failed)
    assert caught.value.exit_status == 1
    assert failed[0].gate in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_message_names_gate_model_and_figure(report: BenchReport) -> None:
    gates = Gates(min_accuracy=0.9, max_drop=1, max_bytes=1500, max_latency_ratio=0.25)
    messages = [check.message for check in check_gates(report, gates) if not check.passed]
    assert messages == [
        "first.onnx: top-1 0.3125, fails --min-accuracy 0.9",
        "second.onnx: top-1 0.2969, fails --min-accuracy 0.9",
        "second.onnx: top-1 dropped 1.56 points, fails --max-drop 1",
        "first.onnx: 2000 bytes, fails --max-bytes 1500",
        "second.onnx: latency 0.500 of the first model's, fails --max-latency-ratio 0.25",
    ]


def changed(path: str, drop: float | None, ratio: float | None) -> Change:
    return Change(path, False, drop, (2000, 2000), (1, 1), ratio, None)


def test_with_a_baseline_relative_gates_are_to_it(report: BenchReport) -> None:
    changes = (changed("first.onnx", 3.0, 1.2), changed("second.onnx", -1.0, 0.9))
    baseline = Comparison("old.json", "0.1.0", changes, ())
    checks = check_gates(report, Gates(max_drop=2, max_latency_ratio=1.1), baseline)
    assert [(check.model, check.gate, check.passed) for check in checks] == [
        ("first.onnx", "--max-drop", False),
        ("second.onnx", "--max-drop", True),
        ("first.onnx", "--max-latency-ratio", False),
        ("second.onnx", "--max-latency-ratio", True),
    ]
    assert "1.200 of the baseline's" in checks[2].message


def test_what_cannot_be_compared_fails_no_gate_but_is_an_error(report: BenchReport) -> None:
    changes = (changed("first.onnx", 0.0, None), changed("second.onnx", 0.0, None))
    notes = ("latency is not compared: A now, B then",)
    baseline = Comparison("old.json", "0.1.0", changes, notes)
    check_gates(report, Gates(max_drop=2), baseline)
    with pytest.raises(InputError, match="latency is not compared: A now, B then"):
        check_gates(report, Gates(max_latency_ratio=1.1), baseline)


def test_accuracy_gates_need_accuracy(report: BenchReport) -> None:
    bare = replace(report, models=tuple(replace(model, accuracy=None) for model in report.models))
    for gates in (Gates(min_accuracy=0.1), Gates(max_drop=1)):
        with pytest.raises(InputError, match="--data"):
            check_gates(bare, gates)


def test_junit_has_a_case_for_each_gate_and_model(report: BenchReport) -> None:
    gates = Gates(max_bytes=1500, max_drop=50)
    odd = replace(report.models[0].figures, path='<&">.onnx')
    named = replace(report, models=(replace(report.models[0], figures=odd), report.models[1]))
    checks = check_gates(named, gates)
    root = ET.fromstring(junit_xml(checks))
    assert (root.get("tests"), root.get("failures")) == ("3", "1")
    cases = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    assert cases == [
        ("second.onnx", "--max-drop"),
        ('<&">.onnx', "--max-bytes"),
        ("second.onnx", "--max-bytes"),
    ]
    (failure,) = root.iter("failure")
    assert failure.get("message") == '<&">.onnx: 2000 bytes, fails --max-bytes 1500'
    assert [entry["passed"] for entry in checks_json(checks)] == [True, False, True]


def test_no_gate_checks_nothing(report: BenchReport) -> None:
    assert not Gates()
    assert check_gates(report, Gates()) == ()
    require_gates(())
