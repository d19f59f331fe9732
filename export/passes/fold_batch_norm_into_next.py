"""Fold a BatchNormalization into the convolution or Gemm after it.

With x = a * z + b for the normalization (see batch_norm.py; one a and b a channel) and
y = W * x + B for the operator after it,

    y = (W a) * z + (B + W * b)

where a multiplies the weights of each input channel, and W * b is a constant for each output
channel: the sum over input channels and taps of W b.

    Conv    W [out, in / groups, *kernel]          a along axis 1, group by group
    Gemm    W [in, out], or [out, in] with transB  a along the axis of in
            y = alpha x W + beta C:                C' = beta C + alpha b W, beta' = 1

That sum holds where every tap of the kernel sees the channel. A convolution with padding sees
zeros at the border, which the normalization would have shifted; there it holds for b = 0 alone.
All in float64, rounded once to the weight's type. Refused are:

1. a padded convolution, unless b = 0 on every channel that has a non-zero weight;
2. a ConvTranspose: at its borders, and between its strides, not every tap is used;
3. a Gemm that reads the normalization transposed (transA), or whose C differs from row to row;
4. a weight that another input reads too, that is a graph input or that is computed; likewise a
   bias or statistic that is a graph input or computed;
5. an intermediate result that is a graph output, that other nodes read, subgraphs included, or
   that is read in another graph than it is made in;
6. a BatchNormalization in training mode, or with statistics for each position;
7. a result that does not fit the weight's type.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.passes.base import GraphPass, NotExactError, is_op
from edgekit.export.passes.batch_norm import affine
from edgekit.export.passes.fold_batch_norm import check_channels, gemm_bias
from edgekit.export.passes.values import (
    bypass,
    cast_like,
    only_reader,
    read_bias,
    read_own_floats,
)
from edgekit.export.passes.weight_edit import WeightEdit, WeightWriter

Floats = NDArray[np.float64]

_READERS = ("Conv", "ConvTranspose", "Gemm")


class FoldBatchNormIntoNext(GraphPass):
    """Fold each BatchNormalization into the Conv or Gemm after it, where exact."""

    def rewrite(self, model: ir.Model) -> None:
        """Fold all over the model."""
        self._writer = WeightWriter(model)
        super().rewrite(model)

    def rewrite_node(self, model: ir.Model, node: ir.Node) -> int:
        """Fold this node into its reader, if it is a BatchNormalization."""
        if not is_op(node, "BatchNormalization") or not any(
            is_op(reader, *_READERS) for reader in node.outputs[0].consumers()
        ):
            return 0
        factor, shift = affine(model, node)
        reader = only_reader(node.outputs[0])
        if reader.op_type == "ConvTranspose":
            raise NotExactError("a ConvTranspose after it does not use every tap everywhere")
        weight_value = reader.inputs[1]
        weight = read_own_floats(weight_value, "weight")
        fold = _fold_gemm if reader.op_type == "Gemm" else _fold_conv
        weight, bias = fold(reader, weight, factor, shift)
        new_weight = cast_like(weight, weight_value, "weight")
        new_bias = cast_like(bias, weight_value, "bias")
        biased = len(reader.inputs) > 2 or new_bias.any()
        self._writer.write([WeightEdit(reader, new_weight, new_bias if biased else None)])
        source = node.inputs[0]
        assert source is not None
        bypass(node, source)
        return 1


def is_padded(node: ir.Node, kernel: Sequence[int]) -> bool:
    """Whether a convolution or pool reads beyond the border of its input."""
    auto_pad = node.attributes.get_string("auto_pad", "NOTSET")
    if auto_pad == "NOTSET":
        return any(node.attributes.get_ints("pads", ()))
    return auto_pad != "VALID" and any(size > 1 for size in kernel)


def _fold_conv(
    node: ir.Node, weight: Floats, factor: Floats, shift: Floats
) -> tuple[Floats, Floats]:
    groups = node.attributes.get_int("group", 1)
    ones = (1,) * (weight.ndim - 2)
    check_channels(weight.shape[1] * groups, factor)
    by_group = weight.reshape(groups, -1, *weight.shape[1:])
    shifted = by_group * shift.reshape(groups, 1, -1, *ones)
    if is_padded(node, weight.shape[2:]) and shifted.any():
        raise NotExactError("the convolution after it pads, and the shift is not zero")
    scaled = (by_group * factor.reshape(groups, 1, -1, *ones)).reshape(weight.shape)
    bias = read_bias(node, 2, weight.shape[0])
    return scaled, bias + shifted.sum(axis=tuple(range(2, weight.ndim + 1))).reshape(-1)


def _fold_gemm(
    node: ir.Node, weight: Floats, factor: Floats, shift: Floats
) -> tuple[Floats, Floats]:
    if node.attributes.get_int("transA", 0):
        raise NotExactError("the Gemm after it reads it transposed")
    transposed = node.attributes.get_int("transB", 0)
    by_input = weight.T if transposed else weight
    check_channels(by_input.shape[0], factor)
    alpha = node.attributes.get_float("alpha", 1.0)
    bias = gemm_bias(node, by_input.shape[1]) + alpha * (shift @ by_input)
    scaled = by_input * factor[:, None]
    return scaled.T if transposed else scaled, bias
