"""Flatten and Reshape that part each channel into equally many features, and keep the batch.

[n, c, *s] becomes [n, f, *t], where f is a multiple of c: feature j holds channel j // (f / c), so
it is constant, needed and kept as that channel is.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgekit.export.liveness.rule import Rule, Writer, followed
from edgekit.export.liveness.shapes import Dims
from edgekit.export.liveness.state import Liveness
from edgekit.export.passes.base import NotExactError, is_op, node_label
from edgekit.export.passes.values import stored


class Reshape(Rule):
    """One such node."""

    def __init__(self, live: Liveness, node: ir.Node) -> None:
        super().__init__(live, node)
        source = followed(live, node.inputs[0])
        before, after = live.dims(node.inputs[0]), live.dims(self.output)
        features = _features(node, before, after)
        if features % len(source):
            raise NotExactError("it mixes channels")
        self.multiple = features // len(source)
        live.follow(
            self.output,
            np.repeat(source.classes, self.multiple),
            np.repeat(source.constants, self.multiple),
        )

    def backward(self, live: Liveness) -> None:
        """Need the channels of the features that are needed."""
        needs = live.channels[self.output].needs
        live.need(self.node.inputs[0], needs.reshape(-1, self.multiple).max(axis=1))

    def shrink(self, live: Liveness, writer: Writer) -> int:
        """Write the new number of features into a target that names it."""
        keep = live.kept(self.output)
        target = stored(self.node.inputs[1]) if is_op(self.node, "Reshape") else None
        if target is not None and target.numpy()[1] > 0 and not keep.all():
            entries = target.numpy().copy()
            entries[1] = keep.sum()
            writer.write(self.node, 1, entries, f"{node_label(self.node)}_shape")
        return 0


def _features(node: ir.Node, before: Dims | None, after: Dims | None) -> int:
    """The size of axis 1 after a reshape that keeps the batch and the order of channels.

    Raises:
        NotExactError: it is not known to do so.
    """
    unknown = NotExactError("it is not known to keep the batch and to part channels equally")
    if before is None or after is None or len(after) < 2 or not isinstance(after[1], int):
        raise unknown
    if is_op(node, "Flatten"):
        if node.attributes.get_int("axis", 1) not in (1, 1 - len(before)):
            raise NotExactError("it does not flatten at axis 1")
        return after[1]
    target = stored(node.inputs[1]) if len(node.inputs) > 1 else None
    if target is None or target.size < 2:
        raise unknown
    entries = target.numpy().tolist()
    copies = entries[0] == 0 and not node.attributes.get_int("allowzero", 0)
    keeps_rows = copies or (isinstance(before[0], int) and entries[0] == before[0])
    sizes = [_size(dims) for dims in (before[1:], after[1:])]
    if None not in sizes and sizes[0] == sizes[1]:
        return after[1]
    if keeps_rows and len(entries) == 2:
        return after[1]
    raise unknown


def _size(dims: Dims) -> int | None:
    sizes = [dim for dim in dims if isinstance(dim, int)]
    return math.prod(sizes) if len(sizes) == len(dims) else None
