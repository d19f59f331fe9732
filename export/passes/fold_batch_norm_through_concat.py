"""Fold a BatchNormalization behind a Concat into all convolutions before it.

A normalization a x + b works channel by channel, and Concat along the channels puts side by side
what its inputs hold. So where the normalization is all that reads the Concat, each part may be
normalized before it, with its own slice of a and b, and folds into what makes the part:

    Conv, ConvTranspose, Gemm       as in fold_batch_norm.py
    Concat                          part by part, in turn
    pools                           into what is before them (see fold_batch_norm_through_pool.py)

It is done where every part takes its slice, so that the normalization is gone; a normalization a
part would be no gain. Refused are:

1. a Concat that others read too (in a DenseNet all but the last of a block), along another axis, or
   whose parts have no known width;
2. a part that others read too, that is a graph output, or that is made by another operator;
3. what fold_batch_norm_through_pool.py refuses of a pool;
4. what fold_batch_norm.py refuses of a convolution or Gemm, and of the normalization.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.passes.base import GraphPass, NotExactError, is_op
from edgekit.export.passes.batch_norm import affine
from edgekit.export.passes.fold_batch_norm import check_channels, output_channels, plan_fold
from edgekit.export.passes.move_affine_forward import check_average_pool, check_max
from edgekit.export.passes.values import bypass, only_reader, read_floats
from edgekit.export.passes.weight_edit import WeightEdit, WeightWriter

Floats = NDArray[np.float64]

_MAX_POOLS = ("MaxPool", "GlobalMaxPool")
POOLS = ("AveragePool", "GlobalAveragePool", *_MAX_POOLS)


class FoldBatchNormThroughConcat(GraphPass):
    """Fold each BatchNormalization behind a Concat into what makes its parts, where exact."""

    operators: tuple[str, ...] = ("Concat",)

    def rewrite(self, model: ir.Model) -> None:
        """Fold all over the model."""
        self._writer = WeightWriter(model)
        super().rewrite(model)

    def rewrite_node(self, model: ir.Model, node: ir.Node) -> int:
        """Fold the BatchNormalization that reads this node, if it is one of `operators`."""
        if not is_op(node, *self.operators) or not any(
            is_op(reader, "BatchNormalization") for reader in node.outputs[0].consumers()
        ):
            return 0
        normalization = only_reader(node.outputs[0])
        factor, shift = affine(model, normalization)
        self._writer.write(_plan(node, factor, shift))
        bypass(normalization, node.outputs[0])
        return 1


def _plan(node: ir.Node, factor: Floats, shift: Floats) -> list[WeightEdit]:
    """What makes a node's output, with a factor and a shift for it [channels]."""
    if is_op(node, "Conv", "ConvTranspose", "Gemm"):
        return [plan_fold(node, factor, shift)]
    if is_op(node, *POOLS):
        if is_op(node, *_MAX_POOLS):
            check_max(node, factor)
        else:
            check_average_pool(node, shift)
        return _plan(_maker(node.inputs[0]), factor, shift)
    if not is_op(node, "Concat"):
        raise NotExactError(f"{node.op_type} makes a part of it, which takes no scale")
    _check_axis(node)
    widths = [_width(part) for part in node.inputs]
    check_channels(sum(widths), factor)
    ends = np.cumsum(widths)
    edits: list[WeightEdit] = []
    for part, width, end in zip(node.inputs, widths, ends, strict=True):
        piece = slice(end - width, end)
        edits += _plan(_maker(part), factor[piece], shift[piece])
    return edits


def _maker(value: ir.Value | None) -> ir.Node:
    """The node whose output one node alone reads."""
    maker = None if value is None else value.producer()
    if value is None or maker is None:
        raise NotExactError("a part of it is no node's output")
    readers = [use.node for use in value.uses()]
    if value.is_graph_output() or len(readers) != 1 or readers[0].graph is not maker.graph:
        raise NotExactError("a part of it is read by others too")
    return maker


def _check_axis(node: ir.Node) -> None:
    value = node.outputs[0]
    axis = node.attributes.get_int("axis", 1)
    if axis < 0 and value.shape is not None:
        axis += len(value.shape)
    if axis != 1:
        raise NotExactError("the Concat is not along the channels")


def _width(value: ir.Value | None) -> int:
    maker = None if value is None else value.producer()
    if maker is not None and is_op(maker, "Conv", "ConvTranspose", "Gemm"):
        return output_channels(maker, read_floats(maker.inputs[1], "weight"))
    shape = None if value is None else value.shape
    width = None if shape is None or len(shape) < 2 else shape[1]
    if not isinstance(width, int):
        raise NotExactError("the width of a part is not known")
    return width
