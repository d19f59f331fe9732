"""Moving-average min-max: what the extremes of one sample usually are.

Over the samples in the order that they come, average += 0.01 * (extreme - average), from the
extremes of the first sample on (Jacob et al., Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference, CVPR 2018, section 3.1; the weight is that of PyTorch's
MovingAverageMinMaxObserver, which averages over batches and so depends on their size).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekit.export.calibrators.extremes import AVERAGING
from edgekit.export.calibrators.methods import with_zero
from edgekit.export.calibrators.observe import Observation


@dataclass(frozen=True)
class MovingAverage:
    """The average range of a sample."""

    histograms: bool = False
    settings: Mapping[str, Any] = field(default_factory=lambda: {"averaging": AVERAGING})

    def range_of(self, seen: Observation, levels: int) -> tuple[float, float]:  # noqa: ARG002
        """See `RangeMethod.range_of`."""
        return with_zero(seen.average_low, seen.average_high)
