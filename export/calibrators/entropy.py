"""Entropy: the range whose coarse histogram tells most of the fine one (Kullback-Leibler).

Migacz (8-bit Inference with TensorRT, GTC 2017) in the form of onnxruntime's entropy calibrator:
for each threshold T among the borders of a histogram that is symmetric around zero, the values
within [-T, T], those beyond added to its outermost bins, are compared with the same values merged
into `quantized_bins` bins and spread evenly over the fine ones again; both
are smoothed by 0.0001. T of the least divergence is taken, and cut to the values seen, so that a
tensor without values below zero keeps zero as its end.

Zeros, of which ReLU makes half of all values and which any range expresses exactly, would count as
if merging their bin with the next lost them, and clip far too much: zero's bin is given the mean of
its neighbours where it has more, as TensorRT's own histograms leave zeros out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.export.calibrators.histogram import HALF_BINS, Histogram
from edgekit.export.calibrators.methods import with_zero
from edgekit.export.calibrators.observe import Observation

_SMOOTHING = 1e-4


@dataclass(frozen=True)
class Entropy:
    """The symmetric range of least divergence.

    Attributes:
        half_bins: Bins of the fine histogram on each side of zero, a power of two.
        quantized_bins: Bins of the coarse one on both sides.
        histograms: It looks at them.
    """

    half_bins: int = 512
    quantized_bins: int = 128
    histograms: bool = True

    @property
    def settings(self) -> Mapping[str, Any]:
        """Bins of the fine histogram, and of the coarse one."""
        return {"bins": 2 * self.half_bins + 1, "quantized_bins": self.quantized_bins}

    def range_of(self, seen: Observation, levels: int) -> tuple[float, float]:
        """See `RangeMethod.range_of`."""
        assert seen.histogram is not None
        low, high = with_zero(seen.low, seen.high)
        if levels > HALF_BINS or low == high:  # codes finer than bins merge nothing
            return low, high
        coarse = Histogram(seen.histogram.exponent, seen.histogram.counts)
        coarse.coarsen(coarse.exponent + (HALF_BINS // self.half_bins).bit_length() - 1)
        counts = coarse.counts[HALF_BINS - self.half_bins : HALF_BINS + self.half_bins + 1]
        reach = divergent_reach(_without_zeros(counts), self.quantized_bins)
        threshold = (reach + 0.5) * coarse.step
        return max(low, -threshold), min(high, threshold)


def _without_zeros(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    middle = counts.size // 2
    others = counts.copy()
    others[middle] = min(others[middle], (others[middle - 1] + others[middle + 1]) // 2)
    return others


def divergent_reach(counts: NDArray[np.int64], quantized_bins: int) -> int:
    """How many bins on either side of the middle one a range of least divergence holds.

    Args:
        counts: Values in each bin, an odd number of them.
        quantized_bins: Bins to merge them into.
    """
    middle = counts.size // 2
    reaches = range(quantized_bins // 2, middle + 1)
    divergences = [_divergence(counts, middle - r, middle + r + 1, quantized_bins) for r in reaches]
    return reaches[int(np.argmin(divergences))]


def _divergence(counts: NDArray[np.int64], start: int, end: int, quantized_bins: int) -> float:
    """Kullback-Leibler divergence of the merged from the clipped histogram."""
    inner = counts[start:end]
    clipped = inner.copy()
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[end:].sum()
    if not clipped.any():
        return float("inf")
    filled = clipped != 0
    width = inner.size // quantized_bins
    whole = width * quantized_bins
    sums = inner[:whole].reshape(quantized_bins, width).sum(axis=1)
    sums[-1] += inner[whole:].sum()
    number = filled[:whole].reshape(quantized_bins, width).sum(axis=1)
    each = np.divide(sums, number, out=np.zeros(quantized_bins), where=number != 0).astype(np.int64)
    spread = np.zeros_like(inner)
    spread[:whole] = np.repeat(each, width)
    if not spread.any():
        return float("inf")
    p, q = (_smoothed(array) for array in (clipped, spread))
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum(p * np.log(p / q)))


def _smoothed(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The counts, with a little taken from each that is not zero and given to those that are."""
    empty = counts == 0
    number = int(empty.sum())
    taken = _SMOOTHING * number / (counts.size - number)
    return np.where(empty, _SMOOTHING, counts - taken)
