"""Min-max: the least and the greatest value of all, so that nothing is clipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekit.export.calibrators.methods import with_zero
from edgekit.export.calibrators.observe import Observation


@dataclass(frozen=True)
class MinMax:
    """The whole range."""

    histograms: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def range_of(self, seen: Observation, levels: int) -> tuple[float, float]:  # noqa: ARG002
        """See `RangeMethod.range_of`."""
        return with_zero(seen.low, seen.high)
