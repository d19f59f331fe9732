"""`edgekit quantize --max-drop`: what a conversion costs, and which layers to spare where too much.

Where the plain conversion loses more than it may, each layer is measured alone once (see
export.sensitivity), and the fewest of the most sensitive layers are kept in a higher precision with
which the loss is within the limit. Their number is found by doubling, then by bisection, which
takes for granted that keeping one more layer does not make the model worse. At least one layer
stays quantized. Each trial is measured on all of the images.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit import console
from edgekit.commands.accuracy_drop import AccuracyDrop, DropLimit, DropMeter
from edgekit.export.precisions import PRECISIONS
from edgekit.export.sensitivity import (
    Layer,
    Sensitivity,
    as_group,
    names_pattern,
    sensitivities,
)
from edgekit.runtime.errors import InputError

# Precisions whose layers can be spared one by one.
CODED = ("int8", "int16", "dynamic-int8")
# Images that the sensitivity of a layer is measured on.
SENSITIVITY_IMAGES = 64
# The part of the time in which layers are measured; those that it does not reach rank last.
_RANKING_SHARE = 0.5


def check_search(limit: DropLimit | None, precision: str) -> None:
    """Refuse a time to look for layers in where none are looked for.

    Raises:
        InputError: the precision is not one of codes.
    """
    timed = limit is not None and limit.seconds != DropLimit.seconds
    if timed and precision in PRECISIONS and precision not in CODED:
        raise InputError(f"--search-seconds: {precision} spares no layers; leave it out")


@dataclass(frozen=True)
class RankedLayer:
    """One layer of a search.

    Attributes:
        rank: 1 for the most sensitive.
        layer: Name of its operator with weights.
        op_type: That operator.
        sensitivity_db: Signal-to-noise ratio of the logits with this layer alone quantized; None
            where time ran out before it was measured.
        kept_as: What it computes in, in the file.
    """

    rank: int
    layer: str
    op_type: str
    sensitivity_db: float | None
    kept_as: str


@dataclass(frozen=True)
class Trial:
    """A number of layers kept, and the percentage points that were lost with them."""

    kept: int
    points: float


@dataclass(frozen=True)
class KeptLayers:
    """How a search for layers to spare ended.

    Attributes:
        limit: Percentage points that may be lost.
        met: Whether the file keeps to that.
        timed_out: Whether time ran out; fewer layers might do then.
        seconds: What the search took.
        fallback: What the spared layers are kept in.
        exclude: The regular expression that gives the same file to a plain conversion; None where
            the file is that of the plain conversion.
        layers: All layers, the most sensitive first.
        trials: What was tried, in order.
    """

    limit: float
    met: bool
    timed_out: bool
    seconds: float
    fallback: str
    exclude: str | None
    layers: tuple[RankedLayer, ...]
    trials: tuple[Trial, ...]

    @property
    def options(self) -> str:
        """The options that give the same file to a plain conversion, as a shell reads them."""
        if self.exclude is None:
            return ""
        fallback = "" if self.fallback == "float" else f" --fallback {self.fallback}"
        return f"--exclude {shlex.quote(self.exclude)}{fallback}"


def best_path(output: Path) -> Path:
    """Where the best file that was found is put when none is good enough for `output`."""
    return output.with_name(f"{output.stem}.best{output.suffix}")


class Converted(Protocol):
    """What a conversion returns."""

    @property
    def model(self) -> ir.Model:
        """The converted model."""


Conversion = TypeVar("Conversion", bound=Converted)


@dataclass(frozen=True)
class Found(Generic[Conversion]):
    """A search's best.

    Attributes:
        conversion: The model.
        drop: What it costs.
        kept: How the search ended.
    """

    conversion: Conversion
    drop: AccuracyDrop
    kept: KeptLayers


@dataclass(frozen=True)
class Search(Generic[Conversion]):
    """A search for the fewest layers to keep in higher precision.

    Attributes:
        model: The float32 model.
        layers: Its layers.
        convert: Quantizes it with an `--exclude` expression, None for a plain conversion.
        quick: Does so without refinements, for the sensitivity of layers.
        meter: Measures what that costs.
        limit: What it may cost.
        samples: Model inputs [N, ...] that the sensitivity of layers is measured on.
        exclude: The user's own expression, which holds in any case.
        names: What layers are quantized to, and what they are kept in.
    """

    model: ir.Model
    layers: tuple[Layer, ...]
    convert: Callable[[str | None], Conversion]
    quick: Callable[[str | None], ir.Model]
    meter: DropMeter
    limit: DropLimit
    samples: NDArray[np.generic]
    exclude: str | None = None
    names: tuple[str, str] = ("int8", "float")
    started: float = field(default_factory=time.monotonic)

    def run(self, plain: Conversion, drop: AccuracyDrop) -> Found[Conversion]:
        """Search, from what the plain conversion costs.

        Raises:
            EdgekitError: the model cannot be quantized so.
        """
        with console.progress("sensitivity of layers") as advance:
            ranking = sensitivities(
                self.model,
                self.layers,
                lambda names: self.quick(self._expression(names)),
                self.samples,
                more_time=lambda: self._seconds < self.limit.seconds * _RANKING_SHARE,
                progress=advance,
            )
        best, trials = (0, plain, drop), [Trial(0, drop.points)]

        def fits(count: int) -> bool:
            nonlocal best
            converted = self.convert(self._expression(_first(ranking, count)))
            cost = self.meter.drop(converted.model, f"{count} layers kept")
            trials.append(Trial(count, cost.points))
            if self._better((count, cost), (best[0], best[2])):
                best = (count, converted, cost)
            return cost.points <= self.limit.points

        def more_time() -> bool:
            return self._seconds < self.limit.seconds

        finished = fewest(len(ranking) - 1, fits, more_time)
        count, conversion, cost = best
        kept = KeptLayers(
            limit=self.limit.points,
            met=cost.points <= self.limit.points,
            timed_out=not finished,
            seconds=self._seconds,
            fallback=self.names[1],
            exclude=self._expression(_first(ranking, count)),
            layers=tuple(self._ranked(ranking, count)),
            trials=tuple(trials),
        )
        return Found(conversion, cost, kept)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self.started

    def _better(self, new: tuple[int, AccuracyDrop], old: tuple[int, AccuracyDrop]) -> bool:
        """Fewer layers where both are within the limit, else the smaller loss."""
        good, was_good = (cost.points <= self.limit.points for _, cost in (new, old))
        if good and was_good:
            return new[0] < old[0]
        return good or (not was_good and new[1].points < old[1].points)

    def _expression(self, names: Collection[str]) -> str | None:
        patterns = [as_group(self.exclude)] if self.exclude and names else [self.exclude]
        patterns += [names_pattern(names)] if names else []
        return "|".join(pattern for pattern in patterns if pattern) or None

    def _ranked(self, ranking: Sequence[Sensitivity], count: int) -> list[RankedLayer]:
        quantized, kept = self.names
        return [
            RankedLayer(
                rank,
                one.layer.name,
                one.layer.op_type,
                one.db,
                kept if rank <= count else quantized,
            )
            for rank, one in enumerate(ranking, 1)
        ]


def fewest(most: int, fits: Callable[[int], bool], more_time: Callable[[], bool]) -> bool:
    """Try numbers from 1 to `most`, doubling, then bisecting, for the smallest that fits.

    Args:
        most: The largest number to try.
        fits: Tries one; it is taken for granted that what fits still fits with more.
        more_time: Asked before each trial.

    Returns:
        Whether it came to an end: False where `more_time` said no.
    """
    too_few, enough = 0, most + 1
    while enough - too_few > 1:
        if not more_time():
            return False
        doubled = min(max(2 * too_few, 1), most)
        count = doubled if enough > most else (too_few + enough) // 2
        if fits(count):
            enough = count
        else:
            too_few = count
    return True


def _first(ranking: Sequence[Sensitivity], count: int) -> list[str]:
    return [name for one in ranking[:count] for name in one.layer.nodes]
