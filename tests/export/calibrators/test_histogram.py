from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.export.calibrators.histogram import HALF_BINS, Histogram, joined


def histogram_of(*parts: NDArray[np.float32]) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part, float(np.abs(part).max(initial=0)))
    return histogram


def normal(count: int, scale: float = 1.0, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, scale, count).astype(np.float32)


def displacement(histogram: Histogram, values: NDArray[np.float32]) -> float:
    """How far, in steps, a value is from the bin that holds its place in order."""
    counted = np.repeat(histogram.centers, histogram.counts)
    return float(np.abs(counted - np.sort(values)).max() / histogram.step)


def test_values_of_one_part_lie_within_half_a_step() -> None:
    values = normal(300_000)
    histogram = histogram_of(values)
    assert histogram.counts.sum() == values.size
    assert displacement(histogram, values) <= 0.5
    assert displacement(histogram, values + np.float32(histogram.step)) > 0.9


def test_values_stay_within_a_step_however_the_range_grows() -> None:
    parts = [normal(5000, 10.0**power, power + 9) for power in range(-6, 4)]
    histogram = histogram_of(*parts)
    values = np.concatenate(parts)
    assert histogram.counts.sum() == values.size
    assert displacement(histogram, values) <= 1
    largest = np.abs(values).max()
    assert HALF_BINS / 2 < largest / histogram.step <= HALF_BINS


def test_the_step_does_not_depend_on_the_order() -> None:
    parts = [normal(100, scale) for scale in (0.1, 3.0, 200.0)]
    found = [histogram_of(*order) for order in permutations(parts)]
    assert len({one.exponent for one in found}) == 1
    assert all(one.counts[HALF_BINS] >= 0 and one.counts.sum() == 300 for one in found)


def test_zeros_do_not_make_the_step_of_small_values_coarse() -> None:
    small = np.array([1e-6, -3e-6, 5e-6], np.float32)
    for parts in ((np.zeros(4, np.float32), small), (small, np.zeros(4, np.float32))):
        histogram = Histogram()
        for part in parts:
            histogram.add(part, float(np.abs(part).max()))
        assert histogram.step < 1e-9
        assert histogram.counts.sum() == 7
        assert histogram.counts[HALF_BINS] == 4


def test_zero_keeps_a_bin_of_its_own() -> None:
    histogram = histogram_of(np.zeros(1000, np.float32), np.array([1e-3, 7.0], np.float32))
    assert histogram.counts[HALF_BINS] >= 1000
    assert histogram.centers[HALF_BINS] == 0
    again = histogram_of(np.array([7.0], np.float32), np.zeros(1000, np.float32))
    assert again.counts[HALF_BINS] == 1000


@pytest.mark.parametrize("largest", [0.0, 1e-44, 1e-30, 1.0, 3e38])
def test_any_finite_magnitude_has_bins(largest: float) -> None:
    values = np.array([largest, -largest, largest / 2], np.float32)
    histogram = histogram_of(values)
    assert histogram.counts.sum() == 3
    assert displacement(histogram, values) <= 0.5


def test_doubling_treats_both_signs_alike() -> None:
    values = normal(4001)
    one, other = histogram_of(values), histogram_of(-values)
    for histogram in (one, other):
        histogram.coarsen(histogram.exponent + 5)
    np.testing.assert_array_equal(one.counts, other.counts[::-1])


def test_clamping_moves_what_is_beyond_to_the_bound() -> None:
    values = normal(50_000)
    histogram = histogram_of(values)
    for low, high in ((0.0, np.inf), (0.0, 1.0), (-0.5, 0.25), (-np.inf, -0.1)):
        found = histogram.clamped(low, high)
        assert displacement(found, np.clip(values, low, high)) <= 0.75
        assert displacement(found, values) > 100
    assert histogram.counts.sum() == values.size


def test_joining_counts_the_values_of_all() -> None:
    parts = [normal(3000, scale) for scale in (0.01, 1.0, 30.0)]
    found = [histogram_of(part) for part in parts]
    before = [one.counts.copy() for one in found]
    whole = joined(found)
    assert displacement(whole, np.concatenate(parts)) <= 1
    for one, counts in zip(found, before, strict=True):
        np.testing.assert_array_equal(one.counts, counts)
