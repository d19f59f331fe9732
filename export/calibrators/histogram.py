"""A histogram of fixed size that grows with its data: one pass, any number of values.

Bins are centered on the whole multiples of a step, a power of two, so that zero, which half the
values of a network are, keeps a bin of its own. A value beyond the last bin doubles the step: a bin
of even index takes the new one whole, one of odd index is shared by its two neighbours. A value is
thus never counted further than one step from where it belongs, and the step is the same in whatever
order the values came.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Bins on each side of zero; between this and half of it are in use on the longer side.
HALF_BINS = 1 << 13
_HALF_EXPONENT = 13
# A step whose inverse is a finite, normal float32.
_LEAST_EXPONENT = -120
# Values counted at a time: what scaling and indexing need for them fits in a cache.
_CHUNK = 1 << 16


@dataclass
class Histogram:
    """Counts of values in bins around the multiples of `2**exponent`.

    Attributes:
        exponent: Binary logarithm of the step.
        counts: Values in each bin: int64 [2 * HALF_BINS + 1], zero's bin in the middle.
    """

    exponent: int = _LEAST_EXPONENT
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2 * HALF_BINS + 1, np.int64))

    @property
    def step(self) -> float:
        """Distance between the centers of bins."""
        return math.ldexp(1.0, self.exponent)

    @property
    def centers(self) -> NDArray[np.float64]:
        """The value that each bin stands for."""
        return np.arange(-HALF_BINS, HALF_BINS + 1, dtype=np.float64) * self.step

    def add(self, values: NDArray[np.float32], largest: float) -> None:
        """Count values, all finite, whose greatest absolute value is `largest`."""
        self.coarsen(_exponent(largest))
        inverse = np.float32(math.ldexp(1.0, -self.exponent))
        flat = values.reshape(-1)
        scaled = np.empty(min(_CHUNK, flat.size), np.float32)
        index = np.empty(scaled.size, np.intp)
        for start in range(0, flat.size, _CHUNK):
            part = flat[start : start + _CHUNK]
            size = part.size
            np.multiply(part, inverse, out=scaled[:size])
            np.rint(scaled[:size], out=scaled[:size])
            np.add(scaled[:size], HALF_BINS, out=index[:size], casting="unsafe")
            found = np.bincount(index[:size])
            self.counts[: found.size] += found

    def coarsen(self, exponent: int) -> None:
        """Double the step until it is `2**exponent`, or leave it where it is larger already."""
        if not self.counts.any():
            self.exponent = max(self.exponent, exponent)
        while self.exponent < exponent:
            self.counts = _halved(self.counts)
            self.exponent += 1

    def clamped(self, low: float, high: float) -> Histogram:
        """The histogram of the same values clamped to low..high."""
        first, last = (
            HALF_BINS + round(min(max(bound / self.step, -HALF_BINS), HALF_BINS))
            for bound in (low, high)
        )
        counts = np.zeros_like(self.counts)
        counts[first : last + 1] = self.counts[first : last + 1]
        counts[first] += self.counts[:first].sum()
        counts[last] += self.counts[last + 1 :].sum()
        return Histogram(self.exponent, counts)


def joined(parts: Iterable[Histogram]) -> Histogram:
    """The histogram of the values of several; those given are not changed."""
    copies = [Histogram(part.exponent, part.counts) for part in parts]
    exponent = max(part.exponent for part in copies)
    for part in copies:
        part.coarsen(exponent)
    return Histogram(exponent, np.sum([part.counts for part in copies], axis=0))


def _exponent(largest: float) -> int:
    """The least exponent at which the last bin reaches `largest`; zero asks for none."""
    if largest == 0:
        return _LEAST_EXPONENT
    return max(_LEAST_EXPONENT, math.frexp(largest)[1] - _HALF_EXPONENT)


def _halved(counts: NDArray[Any]) -> NDArray[Any]:
    """The counts at twice the step; of an odd number, the greater half goes away from zero."""
    even, odd = counts[::2].copy(), counts[1::2]
    less = odd // 2
    more = odd - less
    half = odd.size // 2
    even[:half] += more[:half]
    even[1 : half + 1] += less[:half]
    even[half:-1] += less[half:]
    even[half + 1 :] += more[half:]
    result = np.zeros_like(counts)
    quarter = counts.size // 4
    result[quarter : quarter + even.size] = even
    return result
