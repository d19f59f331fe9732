"""Several models side by side: accuracy, counts, size, latency, memory and scores."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekit.bench.candidate import Candidate, read_candidate
from edgekit.bench.conditions import conditions, snapshot
from edgekit.bench.engines import find_engine
from edgekit.bench.loadgen import import_loadgen
from edgekit.bench.machine import Machine, describe_machine
from edgekit.bench.pinning import pinned
from edgekit.bench.profile import node_shares
from edgekit.bench.quality import Quality, measure_quality
from edgekit.bench.results import BenchReport, ModelResult
from edgekit.bench.settings import BenchSettings
from edgekit.bench.speed import Speed, measure_speed
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import InputError
from edgekit.runtime.progress import StageProgress, silent


def bench_models(
    paths: Sequence[Path],
    split: Split | None = None,
    settings: BenchSettings | None = None,
    *,
    progress: StageProgress = silent,
) -> BenchReport:
    """Compare model files; the first is the reference.

    Args:
        paths: ONNX files.
        split: Labelled images; without them there is no accuracy, and latency is measured on
            random input.
        settings: How to run.
        progress: Called as the work goes on; stages are "count", "accuracy", "signal to noise",
            "latency", "sweep" and whatever else the settings ask for.

    Raises:
        ModelFileError: a file is damaged, cannot be counted or cannot be run.
        DataError: the data does not fit a model (size, number or names of the classes).
        InputError: no model is given, a file fixes another batch size, or a setting cannot be met.
        MissingExtraError: the engine or LoadGen is not installed.
    """
    if not paths:
        raise InputError("no model to bench: give at least one .onnx file")
    settings = settings or BenchSettings()
    if split is None and settings.noise_images is not None:
        raise InputError("--signal-to-noise needs images: give some with --data")
    if split is not None:
        split = _limited(split, settings.limit)
    if settings.loadgen:
        import_loadgen()
    machine = describe_machine()  # with all its cores, pinned or not
    threads = max((settings.threads, *settings.sweep_threads))
    with pinned(threads) if settings.pin else nullcontext() as cores:
        report = _bench(paths, split, settings, machine, progress)
    return replace(report, pinned_cores=cores)


def _bench(
    paths: Sequence[Path],
    split: Split | None,
    settings: BenchSettings,
    machine: Machine,
    report: StageProgress,
) -> BenchReport:
    before = snapshot()
    engine_version = find_engine(settings.engine).prepare()
    candidates = []
    for index, path in enumerate(paths):
        candidates.append(read_candidate(path, split, settings))
        report("count", index + 1, len(paths))
    qualities = measure_quality(candidates, split, settings, report)
    speeds = measure_speed(candidates, split, settings, report)
    return BenchReport(
        machine=machine,
        settings=settings,
        data=None if split is None else split.name,
        split=None if split is None else split.part,
        models=tuple(map(_result, candidates, qualities, speeds)),
        conditions=conditions(before, snapshot(), machine.cores),
        engine_version=engine_version,
    )


def _limited(split: Split, limit: int | None) -> Split:
    if limit is None or limit >= len(split):
        return split
    return split.take(np.linspace(0, len(split) - 1, limit).astype(np.int64))


def _result(candidate: Candidate, quality: Quality, speed: Speed) -> ModelResult:
    details, start = quality.details, speed.cold_start
    if speed.profile is not None:
        details = replace(details, time_shares=node_shares(speed.profile, candidate.model))
    return ModelResult(
        replace(candidate.figures, arena_bytes=speed.arena_bytes),
        quality.accuracy,
        speed.timing.latency,
        None if start is None else start.median.peak_bytes,
        details,
        timing=speed.timing,
        cold_start=start,
        sweep=speed.sweep,
        profile=speed.profile,
        loadgen=speed.loadgen,
        difference_to_onnxruntime=speed.difference_to_onnxruntime,
    )
