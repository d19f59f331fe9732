"""What a conversion costs in accuracy, and how much it may."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from edgekit import console
from edgekit.commands.images import DataSource
from edgekit.export.graph import session_source
from edgekit.runtime.accuracy import evaluate
from edgekit.runtime.data.source import Split
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.runtime.session import open_session

DEFAULT_SECONDS = 300.0


@dataclass(frozen=True)
class DropLimit:
    """How much accuracy a conversion may cost.

    Attributes:
        points: Percentage points of top-1 accuracy.
        data: A data set, of which the test part is used; None for the calibration data's training
            images that calibration did not use.
        seconds: Time for the search for layers to spare, looked at between its steps.
    """

    points: float
    data: DataSource | None = None
    seconds: float = DEFAULT_SECONDS


@dataclass(frozen=True)
class AccuracyDrop:
    """What a conversion cost.

    Attributes:
        data: What it was measured on.
        samples: Images.
        before: Top-1 of the float model, 0 to 1.
        after: Top-1 of the converted model, 0 to 1.
    """

    data: str
    samples: int
    before: float
    after: float

    @property
    def points(self) -> float:
        """Percentage points lost; negative where accuracy rose."""
        return (self.before - self.after) * 100

    def __str__(self) -> str:
        return (
            f"{self.points:.2f} points, {self.before:.2%} to {self.after:.2%} on {self.samples} "
            f"images of {self.data}"
        )


class DropMeter:
    """Measures conversions of one model on the same images; the model itself only once."""

    def __init__(
        self,
        model: ir.Model,
        preprocessing: Preprocessing,
        split: Split,
        batch_size: int | None = None,
    ) -> None:
        """Measure on all images of `split`, `batch_size` at once."""
        self._model, self._preprocessing = model, preprocessing
        self._split, self._batch_size = split, batch_size

    def drop(self, converted: ir.Model, label: str = "converted") -> AccuracyDrop:
        """What a conversion costs.

        Raises:
            DataError: the images do not fit the models.
        """
        data = f"{self._split.name} ({self._split.part})"
        before = self._before
        return AccuracyDrop(data, len(self._split), before, self._top1(converted, label))

    @cached_property
    def _before(self) -> float:
        return self._top1(self._model, "float")

    def _top1(self, model: ir.Model, label: str) -> float:
        with session_source(model) as source, console.progress(f"accuracy, {label}") as advance:
            return evaluate(
                open_session(source),
                self._preprocessing,
                self._split,
                batch_size=self._batch_size,
                progress=advance,
            ).top1
