"""Limits that a comparison must keep, for continuous integration; as JUnit XML on request.

The drop of accuracy and the ratio of latency are to the same model of a baseline where one is
given, else to the first model of the run.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgekit.bench.baseline import Comparison
from edgekit.bench.results import BenchReport, ModelResult
from edgekit.runtime.errors import GateError, InputError


@dataclass(frozen=True)
class Gates:
    """The limits; None asks for nothing.

    Attributes:
        min_accuracy: Least top-1, 0 to 1.
        max_drop: Most percentage points of top-1 that may be lost.
        max_bytes: Largest file.
        max_latency_ratio: Most of the reference's median latency.
    """

    min_accuracy: float | None = None
    max_drop: float | None = None
    max_bytes: int | None = None
    max_latency_ratio: float | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in asdict(self).values())


@dataclass(frozen=True)
class Check:
    """One gate on one model.

    Attributes:
        gate: The flag that set it.
        model: The model's path.
        figure: What was measured.
        limit: What the gate allows.
        passed: Whether it does.
        message: Both figures in words.
    """

    gate: str
    model: str
    figure: float
    limit: float
    passed: bool
    message: str


def check_gates(
    report: BenchReport, gates: Gates, comparison: Comparison | None = None
) -> tuple[Check, ...]:
    """Check every gate that is set on every model.

    Raises:
        InputError: what a gate needs was not measured.
    """
    checks = []
    for flag, limit, check in (
        ("--min-accuracy", gates.min_accuracy, _min_accuracy),
        ("--max-drop", gates.max_drop, _max_drop),
        ("--max-bytes", gates.max_bytes, _max_bytes),
        ("--max-latency-ratio", gates.max_latency_ratio, _max_latency_ratio),
    ):
        if limit is None:
            continue
        for model in _gated(report, flag, comparison):
            figure, passed, words = check(model, float(limit), report, comparison)
            verdict = "keeps" if passed else "fails"
            message = f"{model.figures.path}: {words}, {verdict} {flag} {limit:g}"
            checks.append(Check(flag, model.figures.path, figure, limit, passed, message))
    return tuple(checks)


def require_gates(checks: Sequence[Check]) -> None:
    """Fail where a check did not pass.

    Raises:
        GateError: names each gate, model and figure.
    """
    failed = [check.message for check in checks if not check.passed]
    if failed:
        raise GateError("; ".join(failed))


def junit_xml(checks: Sequence[Check]) -> str:
    """The checks as JUnit XML: a test case each, by model and gate."""
    failures = str(sum(not check.passed for check in checks))
    counts = {"tests": str(len(checks)), "failures": failures, "errors": "0"}
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": "edgekit bench", **counts})
    for check in checks:
        case = ET.SubElement(suite, "testcase", {"classname": check.model, "name": check.gate})
        if not check.passed:
            ET.SubElement(case, "failure", {"message": check.message})
        output = ET.SubElement(case, "system-out")
        output.text = check.message
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'


def checks_json(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """The value of the key `gates`."""
    return [asdict(check) for check in checks]


Found = tuple[float, bool, str]
CheckOne = Callable[[ModelResult, float, BenchReport, Comparison | None], Found]

_RELATIVE = ("--max-drop", "--max-latency-ratio")


def _gated(
    report: BenchReport, flag: str, comparison: Comparison | None
) -> tuple[ModelResult, ...]:
    """The models that a gate is for: a relative one leaves out what it is relative to."""
    if flag not in _RELATIVE or comparison is not None:
        return report.models
    return report.models[1:]


def _min_accuracy(
    model: ModelResult, limit: float, _report: BenchReport, _comparison: Comparison | None
) -> Found:
    if model.accuracy is None:
        raise InputError("--min-accuracy needs labelled images: give some with --data")
    top1 = model.accuracy.top1
    return top1, top1 >= limit, f"top-1 {top1:.4f}"


def _max_drop(
    model: ModelResult, limit: float, report: BenchReport, comparison: Comparison | None
) -> Found:
    first = report.models[0].accuracy
    if model.accuracy is None or first is None:
        raise InputError("--max-drop needs labelled images: give some with --data")
    if comparison is None:
        # counts, not quotients: a drop of exactly the limit must not fail by a rounding error
        lost = first.correct - model.accuracy.correct
        drop = 100 * lost / first.total
        return drop, drop <= limit, f"top-1 dropped {drop:.2f} points"
    change = comparison.of(model.figures.path)
    if change is None or change.drop_points is None:
        raise _not_comparable("--max-drop", model, comparison)
    drop = round(change.drop_points, 9)
    return drop, drop <= limit, f"top-1 dropped {drop:.2f} points since the baseline"


def _max_bytes(
    model: ModelResult, limit: float, _report: BenchReport, _comparison: Comparison | None
) -> Found:
    size = model.figures.file_bytes
    return size, size <= limit, f"{size} bytes"


def _max_latency_ratio(
    model: ModelResult, limit: float, report: BenchReport, comparison: Comparison | None
) -> Found:
    if comparison is None:
        ratio = model.latency.p50_ms / report.models[0].latency.p50_ms
        interval = None if model.timing is None else model.timing.ratio.ci95
        sure = "" if interval is None else f" (95% interval {interval[0]:.3f} to {interval[1]:.3f})"
        return ratio, ratio <= limit, f"latency {ratio:.3f} of the first model's{sure}"
    change = comparison.of(model.figures.path)
    if change is None or change.latency_ratio is None:
        raise _not_comparable("--max-latency-ratio", model, comparison)
    ratio = change.latency_ratio
    return ratio, ratio <= limit, f"latency {ratio:.3f} of the baseline's"


def _not_comparable(flag: str, model: ModelResult, comparison: Comparison) -> InputError:
    notes = "; ".join(comparison.notes) or "the baseline has no such figure"
    return InputError(f"{flag}: {model.figures.path} cannot be held against the baseline: {notes}")
