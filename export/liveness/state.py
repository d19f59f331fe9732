"""What is known of every channel of a graph while it is analyzed.

A channel is one index along axis 1 of a value. Three things are known of each:

    constant   the number that it holds at every position and for every input; NaN where none
    need       why it must be computed: an index into `reasons`; 0 where nothing needs it
    class      channels of one class stay or go together, as on both sides of an activation

Classes are joined where operators tie channels of several values to each other (Add, Concat). A
class stays where one of its channels is needed, or where it is pinned: made by a caller, or by an
operator that this analysis does not follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.liveness.evaluate import Evaluator
from edgekit.export.liveness.shapes import Dims, Inferred

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

NOT_NEEDED, READ = 0, 1


@dataclass(frozen=True)
class Channels:
    """The channels of one value; its arrays are [channels].

    Attributes:
        classes: Class of each.
        constants: The number that each holds; NaN where none.
        needs: Why each is needed; 0 where it is not.
    """

    classes: Ints
    constants: Floats
    needs: Ints

    @property
    def known(self) -> Mask:
        """The channels that are constant [channels]."""
        known: Mask = ~np.isnan(self.constants)
        return known

    def __len__(self) -> int:
        return len(self.classes)


class Liveness:
    """The channels of a graph's values, and how they hang together.

    Attributes:
        model: The model.
        evaluate: Applies activations to constants.
        channels: What is known, by value; a value that is absent is not followed.
        parts: The values that a Concat's result is made of.
        reasons: Texts for `Channels.needs`.
    """

    def __init__(
        self, model: ir.Model, inferred: dict[ir.Value, Inferred], evaluate: Evaluator
    ) -> None:
        self.model = model
        self.evaluate = evaluate
        self._inferred = inferred
        self.channels: dict[ir.Value, Channels] = {}
        self.parts: dict[ir.Value, list[ir.Value]] = {}
        self.reasons = ["", "others read them with non-zero weights"]
        self._count = 0
        self._joined: list[tuple[Ints, Ints]] = []
        self._pinned: list[Ints] = []
        self._work: list[tuple[Ints, int]] = []
        self._macs = np.zeros(0, np.int64)
        self._labels = np.zeros(0, np.int64)
        self._alive = np.zeros(0, np.bool_)
        self._needed = np.zeros(0, np.bool_)

    def dims(self, value: ir.Value | None) -> Dims | None:
        """The shape of a value, where it is known."""
        known = None if value is None else self._inferred.get(value)
        return None if known is None else known.dims

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        """The type of a value's elements, where it is known."""
        known = None if value is None else self._inferred.get(value)
        return None if known is None else known.dtype

    def of(self, value: ir.Value | None) -> Channels | None:
        """What is known of a value's channels."""
        return None if value is None else self.channels.get(value)

    def new_classes(self, count: int) -> Ints:
        """Classes that no channel has yet [count]."""
        start, self._count = self._count, self._count + count
        return np.arange(start, self._count)

    def follow(self, value: ir.Value, classes: Ints, constants: Floats) -> None:
        """Note the channels of a value that a node makes; what is not finite is no constant."""
        numbers = np.where(np.isfinite(constants), constants, np.nan)
        self.channels[value] = Channels(classes, numbers, np.zeros(len(classes), np.int64))

    def pin(self, value: ir.Value) -> None:
        """Follow a value whose channels must all stay, if their number is known."""
        dims = self.dims(value)
        if dims is not None and len(dims) > 1 and isinstance(dims[1], int):
            classes = self.new_classes(dims[1])
            self._pinned.append(classes)
            self.follow(value, classes, np.full(dims[1], np.nan))

    def join(self, first: Ints, second: Ints) -> None:
        """Let channels stay or go together, pair by pair."""
        self._joined.append((first, second))

    def add_work(self, classes: Ints, macs: int) -> None:
        """Note the multiply-accumulates that each of these channels costs one reader."""
        self._work.append((classes, macs))

    def work(self, classes: Ints) -> int:
        """Multiply-accumulates of all readers of these channels, for one sample."""
        if len(self._macs) != self._count:
            self._macs = np.zeros(self._count, np.int64)
            for read, macs in self._work:
                np.add.at(self._macs, read, macs)
        return int(self._macs[classes].sum())

    def positions(self, value: ir.Value | None) -> int:
        """The size of a value's map behind the channels; 0 where it is not known."""
        dims = self.dims(value)
        sizes = [dim for dim in dims[2:] if isinstance(dim, int)] if dims is not None else []
        return math.prod(sizes) if dims is not None and len(sizes) == len(dims) - 2 else 0

    def reason(self, text: str) -> int:
        """The number of a new reason."""
        self.reasons.append(text)
        return len(self.reasons) - 1

    def need(self, value: ir.Value | None, why: Ints | int) -> None:
        """Note that channels of a value are needed [channels], or all of them."""
        channels = self.of(value)
        if channels is not None:
            np.maximum(channels.needs, why, out=channels.needs)

    def settle(self) -> None:
        """Work out which classes stay: by needs, pins, joins, and those that were revived."""
        revived = np.flatnonzero(self._alive[self._labels])
        self._labels = _components(self._count, self._joined)
        self._alive = np.zeros(self._count, np.bool_)
        needed = [each.classes[each.needs != NOT_NEEDED] for each in self.channels.values()]
        for classes in (*needed, *self._pinned):
            self.revive(classes)
        self._needed = self._alive.copy()
        self.revive(revived)

    def revive(self, classes: Ints) -> None:
        """Let classes stay, needed or not."""
        self._alive[self._labels[classes]] = True

    def needed(self, classes: Ints) -> Mask:
        """Which of these classes stay because something needs them."""
        return self._needed[self._labels[classes]]

    def stays(self, classes: Ints) -> Mask:
        """Which of these classes stay."""
        return self._alive[self._labels[classes]]

    def kept(self, value: ir.Value) -> Mask:
        """Which channels of a value stay [channels]."""
        return self.stays(self.channels[value].classes)


def _components(count: int, joined: list[tuple[Ints, Ints]]) -> Ints:
    """The lowest class that each class is joined with, directly or through others [count]."""
    labels = np.arange(count)
    if not joined:
        return labels
    first, second = (np.concatenate(side) for side in zip(*joined, strict=True))
    while True:
        left, right = labels[first], labels[second]
        if np.array_equal(left, right):
            return labels
        lower = np.minimum(left, right)
        np.minimum.at(labels, left, lower)
        np.minimum.at(labels, right, lower)
        while not np.array_equal(labels, labels[labels]):
            labels = labels[labels]
