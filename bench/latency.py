"""Latency of several models, in turns, so that a machine that drifts is as hard on each of them.

The timed iterations are spread over rounds; in each round every model runs its share in a row,
after one run that is not counted and refills the caches. Each round starts with another model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgekit.runtime.errors import DataError, InputError
from edgekit.runtime.session import model_input

ROUNDS = 10
_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}


@dataclass(frozen=True)
class Latency:
    """Times of one run of a batch.

    Attributes:
        p50_ms: Median in milliseconds; the others likewise.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile.
        mean_ms: Mean.
        min_ms: Fastest.
        throughput_ips: Images a second at the mean time.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    throughput_ips: float


def summarize(seconds: NDArray[np.float64], batch_size: int) -> Latency:
    """Percentiles of the times [iterations] of one run of a batch, in seconds."""
    p50, p90, p99 = (float(p) for p in np.percentile(seconds * 1e3, (50, 90, 99)))
    mean = float(seconds.mean())
    return Latency(p50, p90, p99, mean * 1e3, float(seconds.min()) * 1e3, batch_size / mean)


def measure(
    runs: Sequence[Callable[[], object]],
    *,
    warmup: int = 10,
    iterations: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> list[NDArray[np.float64]]:
    """Time several functions in turns.

    Args:
        runs: What to time, each without arguments.
        warmup: Runs of each before any is timed.
        iterations: Timed runs of each.
        progress: Called with (timed runs done, timed runs in all) after each turn.

    Returns:
        For each function its times in seconds, float64 [iterations], in the order measured.

    Raises:
        InputError: warmup is negative or iterations below one.
    """
    if warmup < 0 or iterations < 1:
        raise InputError(
            f"warmup {warmup} must be at least 0 and iterations {iterations} at least 1"
        )
    for run in runs:
        for _ in range(warmup):
            run()
    times: list[list[float]] = [[] for _ in runs]
    for round_, share in enumerate(_shares(iterations)):
        for turn in range(len(runs)):
            index = (round_ + turn) % len(runs)
            times[index] += _timed(runs[index], share)
            if progress is not None:
                progress(sum(map(len, times)), iterations * len(runs))
    return [np.asarray(series, np.float64) for series in times]


def latency_run(
    session: ort.InferenceSession, batch_size: int, samples: NDArray[np.generic] | None = None
) -> Callable[[], object]:
    """A function that runs a model on one batch, made and cast beforehand.

    Args:
        session: A model with one input.
        batch_size: Samples a run.
        samples: Real samples [N, ...] in the input's layout, repeated to fill the batch; without
            them the batch is random.

    Raises:
        InputError: the file fixes another batch size, or an axis is open and there are no samples.
        DataError: the samples do not fit the input.
    """
    entry = model_input(session)
    fixed = entry.shape[0] if entry.shape else None
    if isinstance(fixed, int) and fixed != batch_size:
        raise InputError(
            f"the model takes batches of {fixed} only, not of {batch_size}: "
            f"give --batch-size {fixed}"
        )
    shape = _sample_shape(entry, samples)
    if samples is None:
        samples = np.random.default_rng(0).random((batch_size, *shape), np.float32)
        if entry.type == "tensor(uint8)":
            samples = samples * 255
    batch = np.resize(samples, (batch_size, *shape)).astype(_TYPES[entry.type])
    feed = {entry.name: np.ascontiguousarray(batch)}
    return lambda: session.run(None, feed)


def _sample_shape(entry: ort.NodeArg, samples: NDArray[np.generic] | None) -> tuple[int, ...]:
    axes = entry.shape[1:]
    if samples is not None:
        given = samples.shape[1:]
        fits = len(axes) == len(given) and all(
            not isinstance(axis, int) or axis == size
            for axis, size in zip(axes, given, strict=True)
        )
        if not fits:
            raise DataError(
                f"the model's input {entry.name!r} takes {entry.shape}, the data gives "
                f"{['N', *given]}: use data of that size"
            )
        return given
    if not all(isinstance(axis, int) for axis in axes):
        raise InputError(
            f"the model's input {entry.name!r} has open axes {entry.shape}: give --data, so that "
            "there are samples to run it on"
        )
    return tuple(axes)


def _shares(iterations: int) -> list[int]:
    rounds = min(ROUNDS, iterations)
    return [iterations // rounds + (index < iterations % rounds) for index in range(rounds)]


def _timed(run: Callable[[], object], times: int) -> list[float]:
    run()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds
