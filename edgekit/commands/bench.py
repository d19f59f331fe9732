"""`edgekit bench`: models side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import console
from edgekit.bench.baseline import Comparison, compare_runs
from edgekit.bench.compare import bench_models
from edgekit.bench.gates import Check, Gates, check_gates, checks_json, junit_xml
from edgekit.bench.report.results_file import Run, read_runs, run_of
from edgekit.bench.results import BenchReport
from edgekit.bench.settings import BenchSettings
from edgekit.commands.images import DataSource, Normalization
from edgekit.export.graph import load_graph
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import InputError, naming
from edgekit.runtime.files import check_output, write_text
from edgekit.runtime.model_file import own_files


def bench_files(
    paths: Sequence[Path],
    data: DataSource | None,
    part: str,
    settings: BenchSettings,
) -> BenchReport:
    """Measure model files; the first is the reference.

    Args:
        paths: ONNX files.
        data: Labelled images; without them there is no accuracy.
        part: Part of the data.
        settings: How to measure.

    Raises:
        EdgekitError: a file or the data cannot be used, or does not fit.
    """
    split = None
    if data is not None:
        if not paths:
            raise InputError("no model to bench: give at least one .onnx file")
        normalization = Normalization(settings.mean, settings.std)
        with naming(paths[0]):
            preprocessing = normalization.of(load_graph(paths[0]))
        split = data.load(part, preprocessing)
    with console.stages() as progress:
        report = bench_models(paths, split, settings, progress=progress)
    for warning in () if split is None else _calibrated_on(split, report):
        console.say(f"warning: {warning}")
    return report


def _calibrated_on(split: Split, report: BenchReport) -> Iterator[str]:
    """Tell of models whose ranges were fitted to images of the part that they are judged on."""
    for model in report.models:
        record = model.details.provenance.get("calibration") if model.details else None
        if not isinstance(record, Mapping):
            continue
        if (record.get("data"), record.get("part")) == (split.label, split.part):
            yield (
                f"{model.figures.path}: was calibrated on {record.get('samples')} images of "
                f"{split.label} ({split.part}), which it is judged on here: choose another part"
            )


@dataclass(frozen=True)
class BenchResult:
    """A comparison, beside an earlier one and held against limits where that was asked for.

    Attributes:
        report: The comparison.
        comparison: What changed since the baseline; None without one.
        checks: The gates that were set; None without any.
    """

    report: BenchReport
    comparison: Comparison | None = None
    checks: tuple[Check, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The report's object, with the keys `baseline` and `gates` where they were asked for."""
        value = self.report.to_json()
        if self.comparison is not None:
            value["baseline"] = self.comparison.to_json()
        if self.checks is not None:
            value["gates"] = checks_json(self.checks)
        return value


@dataclass(frozen=True)
class Limits:
    """What a comparison is held against.

    Attributes:
        gates: The limits.
        baseline: Results of an earlier run.
        junit: Where the outcome of the gates is written as JUnit XML.
        force: Replace that file.
    """

    gates: Gates
    baseline: Path | None = None
    junit: Path | None = None
    force: bool = False


def bench_against(
    paths: Sequence[Path],
    data: DataSource | None,
    part: str,
    settings: BenchSettings,
    limits: Limits,
) -> BenchResult:
    """Measure model files, put them beside an earlier run and hold them against limits.

    Whether the limits are kept is told, not judged: `require_gates` judges.

    Raises:
        EdgekitError: as `bench_files`; a baseline cannot be read, the JUnit file cannot be
            written, or a gate needs a figure that is not measured.
    """
    if limits.junit is not None:
        if not limits.gates:
            raise InputError("--junit has no gate to write: set one, such as --max-bytes")
        inputs = [file for path in paths for file in own_files(path)]
        inputs += [] if data is None else data.files
        inputs += [] if limits.baseline is None else [limits.baseline]
        check_output(limits.junit, force=limits.force, inputs=inputs, flag="--junit")
    baseline = None if limits.baseline is None else read_runs([limits.baseline])[0]
    _check_gates_can_be_met(limits.gates, paths, data, baseline)
    report = bench_files(paths, data, part, settings)
    comparison = None if baseline is None else compare_runs(run_of(report), baseline)
    checks = check_gates(report, limits.gates, comparison) if limits.gates else None
    if limits.junit is not None and checks is not None:
        write_text(limits.junit, junit_xml(checks))
    return BenchResult(report, comparison, checks)


def _check_gates_can_be_met(
    gates: Gates, paths: Sequence[Path], data: DataSource | None, baseline: Run | None
) -> None:
    """Refuse, before anything is measured, a gate whose figure would be missing."""
    needs_images = {"--min-accuracy": gates.min_accuracy, "--max-drop": gates.max_drop}
    for flag, limit in needs_images.items():
        if limit is not None and data is None:
            raise InputError(f"{flag} needs labelled images: give some with --data")
    relative = {"--max-drop": gates.max_drop, "--max-latency-ratio": gates.max_latency_ratio}
    for flag, limit in relative.items():
        if limit is not None and baseline is None and len(paths) == 1:
            raise InputError(
                f"{flag} compares with the first model: give another one, or --baseline "
                "RESULTS.json"
            )
