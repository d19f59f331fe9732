from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.bench import latency
from edgekit.bench.candidate import read_candidate
from edgekit.bench.engine_onnxruntime import OnnxruntimeModel
from edgekit.bench.latency import (
    Measured,
    Warmup,
    fill_batch,
    measure,
    ratio,
    summarize,
    warm_up,
)
from edgekit.bench.settings import BenchSettings
from edgekit.export.graph import load_graph, model_preprocessing, save_graph
from edgekit.export.uint8_input import take_pixels
from edgekit.runtime.errors import DataError, InputError
from edgekit.runtime.session import InputSpec

FLOATS = np.dtype(np.float32)


def test_models_take_turns_and_each_round_starts_with_another() -> None:
    calls: list[str] = []
    runs = [lambda: calls.append("a"), lambda: calls.append("b")]
    measured = measure(runs, warmup=0, iterations=40)
    assert [len(one.seconds) for one in measured] == [40, 40]
    assert "".join(calls) == ("aaabbb" + "bbbaaa") * 10  # a refill and two timed runs
    np.testing.assert_array_equal(measured[0].rounds, np.repeat(np.arange(20), 2))


def test_an_uneven_number_of_iterations_is_run_in_full() -> None:
    done: list[tuple[int, int]] = []
    (one,) = measure([int], warmup=0, iterations=23, progress=lambda *step: done.append(step))
    assert len(one.seconds) == len(one.rounds) == 23
    assert list(np.bincount(one.rounds)) == [2] * 3 + [1] * 17
    assert done[-1] == (23, 23)


def test_times_are_the_time_of_one_run() -> None:
    (one,) = measure([lambda: time.sleep(0.002)], warmup=0, iterations=5)
    assert 0.002 <= one.seconds.min() < 0.05


@pytest.fixture
def runs_that_last(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], None]]:
    """A function whose runs last so long on a clock of its own; the last time for ever after."""
    now = 0.0
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: now))

    def build(*seconds: float) -> Callable[[], None]:
        times = itertools.chain(seconds, itertools.repeat(seconds[-1]))

        def run() -> None:
            nonlocal now
            now += next(times)

        return run

    return build


def test_warm_up_ends_when_two_windows_agree(
    runs_that_last: Callable[..., Callable[[], None]],
) -> None:
    assert warm_up(runs_that_last(0.01), 2) == Warmup(4, stable=True)
    slow_start = runs_that_last(*[0.04] * 3, *[0.02] * 3, 0.01)
    assert warm_up(slow_start, 3) == Warmup(12, stable=True)


def test_warm_up_that_never_settles_ends_and_says_so(
    runs_that_last: Callable[..., Callable[[], None]],
) -> None:
    growing = runs_that_last(*(0.001 * 1.1**run for run in range(10)))
    assert warm_up(growing, 1) == Warmup(10, stable=False)
    assert warm_up(runs_that_last(4.0), 3) == Warmup(3, stable=False)
    assert warm_up(int, 0) == Warmup(0, stable=False)


def test_percentiles_are_in_milliseconds() -> None:
    found = summarize(np.arange(1, 101) / 1000, batch_size=4)
    assert (found.min_ms, found.p50_ms, found.mean_ms) == pytest.approx((1, 50.5, 50.5))
    assert found.p90_ms == pytest.approx(90.1)
    assert found.p99_ms == pytest.approx(99.01)
    assert found.throughput_ips == pytest.approx(4 / 0.0505)


def series(seconds: NDArray[np.float64], rounds: NDArray[np.int64]) -> Measured:
    return Measured(seconds, rounds, Warmup(0, stable=False))


def drifting_pair(seed: int, true_ratio: float) -> tuple[Measured, Measured]:
    """Two series of a known ratio, on a machine that is slower in some rounds than in others."""
    rng = np.random.default_rng(seed)
    rounds = np.repeat(np.arange(20), 5)
    drift = np.exp(rng.normal(0, 0.3, 20))[rounds]
    noise = np.exp(rng.normal(0, 0.02, (2, 100)))
    return series(true_ratio * drift * noise[0], rounds), series(drift * noise[1], rounds)


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    held = missed_wrong = 0
    for seed in range(40):
        found = ratio(*drifting_pair(seed, 0.8))
        assert found.ci95 is not None
        low, high = found.ci95
        held += low <= 0.8 <= high
        missed_wrong += not low <= 0.9 <= high
    assert held >= 34  # 95% of 40 is 38; a true share of 95% falls below 34 once in 300 times
    assert missed_wrong >= 34  # an interval that held everything would not do


def test_drift_that_meets_both_models_does_not_widen_the_interval() -> None:
    model, first = drifting_pair(3, 0.8)
    found = ratio(model, first)
    assert found.ci95 is not None
    moved = series(np.roll(first.seconds, 50), first.rounds)  # the same times in other rounds
    apart = ratio(model, moved)
    assert apart.ci95 is not None
    assert found.ci95[1] - found.ci95[0] < 0.5 * (apart.ci95[1] - apart.ci95[0])


def test_a_model_beside_itself_is_at_one_and_few_rounds_give_no_interval() -> None:
    model, _ = drifting_pair(0, 1.0)
    assert ratio(model, model).ci95 == (1.0, 1.0)
    short = series(np.ones(4), np.arange(4))
    assert (ratio(short, short).p50, ratio(short, short).ci95) == (1.0, None)


@pytest.mark.parametrize(("warmup", "iterations"), [(-1, 5), (0, 0)])
def test_counts_out_of_range_are_refused(warmup: int, iterations: int) -> None:
    with pytest.raises(InputError, match="at least"):
        measure([int], warmup=warmup, iterations=iterations)


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64, np.uint8])
def test_the_batch_has_the_type_that_the_model_takes(kind: type[np.generic]) -> None:
    batch = fill_batch(InputSpec("x", ("n", 3), np.dtype(kind)), 5)
    assert (batch.dtype, batch.shape) == (kind, (5, 3))
    assert batch.astype(np.float64).std() > 0


def test_a_model_of_pixels_is_timed_on_pixels(
    classifier_file: Callable[..., Path], tmp_path: Path
) -> None:
    model = load_graph(classifier_file())
    preprocessing = model_preprocessing(model)
    assert preprocessing is not None
    save_graph(take_pixels(model, preprocessing), tmp_path / "pixels.onnx")
    batch = read_candidate(tmp_path / "pixels.onnx", None, BenchSettings()).batch(
        None, BenchSettings(), 4
    )
    assert batch.dtype == np.uint8
    assert batch.max() > 200
    assert np.ptp(batch, axis=0).max() > 50  # no sample is the others'


def test_real_samples_fill_the_batch() -> None:
    samples = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    batch = fill_batch(InputSpec("x", ("n", 3), FLOATS), 3, samples)
    np.testing.assert_array_equal(batch, [[1, 2, 3], [4, 5, 6], [1, 2, 3]])


def test_a_fixed_batch_says_which_one() -> None:
    with pytest.raises(InputError, match="--batch-size 8"):
        fill_batch(InputSpec("x", (8, 3), FLOATS), 1)


def test_samples_of_another_size_are_refused() -> None:
    with pytest.raises(DataError, match=r"takes \['n', 3\], the data gives \['N', 4\]"):
        fill_batch(InputSpec("x", ("n", 3), FLOATS), 1, np.zeros((1, 4), np.float32))


def test_open_axes_need_samples() -> None:
    with pytest.raises(InputError, match="open axes"):
        fill_batch(InputSpec("x", ("n", "m"), FLOATS), 1)


@pytest.mark.parametrize("batch_size", [10**12, 10**30])
def test_a_batch_beyond_memory_is_refused(batch_size: int) -> None:
    spec = InputSpec("x", ("n", 3, 100, 100), FLOATS)
    samples = np.zeros((1, 3, 100, 100), np.uint8)
    for given in (None, samples):
        with pytest.raises(InputError, match=r"memory does not hold .*'x'.* --batch-size"):
            fill_batch(spec, batch_size, given)


def test_a_model_that_does_more_takes_longer(classifier_file: Callable[..., Path]) -> None:
    loaded = OnnxruntimeModel(classifier_file(), 1)
    small, large = (loaded.bind(fill_batch(loaded.input, size)) for size in (1, 512))
    times = measure([small, large], warmup=2, iterations=10)
    assert np.median(times[1].seconds) > np.median(times[0].seconds)
    assert ratio(times[1], times[0]).p50 > 1
