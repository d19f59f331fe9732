"""How fast the models of a comparison are: latency, sweep, profile, LoadGen, cold start, memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.bench.arena import arena_bytes
from edgekit.bench.candidate import Candidate
from edgekit.bench.cold_start import ColdStart, cold_start
from edgekit.bench.engines import DEFAULT_ENGINE
from edgekit.bench.loadgen import LoadgenRun, run_loadgen
from edgekit.bench.profile import Profile, profile_model
from edgekit.bench.settings import BenchSettings
from edgekit.bench.shapes import Shape
from edgekit.bench.sweep import Timing, sweep_models, time_models
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import ModelFileError, naming
from edgekit.runtime.progress import StageProgress, stage_of
from edgekit.runtime.session import open_session, run_batch

COMPARED_SAMPLES = 32
LOADGEN_SAMPLES = 1024


@dataclass(frozen=True)
class Speed:
    """One model's figures; see `results.ModelResult`."""

    timing: Timing
    sweep: tuple[Timing, ...]
    profile: Profile | None
    loadgen: tuple[LoadgenRun, ...]
    cold_start: ColdStart | None
    difference_to_onnxruntime: float | None
    arena_bytes: int | None = None


def measure_speed(
    candidates: Sequence[Candidate],
    split: Split | None,
    settings: BenchSettings,
    report: StageProgress,
) -> list[Speed]:
    """Measure what the settings ask for; one result a model.

    Raises:
        InputError, DataError: a model does not take such a batch.
        ModelFileError: a model cannot be run.
        MissingExtraError: LoadGen is not installed.
    """
    latency, sweep = (stage_of(report, stage) for stage in ("latency", "sweep"))
    timings = time_models(candidates, split, settings, progress=latency)
    sweeps = sweep_models(candidates, split, settings, timings, progress=sweep)
    speeds = []
    for index, candidate in enumerate(candidates):
        speeds.append(
            Speed(
                timings[index],
                sweeps[index],
                _profile(candidate, split, settings) if settings.profile else None,
                _loadgen(candidate, split, settings, timings[index]),
                _cold_start(candidate, split, settings) if settings.cold_starts else None,
                _difference(candidate, split, settings),
                _arena(candidate, split, settings) if settings.cold_starts else None,
            )
        )
        report(_rest(settings), index + 1, len(candidates))
    return speeds


def _rest(settings: BenchSettings) -> str:
    """What the last stage measures, for the progress bar."""
    asked = {
        "profile": settings.profile,
        "LoadGen": bool(settings.loadgen),
        "cold start": settings.cold_starts > 0,
    }
    return ", ".join(name for name, wanted in asked.items() if wanted) or "the rest"


def _profile(candidate: Candidate, split: Split | None, settings: BenchSettings) -> Profile:
    return profile_model(
        candidate.path,
        candidate.model,
        threads=settings.threads,
        batch=candidate.batch(split, settings, settings.batch_size),
        warmup=settings.warmup,
        runs=settings.iterations,
    )


def _loadgen(
    candidate: Candidate, split: Split | None, settings: BenchSettings, timing: Timing
) -> tuple[LoadgenRun, ...]:
    if not settings.loadgen:
        return ()
    samples = candidate.samples(split, settings, LOADGEN_SAMPLES)
    if samples is None:
        samples = candidate.batch(split, settings, settings.batch_size)
    try:
        return tuple(
            run_loadgen(
                scenario,
                candidate.loaded.bind,
                samples.astype(candidate.loaded.input.dtype),
                batch_size=settings.batch_size,
                expected_ms=timing.latency.mean_ms,
                seconds=settings.loadgen_seconds,
            )
            for scenario in settings.loadgen
        )
    except ModelFileError as error:
        raise ModelFileError(f"{candidate.path}: {error}") from error


def _sample_shape(
    candidate: Candidate, split: Split | None, settings: BenchSettings
) -> Shape | None:
    if split is not None and candidate.preprocessing is not None:
        return candidate.preprocessing.input_shape
    return candidate.sample_shape(settings)


def _arena(candidate: Candidate, split: Split | None, settings: BenchSettings) -> int | None:
    if settings.engine != DEFAULT_ENGINE:
        return None
    shape, entry = _sample_shape(candidate, split, settings), candidate.loaded.input
    batch = entry.shape[0] if entry.shape and isinstance(entry.shape[0], int) else 1
    shapes = {} if shape is None else {entry.name: (batch, *shape)}
    return arena_bytes(candidate.path, threads=settings.threads, input_shapes=shapes)


def _cold_start(candidate: Candidate, split: Split | None, settings: BenchSettings) -> ColdStart:
    shape = _sample_shape(candidate, split, settings)
    return cold_start(
        candidate.path,
        processes=settings.cold_starts,
        engine=settings.engine,
        batch_size=settings.batch_size,
        threads=settings.threads,
        input_shape=shape,
    )


def _difference(candidate: Candidate, split: Split | None, settings: BenchSettings) -> float | None:
    """Largest difference of an output to onnxruntime's, relative to its largest one."""
    if settings.engine == DEFAULT_ENGINE:
        return None
    fixed = candidate.loaded.input.shape[0]
    size = fixed if isinstance(fixed, int) else COMPARED_SAMPLES
    samples = candidate.batch(split, settings, size)
    with naming(candidate.path):
        expected = run_batch(open_session(candidate.path, validate=False), samples)
        found = candidate.loaded.classify(samples)
    largest = float(np.abs(expected).max()) or 1.0
    return float(np.abs(found - expected).max()) / largest
