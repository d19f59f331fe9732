"""Latency of several models, in turns, so that a machine that drifts is as hard on each of them.

Warm-up, model by model: runs go in windows of `warmup` runs until the medians of two windows in a
row differ by 5% at most, or until ten windows or ten seconds have gone (at least one window is
always run); the result says which of the two it was.

Then the timed iterations are spread over rounds; in each round every model runs its share in a
row, after one run that is not counted and refills the caches. Each round starts with another
model.

The ratio to the first model is the quotient of the medians. Its interval is a bootstrap over
rounds: times of one round are alike, so rounds are drawn with replacement, whole, and the same ones
for both models, since a round's disturbance meets both. 2.5% and 97.5% of 2,000 such ratios bound
the interval (the percentile method: B. Efron and R. J. Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 13; drawing clusters whole: A. C. Davison and D. V. Hinkley, Bootstrap
Methods and their Application, 1997, section 3.8). With few rounds it is a little too narrow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.errors import InputError
from edgekit.runtime.progress import Progress
from edgekit.runtime.session import InputSpec, check_samples

ROUNDS = 20
FEWEST_ROUNDS = 5  # an interval from fewer would mean nothing
WARMUP_TOLERANCE = 0.05
WARMUP_WINDOWS = 10
WARMUP_LIMIT_S = 10.0
RESAMPLES = 2_000

Run = Callable[[], object]


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

    def to_json(self) -> dict[str, float]:
        """The value of the key `latency_ms`."""
        return {
            "p50": self.p50_ms,
            "p90": self.p90_ms,
            "p99": self.p99_ms,
            "mean": self.mean_ms,
            "min": self.min_ms,
        }


@dataclass(frozen=True)
class Warmup:
    """How a model was warmed up.

    Attributes:
        runs: Untimed runs before the first round.
        stable: Whether its times had settled by then.
    """

    runs: int
    stable: bool


@dataclass(frozen=True)
class Ratio:
    """A model's median latency over the first model's.

    Attributes:
        p50: The quotient; below 1 is faster.
        ci95: Its 95% confidence interval; None where there are fewer than five rounds.
    """

    p50: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Measured:
    """Times of one function.

    Attributes:
        seconds: One run each: float64 [iterations], in the order measured.
        rounds: The round of each: int64 [iterations]; the same for all that were measured together.
        warmup: What went before.
    """

    seconds: NDArray[np.float64]
    rounds: NDArray[np.int64]
    warmup: Warmup


def summarize(seconds: NDArray[np.float64], batch_size: int) -> Latency:
    """Percentiles of the times [iterations] of one run of a batch, in seconds."""
    p50, p90, p99 = (float(p) for p in np.percentile(seconds * 1e3, (50, 90, 99)))
    mean = float(seconds.mean())
    return Latency(p50, p90, p99, mean * 1e3, float(seconds.min()) * 1e3, batch_size / mean)


def ratio(model: Measured, first: Measured, *, seed: int = 0) -> Ratio:
    """Compare the medians of two series that were measured in turns; method in the docstring above.

    Args:
        model: Times above the fraction bar.
        first: Times below it, of the same rounds.
        seed: Draws the rounds.
    """
    quotient = float(np.median(model.seconds) / np.median(first.seconds))
    last = int(model.rounds.max(initial=-1)) + 1
    if last < FEWEST_ROUNDS:
        return Ratio(quotient, None)
    generator = np.random.default_rng(seed)
    times_drawn = generator.multinomial(last, np.full(last, 1 / last), RESAMPLES)
    ratios = _medians(model, times_drawn) / _medians(first, times_drawn)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return Ratio(quotient, (float(low), float(high)))


def _medians(measured: Measured, times_drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """The (lower) median of each resample; `times_drawn` [resamples, rounds] counts its rounds."""
    order = np.argsort(measured.seconds)
    seconds, rounds = measured.seconds[order], measured.rounds[order]
    medians = np.empty(len(times_drawn))
    for index, drawn in enumerate(times_drawn):
        below = np.cumsum(drawn[rounds])
        medians[index] = seconds[np.searchsorted(below, below[-1] / 2)]
    return medians


def measure(
    runs: Sequence[Run],
    *,
    warmup: int = 10,
    iterations: int = 100,
    progress: Progress | None = None,
) -> list[Measured]:
    """Time several functions in turns.

    Args:
        runs: What to time, each without arguments.
        warmup: Runs in a window of warm-up; 0 for no warm-up.
        iterations: Timed runs of each.
        progress: Called with (timed runs done, timed runs in all) after each turn.

    Raises:
        InputError: warmup is negative or iterations below one.
    """
    if warmup < 0 or iterations < 1:
        raise InputError(
            f"warmup {warmup} must be at least 0 and iterations {iterations} at least 1"
        )
    warmups = [warm_up(run, warmup) for run in runs]
    shares = _shares(iterations)
    times: list[list[float]] = [[] for _ in runs]
    for round_, share in enumerate(shares):
        for turn in range(len(runs)):
            index = (round_ + turn) % len(runs)
            runs[index]()
            times[index] += _timed(runs[index], share)
            if progress is not None:
                progress(sum(map(len, times)), iterations * len(runs))
    rounds = np.repeat(np.arange(len(shares)), shares)
    return [
        Measured(np.asarray(series, np.float64), rounds, warmed)
        for series, warmed in zip(times, warmups, strict=True)
    ]


def warm_up(run: Run, window: int) -> Warmup:
    """Run until the times settle, or for as long as the rule at the top allows.

    Args:
        run: What to run.
        window: Runs whose median is compared with the median of as many before; 0 for none.
    """
    if window == 0:
        return Warmup(0, stable=False)
    started = time.perf_counter()
    before = float(np.median(_timed(run, window)))
    for windows in range(2, WARMUP_WINDOWS + 1):
        if time.perf_counter() - started > WARMUP_LIMIT_S:
            return Warmup(window * (windows - 1), stable=False)
        now = float(np.median(_timed(run, window)))
        if abs(now - before) <= WARMUP_TOLERANCE * before:
            return Warmup(window * windows, stable=True)
        before = now
    return Warmup(window * WARMUP_WINDOWS, stable=False)


def random_samples(spec: InputSpec, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Numbers from 0 to 1, or to 255 for a model that takes pixels; the same each time.

    Raises:
        InputError: memory does not hold them.
    """
    with _room_for(spec, shape):
        samples = np.random.default_rng(0).random(shape, np.float32)
        return samples * 255 if spec.dtype == np.uint8 else samples


def fill_batch(
    spec: InputSpec, batch_size: int, samples: NDArray[np.generic] | None = None
) -> NDArray[np.generic]:
    """A batch of the type and shape that a model takes.

    Args:
        spec: The model's input.
        batch_size: Samples in the batch.
        samples: Real samples [N, ...] in the input's layout, repeated to fill the batch; without
            them the batch is random.

    Returns:
        Contiguous, [batch_size, ...].

    Raises:
        InputError: the file fixes another batch size, an axis is open and there are no samples, or
            memory does not hold the batch.
        DataError: the samples do not fit the input.
    """
    check_batch_size(spec, batch_size)
    if samples is None:
        samples = random_samples(spec, (batch_size, *_closed_axes(spec)))
    check_samples(spec, samples.shape)
    shape = (batch_size, *samples.shape[1:])
    with _room_for(spec, shape):
        batch = np.empty(shape, spec.dtype)
    for start in range(0, batch_size, len(samples)):
        batch[start : start + len(samples)] = samples[: batch_size - start]
    return batch


@contextmanager
def _room_for(spec: InputSpec, shape: tuple[int, ...]) -> Iterator[None]:
    """Say so where memory does not hold samples of a shape."""
    try:
        yield
    except (MemoryError, OverflowError, ValueError) as error:  # numpy's for what it cannot address
        raise InputError(
            f"memory does not hold {list(shape)} for the model's input {spec.name!r}: give a "
            "smaller --batch-size, or a model of smaller images"
        ) from error


def check_batch_size(spec: InputSpec, batch_size: int) -> None:
    """Compare a batch size with the one that a file fixes, if it does.

    Raises:
        InputError: they differ.
    """
    fixed = spec.shape[0] if spec.shape else None
    if fixed == 0:
        raise InputError(
            f"the model's input {spec.name!r} takes no samples, {list(spec.shape)}: make its first "
            "axis 1, or leave it open"
        )
    if isinstance(fixed, int) and fixed != batch_size:
        raise InputError(
            f"the model takes batches of {fixed} only, not of {batch_size}: "
            f"give --batch-size {fixed}"
        )


def _closed_axes(spec: InputSpec) -> tuple[int, ...]:
    axes = spec.shape[1:]
    closed = tuple(axis for axis in axes if isinstance(axis, int))
    if len(closed) < len(axes):
        raise InputError(
            f"the model's input {spec.name!r} has open axes {list(spec.shape)}: give --data, so "
            "that there are samples to run it on, or --input-shape"
        )
    return closed


def _shares(iterations: int) -> list[int]:
    rounds = min(ROUNDS, iterations)
    return [iterations // rounds + (index < iterations % rounds) for index in range(rounds)]


def _timed(run: Run, times: int) -> list[float]:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds
