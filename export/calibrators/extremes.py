"""The least and greatest values of tensors, sample by sample, as they stream by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Weight of a sample in the moving averages, that of PyTorch's MovingAverageMinMaxObserver.
AVERAGING = 0.01
# A range that is this many times longer with a sample than without it hangs on that sample.
STRETCH = 10.0
_KEPT = 2


@dataclass(frozen=True)
class Outlier:
    """A sample that alone makes a tensor's range `STRETCH` times longer, or more.

    Attributes:
        tensor: The tensor.
        sample: The sample's position in the calibration data.
        without: Length of the range, zero included, without the sample.
        with_it: And with it.
    """

    tensor: str
    sample: int
    without: float
    with_it: float


class Extremes:
    """Of T tensors: extremes, their moving averages, and the samples that hold them.

    Attributes:
        names: The tensors.
        samples: Samples seen.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.samples = 0
        # What is kept of each tensor: its two greatest values, and its two greatest negated.
        self._values = np.full((2, len(names), _KEPT), -np.inf)
        self._holders = np.full((2, len(names), _KEPT), -1)
        self._averages = np.zeros((2, len(names)))

    @property
    def low(self) -> NDArray[np.float64]:
        """The least value of each tensor [T]."""
        return -self._greatest(1)

    @property
    def high(self) -> NDArray[np.float64]:
        """The greatest value of each tensor [T]."""
        return self._greatest(0)

    @property
    def averages(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Moving averages over samples of the least and of the greatest values [T]."""
        return -self._averages[1], self._averages[0]

    def add(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        """See the extremes of each tensor in each of N more samples [T, N]."""
        count = low.shape[1]
        new = np.stack([high, -low])
        holders = np.broadcast_to(np.arange(self.samples, self.samples + count), new.shape)
        values = np.concatenate([self._values, new], axis=2)
        holders = np.concatenate([self._holders, holders], axis=2)
        kept = np.argpartition(-values, _KEPT - 1, axis=2)[:, :, :_KEPT]
        self._values = np.take_along_axis(values, kept, axis=2)
        self._holders = np.take_along_axis(holders, kept, axis=2)
        self._average(new)
        self.samples += count

    def _greatest(self, side: int) -> NDArray[np.float64]:
        greatest: NDArray[np.float64] = self._values[side].max(axis=1)
        return greatest

    def _average(self, new: NDArray[np.float64]) -> None:
        """Add AVERAGING * (sample - average), sample by sample, from the first on."""
        count = new.shape[2]
        weights = AVERAGING * (1 - AVERAGING) ** np.arange(count - 1, -1, -1)
        rest = (1 - AVERAGING) ** count
        if not self.samples:
            weights[0] = (1 - AVERAGING) ** (count - 1)
            rest = 0.0
        self._averages = rest * self._averages + new @ weights

    def outliers(self) -> Iterator[Outlier]:
        """The samples that stretch a range, tensor by tensor; none of a single sample."""
        if self.samples < _KEPT:
            return
        order = np.argsort(-self._values, axis=2)
        values = np.take_along_axis(self._values, order, axis=2)
        holders = np.take_along_axis(self._holders, order, axis=2)
        ends = np.maximum(values, 0)
        full = ends[:, :, 0].sum(axis=0)
        for side in (0, 1):
            sample = holders[side, :, 0]
            without = np.where(holders[:, :, 0] == sample, ends[:, :, 1], ends[:, :, 0]).sum(axis=0)
            for index in np.flatnonzero((full >= STRETCH * without) & (full > 0)):
                yield Outlier(
                    self.names[index], int(sample[index]), float(without[index]), float(full[index])
                )
