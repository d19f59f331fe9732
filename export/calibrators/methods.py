"""What a calibration method is: from what a tensor held to the range that its codes cover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from edgekit.export.calibrators.observe import Observation

# Lowest and highest value of each tensor, by its name.
Ranges = dict[str, tuple[float, float]]


class RangeMethod(Protocol):
    """A calibration method; the range that it finds is extended to zero, which must have a code."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its parameters, for a model's metadata."""

    @property
    def histograms(self) -> bool:
        """Whether it looks at histograms."""

    def range_of(self, seen: Observation, levels: int) -> tuple[float, float]:
        """Choose a range for `levels` equally spaced codes, one of them zero's.

        Returns:
            The lowest and the highest value to express, within what was seen.
        """


def with_zero(low: float, high: float) -> tuple[float, float]:
    """The range, extended to hold zero."""
    return min(low, 0.0) + 0.0, max(high, 0.0)  # -0.0 + 0.0 is 0.0
