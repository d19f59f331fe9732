from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.export.calibrators.entropy import Entropy, divergent_reach
from edgekit.export.calibrators.extremes import AVERAGING, Extremes
from edgekit.export.calibrators.histogram import HALF_BINS, Histogram
from edgekit.export.calibrators.methods import RangeMethod
from edgekit.export.calibrators.minmax import MinMax
from edgekit.export.calibrators.moving_average import MovingAverage
from edgekit.export.calibrators.mse import FRACTIONS, MeanSquaredError
from edgekit.export.calibrators.observe import Observation
from edgekit.export.calibrators.percentile import Percentile
from edgekit.export.quiet import quiet

METHODS: tuple[RangeMethod, ...] = (
    MinMax(),
    MovingAverage(),
    Percentile(),
    Entropy(),
    MeanSquaredError(),
)


def draw(kind: str, count: int = 40_000) -> NDArray[np.float32]:
    generator = np.random.default_rng(3)
    values = {
        "normal": lambda: generator.normal(0, 1, count),
        "heavy": lambda: generator.standard_t(3, count),
        "relu": lambda: np.maximum(generator.standard_t(4, count), 0),
        "skewed": lambda: generator.gamma(0.5, 1, count) - 0.3,
        "negative": lambda: -generator.gamma(2, 1, count),
    }[kind]()
    return np.asarray(values, np.float32)


KINDS = ("normal", "heavy", "relu", "skewed", "negative")


def seen(values: NDArray[np.float32]) -> Observation:
    histogram = Histogram()
    histogram.add(values, float(np.abs(values).max()))
    low, high = float(values.min()), float(values.max())
    return Observation(low, high, low / 2, high / 2, histogram)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_a_range_holds_zero_and_nothing_that_was_not_seen(method: RangeMethod, kind: str) -> None:
    values = draw(kind)
    low, high = method.range_of(seen(values), 256)
    assert min(values.min(), 0) <= low <= 0 <= high <= max(values.max(), 0)
    if values.min() >= 0:
        assert low == 0
    if values.max() <= 0:
        assert high == 0


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_tensor_of_zeros_has_no_range(method: RangeMethod) -> None:
    assert method.range_of(seen(np.zeros(100, np.float32)), 256) == (0, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9, 99.99, 100.0])
def test_percentile_is_numpys_within_a_bin(kind: str, percentile: float) -> None:
    values = draw(kind)
    tensor = seen(values)
    assert tensor.histogram is not None
    cut = (100 - percentile) / 200
    exact = np.quantile(values.astype(np.float64), [cut, 1 - cut], method="inverted_cdf")
    expected = min(exact[0], 0), max(exact[1], 0)
    found = Percentile(percentile).range_of(tensor, 256)
    assert np.abs(np.subtract(found, expected)).max() <= tensor.histogram.step
    if percentile < 99.9:
        wrong = Percentile(100).range_of(tensor, 256)
        assert np.abs(np.subtract(wrong, expected)).max() > 10 * tensor.histogram.step


def squared_error(values: NDArray[np.float32], low: float, high: float, levels: int) -> float:
    """What quantization does to every value kept, one by one."""
    scale = (high - low) / (levels - 1)
    zero_point = np.rint(-low / scale)
    codes = np.clip(np.rint(values.astype(np.float64) / scale) + zero_point, 0, levels - 1)
    return float((((codes - zero_point) * scale - values) ** 2).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [16, 256])
def test_mse_is_that_of_an_exhaustive_search(kind: str, levels: int) -> None:
    values = draw(kind, 4000)
    low, high = min(float(values.min()), 0), max(float(values.max()), 0)
    lows, highs = ({end * fraction for fraction in FRACTIONS[:129:8]} for end in (low, high))
    best = min(squared_error(values, a, b, levels) for a in lows for b in highs if b > a)
    found = squared_error(values, *MeanSquaredError().range_of(seen(values), levels), levels)
    assert found <= 1.01 * best
    if levels == 16:
        assert squared_error(values, low, high, levels) > 1.01 * best


def test_mse_of_sixteen_bits_clips_nothing() -> None:
    values = draw("heavy")
    assert MeanSquaredError().range_of(seen(values), 1 << 16) == (values.min(), values.max())


@pytest.mark.parametrize("kind", ["normal", "heavy", "relu", "skewed"])
@pytest.mark.parametrize("quantized_bins", [32, 128])
def test_entropy_is_onnxruntimes_on_the_same_histogram(kind: str, quantized_bins: int) -> None:
    from onnxruntime.quantization.calibrate import HistogramCollector

    values = draw(kind)
    threshold = np.abs(values).max()
    counts, edges = np.histogram(values, 257, (-threshold, threshold))
    edges = edges.astype(np.float32)
    with quiet():
        collector = HistogramCollector("entropy", False, 257, quantized_bins, None, None)
        given = counts, edges, -threshold, threshold, threshold
        expected = collector.get_entropy_threshold(given, quantized_bins)
    reach = divergent_reach(counts, quantized_bins)
    assert (edges[128 - reach], edges[129 + reach]) == expected
    assert (edges[128 - reach + 1], edges[129 + reach - 1]) != expected


def test_entropy_clips_outliers() -> None:
    values = draw("normal")
    values[0] = 100
    low, high = Entropy().range_of(seen(values), 256)
    assert -50 < low < -2 < 2 < high < 50


def test_entropy_of_many_zeros_clips_no_more_than_without_them() -> None:
    values = draw("relu")
    more = np.concatenate([values, np.zeros(10 * values.size, np.float32)])
    low, high = Entropy().range_of(seen(values), 256)
    assert Entropy().range_of(seen(more), 256) == (low, high)
    tensor = seen(more)
    assert tensor.histogram is not None
    counts = tensor.histogram.counts
    tensor.histogram.coarsen(tensor.histogram.exponent + 4)
    counts = tensor.histogram.counts[HALF_BINS - 512 : HALF_BINS + 513]
    assert (divergent_reach(counts, 128) + 1) * tensor.histogram.step < high / 2


def test_moving_averages_do_not_depend_on_batches() -> None:
    generator = np.random.default_rng(0)
    high = generator.gamma(2, 1, (2, 50))
    low = -generator.gamma(2, 1, (2, 50))
    expected = high[:, 0]
    for sample in range(1, 50):
        expected = expected + AVERAGING * (high[:, sample] - expected)
    for size in (1, 7, 50):
        extremes = Extremes(["a", "b"])
        for start in range(0, 50, size):
            extremes.add(low[:, start : start + size], high[:, start : start + size])
        np.testing.assert_allclose(extremes.averages[1], expected, rtol=1e-12)
        np.testing.assert_array_equal(extremes.high, high.max(axis=1))
        np.testing.assert_array_equal(extremes.low, low.min(axis=1))
    assert not np.allclose(expected, high.mean(axis=1))


def test_a_sample_that_stretches_a_range_is_named() -> None:
    high = np.full((3, 20), 1.0)
    low = np.full((3, 20), -1.0)
    high[0, 7] = 40
    low[1, 11] = -25
    high[2, 3] = 5
    extremes = Extremes(["up", "down", "fine"])
    for start in range(0, 20, 5):
        extremes.add(low[:, start : start + 5], high[:, start : start + 5])
    found = {(one.tensor, one.sample, one.without, one.with_it) for one in extremes.outliers()}
    assert found == {("up", 7, 2.0, 41.0), ("down", 11, 2.0, 26.0)}


def test_two_samples_that_stretch_a_range_alike_are_no_outliers() -> None:
    high = np.full((1, 20), 1.0)
    high[0, [3, 15]] = 100
    extremes = Extremes(["a"])
    extremes.add(-np.ones((1, 20)), high)
    assert list(extremes.outliers()) == []
