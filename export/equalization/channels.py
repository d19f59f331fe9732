"""Which channels of a graph can be scaled, and which of its constants take the scale up.

Dividing channel c of a value by s[c] > 0 changes nothing in the end where every writer of the
channel can divide by s[c] and every reader can multiply by it. A walk in topological order gives
each channel of each value an id; channels with one id share one scale:

- Conv and Gemm (and MatMul with a stored matrix) end a scale and begin another: weight[o, c] is
  multiplied by s[id of c] and divided by s[id of o], the bias is divided by s[id of o].
  A depthwise Conv is no exception, and a BatchNormalization does so channel by channel.
- Relu, LeakyRelu, PRelu, pooling, padding with zeros, flattening and the like pass a positive scale
  on, as does a Mul by stored values; what Add, Max and Min take from the file is divided by it.
- Concat along the channels passes ids on; an Add of two values makes their ids one.
- Whatever else reads or writes a value holds its channels to scale 1, id `HELD`; so do graph
  inputs and outputs, readers in subgraphs, and constants that more than one node reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

HELD = 0

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Constant:
    """A stored array that takes up scales: it becomes array * s[times] / s[over].

    Attributes:
        value: The initializer.
        times: Ids, in a shape that broadcasts to the array's; None for 1.
        over: Likewise.
        mixes: Whether the array is a weight, over whose input channels its node sums; axis 0 of
            `over` or the last one then tells its output channels.
    """

    value: ir.Value
    times: Ids | None = None
    over: Ids | None = None
    mixes: bool = False


@dataclass
class Channels:
    """Ids while the graph is walked, and what is known of it then.

    Attributes:
        constants: Stored arrays that take up scales.
    """

    constants: list[Constant] = field(default_factory=list)
    _ids: dict[ir.Value, Ids] = field(default_factory=dict)
    _parent: list[int] = field(default_factory=lambda: [HELD])

    def fresh(self, count: int) -> Ids:
        """Ids of `count` channels that nothing ties to others yet."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def give(self, value: ir.Value, ids: Ids) -> None:
        """Note the ids [C] of a value's channels."""
        self._ids[value] = ids

    def of(self, value: ir.Value | None) -> Ids | None:
        """The ids [C] of a value's channels; None for one that has none."""
        return None if value is None else self._ids.get(value)

    def tie(self, ids: Iterable[int], others: Iterable[int]) -> None:
        """Make channels share a scale, pair by pair."""
        for one, other in zip(ids, others, strict=True):
            first, second = sorted((self._root(int(one)), self._root(int(other))))
            self._parent[second] = first  # HELD is the least, so it stays its own root

    def hold(self, value: ir.Value | None) -> None:
        """Keep a value as it is."""
        ids = self.of(value)
        if ids is not None:
            self.tie(ids, np.full_like(ids, HELD))

    def is_held(self, value: ir.Value | None) -> bool:
        """Whether all of a value's channels are known to stay as they are."""
        ids = self.of(value)
        return ids is None or all(self._root(int(one)) == HELD for one in ids)

    def scaled(self) -> dict[ir.Value, Ids]:
        """Values with a channel that can be scaled, and their ids; equal ids, equal scale."""
        roots = self._roots()
        resolved = {value: roots[ids] for value, ids in self._ids.items()}
        return {value: ids for value, ids in resolved.items() if (ids != HELD).any()}

    def resolved_constants(self) -> list[Constant]:
        """The stored arrays that take up scales; equal ids, equal scale."""
        roots = self._roots()
        return [
            replace(
                constant,
                times=None if constant.times is None else roots[constant.times],
                over=None if constant.over is None else roots[constant.over],
            )
            for constant in self.constants
        ]

    def __len__(self) -> int:
        """Number of ids given out, `HELD` included."""
        return len(self._parent)

    def _root(self, one: int) -> int:
        while self._parent[one] != one:
            self._parent[one] = self._parent[self._parent[one]]
            one = self._parent[one]
        return one

    def _roots(self) -> Ids:
        """Of each id, the one that stands for all that share its scale."""
        roots = np.array(self._parent, np.int64)
        while (roots[roots] != roots).any():
            roots = roots[roots]
        return roots
