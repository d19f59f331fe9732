"""Percentile: all but a given share of the values, the same share at either end.

Of n values in order, the ends are those at positions ceil(q n) for the quantiles q = (1 - p) / 2
and 1 - (1 - p) / 2, the inverse of the empirical distribution (Hyndman and Fan, The American
Statistician 50, 1996, type 1), to within the width of a bin. The end of a tensor without values
below zero, as after ReLU, stays zero. McKinstry et al. (Discovering Low-Precision Networks Close to
Full-Precision Networks, 2018) clip so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.export.calibrators.histogram import Histogram
from edgekit.export.calibrators.methods import with_zero
from edgekit.export.calibrators.observe import Observation


@dataclass(frozen=True)
class Percentile:
    """The range of `percentile` percent of the values."""

    percentile: float = 99.99
    histograms: bool = True

    @property
    def settings(self) -> Mapping[str, Any]:
        """Share of the values within the range, in percent."""
        return {"percentile": self.percentile}

    def range_of(self, seen: Observation, levels: int) -> tuple[float, float]:  # noqa: ARG002
        """See `RangeMethod.range_of`."""
        assert seen.histogram is not None
        cut = (100 - self.percentile) / 200
        low, high = (quantile(seen.histogram, share) for share in (cut, 1 - cut))
        return with_zero(max(low, seen.low), min(high, seen.high))


def quantile(histogram: Histogram, share: float) -> float:
    """The center of the bin that holds the value at position ceil(share * n) of n in order."""
    counted = np.cumsum(histogram.counts)
    position = max(1, math.ceil(share * float(counted[-1])))
    return float(histogram.centers[np.searchsorted(counted, position)])
