"""Mean squared error: the range whose codes are closest to the values, clipping included.

Minimizes sum of n(x) (x - q(x))^2 over the centers x of the bins, where q rounds to the codes that
the range gives: scale (high - low) / (levels - 1), zero point round(-low / scale). It is what is
left of Sung et al. (Resiliency of Deep Neural Networks under Quantization, 2015) once the values'
own histogram stands in for a distribution fitted to them; Nagel et al. (A White Paper on Neural
Network Quantization, 2021, section 2.3.1) advise it.

The ends are searched for in turns, each over all of its candidates with the other one held, until
neither moves. That finds the common minimum: the error is one convex term for each end, what that
end clips, and one term for rounding, about (high - low)^2 / 12 / levels^2 a value, convex in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.export.calibrators.histogram import HALF_BINS, Histogram
from edgekit.export.calibrators.methods import with_zero
from edgekit.export.calibrators.observe import Observation

# An end is tried at 2^(-k / 32) of the extreme, down to 1 / 256 of it.
FRACTIONS = np.exp2(-np.arange(257) / 32)
_MOST_TURNS = 20


@dataclass(frozen=True)
class MeanSquaredError:
    """The range of least squared error."""

    histograms: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)

    def range_of(self, seen: Observation, levels: int) -> tuple[float, float]:
        """See `RangeMethod.range_of`."""
        assert seen.histogram is not None
        low, high = with_zero(seen.low, seen.high)
        if levels > HALF_BINS or low == high:  # codes finer than bins round nothing
            return low, high
        errors = SquaredError(seen.histogram, levels)
        lows, highs = low * FRACTIONS, high * FRACTIONS
        for _ in range(_MOST_TURNS):
            before = low, high
            high = _best(errors, np.full_like(highs, low), highs)[1]
            low = _best(errors, lows, np.full_like(lows, high))[0]
            if (low, high) == before:
                break
        return low, high


class SquaredError:
    """The squared error that ranges cause, from sums over the bins up to each."""

    def __init__(self, histogram: Histogram, levels: int) -> None:
        centers, counts = histogram.centers, histogram.counts.astype(np.float64)
        self._step = histogram.step
        self._levels = levels
        self._sums = [
            np.concatenate([[0.0], np.cumsum(counts * centers**power)]) for power in range(3)
        ]

    def __call__(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum over all values for each range [R]; no range may be of length zero."""
        scale = (high - low) / (self._levels - 1)
        zero_point = np.rint(-low / scale)
        codes = (np.arange(self._levels) - zero_point[:, None]) * scale[:, None]
        borders = (codes[:, 1:] + codes[:, :-1]) / 2
        bins = np.ceil(borders / self._step).astype(np.int64) + HALF_BINS
        last = len(self._sums[0]) - 1
        ends = np.pad(np.clip(bins, 0, last), ((0, 0), (1, 1)), constant_values=((0, 0), (0, last)))
        count, total, squares = (np.diff(sums[ends], axis=1) for sums in self._sums)
        error: NDArray[np.float64] = (squares - 2 * codes * total + codes**2 * count).sum(axis=1)
        return error


def _best(
    errors: SquaredError, lows: NDArray[np.float64], highs: NDArray[np.float64]
) -> tuple[float, float]:
    """The range of least error; the widest of several, as they come widest first."""
    kept = highs > lows
    lows, highs = lows[kept], highs[kept]
    best = int(np.argmin(errors(lows, highs)))
    return float(lows[best]), float(highs[best])
