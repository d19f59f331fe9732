"""`edgekit bench`: models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from edgekit import console
from edgekit.bench.compare import bench_models
from edgekit.bench.results import BenchReport
from edgekit.bench.settings import BenchSettings
from edgekit.commands.images import DataSource, Normalization
from edgekit.export.graph import load_graph
from edgekit.runtime.errors import AccuracyError, InputError


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
        split = data.load(part, normalization.of(load_graph(paths[0])))
    with ExitStack() as bars:
        shown: dict[str, console.Advance] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in shown:
                bars.close()
                shown[stage] = bars.enter_context(console.progress(stage))
            shown[stage](done, total)

        return bench_models(paths, split, settings, progress=progress)


def check_accuracy(report: BenchReport, least: float | None) -> None:
    """Fail where a model's top-1 is below `least` (0 to 1); None asks for nothing.

    Raises:
        AccuracyError: one is.
        InputError: accuracy was not measured.
    """
    if least is None:
        return
    for model in report.models:
        if model.accuracy is None:
            raise InputError("--min-accuracy needs labelled images: give some with --data")
        if model.accuracy.top1 < least:
            raise AccuracyError(
                f"{model.figures.path}: top-1 {model.accuracy.top1:.4f} is below --min-accuracy "
                f"{least:g}"
            )
