"""Latency of several models at one or many numbers of threads and batch sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.candidate import Candidate
from edgekit.bench.engines import LoadedModel, find_engine
from edgekit.bench.latency import Latency, Ratio, Run, Warmup, measure, ratio, summarize
from edgekit.bench.settings import BenchSettings
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import ModelFileError, reason_of
from edgekit.runtime.progress import Progress


@dataclass(frozen=True)
class Timing:
    """Latency of one model at one number of threads and one batch size.

    Attributes:
        threads: Threads within an operator.
        batch_size: Samples in a run.
        latency: Times of a run.
        ratio: To the first model at the same threads and batch size.
        warmup: What went before.
    """

    threads: int
    batch_size: int
    latency: Latency
    ratio: Ratio
    warmup: Warmup

    def to_json(self) -> dict[str, Any]:
        """An entry of the key `sweep`."""
        return {
            "threads": self.threads,
            "batch_size": self.batch_size,
            "latency_ms": self.latency.to_json(),
            "throughput_ips": self.latency.throughput_ips,
            **self.reliability_json(),
        }

    def reliability_json(self) -> dict[str, Any]:
        """The keys `latency_ratio` and `warmup`."""
        interval = self.ratio.ci95
        return {
            "latency_ratio": {
                "p50": self.ratio.p50,
                "ci95": None if interval is None else list(interval),
            },
            "warmup": {"runs": self.warmup.runs, "stable": self.warmup.stable},
        }


def time_models(
    candidates: Sequence[Candidate],
    split: Split | None,
    settings: BenchSettings,
    *,
    progress: Progress | None = None,
) -> list[Timing]:
    """Time models in turns at the settings' own threads and batch size; one timing a model.

    Raises:
        InputError, DataError: a model does not take such a batch.
        ModelFileError: a model cannot run it.
    """
    loaded = [candidate.loaded for candidate in candidates]
    pair = (settings.threads, settings.batch_size)
    return _time(loaded, candidates, split, settings, pair, progress)


def sweep_models(
    candidates: Sequence[Candidate],
    split: Split | None,
    settings: BenchSettings,
    reference: Sequence[Timing],
    *,
    progress: Progress | None = None,
) -> list[tuple[Timing, ...]]:
    """Time models at every pair of the settings' sweep; for each model its timings.

    Args:
        candidates: The models.
        split: Where their input comes from.
        settings: What to sweep.
        reference: What `time_models` found; that pair is not measured again.
        progress: Called with (timed runs done, timed runs in all).

    Raises:
        InputError, DataError: a model does not take such a batch.
        ModelFileError: a model cannot run it.
    """
    pairs = settings.sweep
    rows: list[Sequence[Timing]] = []
    each = len(candidates) * settings.iterations
    loaded: dict[int, list[LoadedModel]] = {settings.threads: [c.loaded for c in candidates]}
    for index, pair in enumerate(pairs):
        if pair == (settings.threads, settings.batch_size):
            rows.append(reference)
            continue

        def advance(done: int, _total: int, before: int = index * each) -> None:
            if progress is not None:
                progress(before + done, len(pairs) * each)

        threads = pair[0]
        if threads not in loaded:
            engine = find_engine(settings.engine)
            loaded = {threads: [engine.open(c.path, threads) for c in candidates]}
        rows.append(_time(loaded[threads], candidates, split, settings, pair, advance))
    if not rows:
        return [() for _ in candidates]
    return [tuple(column) for column in zip(*rows, strict=True)]


def _time(
    loaded: Sequence[LoadedModel],
    candidates: Sequence[Candidate],
    split: Split | None,
    settings: BenchSettings,
    pair: tuple[int, int],
    progress: Progress | None,
) -> list[Timing]:
    threads, batch_size = pair
    runs = [
        _proven(model, candidate, candidate.batch(split, settings, batch_size))
        for model, candidate in zip(loaded, candidates, strict=True)
    ]
    series = measure(
        runs, warmup=settings.warmup, iterations=settings.iterations, progress=progress
    )
    return [
        Timing(
            threads,
            batch_size,
            summarize(one.seconds, batch_size),
            ratio(one, series[0]),
            one.warmup,
        )
        for one in series
    ]


def _proven(model: LoadedModel, candidate: Candidate, batch: NDArray[np.generic]) -> Run:
    """A function that runs a batch, after it did so once: a file may be made for another size."""
    try:
        run = model.bind(batch)
        run()
    except Exception as error:  # the engines' exceptions share no base class
        reason = reason_of(error)
        raise ModelFileError(
            f"{candidate.path}: cannot run a batch of {len(batch)}: {reason}"
        ) from error
    return run
