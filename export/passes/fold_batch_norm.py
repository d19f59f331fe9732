"""Fold a BatchNormalization into the convolution or Gemm before it.

With y = a * x + b for the normalization (see batch_norm.py; one a and b a channel) and
x = W * z + B for the operator before it,

    y = (a W) * z + (a B + b)

where a multiplies the weights of each output channel:

    Conv           W [out, in / groups, *kernel]             a along axis 0
    ConvTranspose  W [in, out / groups, *kernel]             a along axis 1, group by group
    Gemm           W [in, out], or [out, in] with transB     a along the axis of out
                   x = alpha z W + beta C:                   C' = a beta C + b, beta' = 1

All in float64, rounded once to the weight's type. Refused are:

1. a weight that another input reads too: folding would need a second copy of it;
2. a weight, bias or statistic that is a graph input, which a caller may replace, or that is
   computed, as behind a DequantizeLinear;
3. an intermediate result that is a graph output, that other nodes read, subgraphs included, or
   that is read in another graph than it is made in;
4. a BatchNormalization in training mode, or with statistics for each position;
5. a Gemm whose C differs from row to row;
6. a result that does not fit the weight's type.

A bias that others read too is no obstacle: the folded one becomes an initializer of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.passes.base import GraphPass, NotExactError, is_op
from edgekit.export.passes.batch_norm import affine
from edgekit.export.passes.values import (
    bypass,
    cast_like,
    only_reader,
    read_bias,
    read_own_floats,
)
from edgekit.export.passes.weight_edit import WeightEdit, WeightWriter

Floats = NDArray[np.float64]


def _scale_conv(_: ir.Node, weight: Floats, factor: Floats) -> Floats:
    return weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))


def _scale_conv_transpose(node: ir.Node, weight: Floats, factor: Floats) -> Floats:
    groups = node.attributes.get_int("group", 1)
    by_group = weight.reshape(groups, -1, *weight.shape[1:])
    factors = factor.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
    return (by_group * factors).reshape(weight.shape)


def _scale_gemm(node: ir.Node, weight: Floats, factor: Floats) -> Floats:
    return weight * (factor[:, None] if node.attributes.get_int("transB", 0) else factor)


_SCALE: dict[str, Callable[[ir.Node, Floats, Floats], Floats]] = {
    "Conv": _scale_conv,
    "ConvTranspose": _scale_conv_transpose,
    "Gemm": _scale_gemm,
}


class FoldBatchNorm(GraphPass):
    """Fold each BatchNormalization into the Conv, ConvTranspose or Gemm before it, where exact."""

    def rewrite(self, model: ir.Model) -> None:
        """Fold all over the model."""
        self._writer = WeightWriter(model)
        super().rewrite(model)

    def rewrite_node(self, model: ir.Model, node: ir.Node) -> int:
        """Fold the BatchNormalization that reads this node's output."""
        if not is_op(node, *_SCALE) or not any(
            is_op(reader, "BatchNormalization") for reader in node.outputs[0].consumers()
        ):
            return 0
        normalization = only_reader(node.outputs[0])
        factor, shift = affine(model, normalization)
        self._writer.write([plan_fold(node, factor, shift)])
        bypass(normalization, node.outputs[0])
        return 1


def plan_fold(node: ir.Node, factor: Floats, shift: Floats) -> WeightEdit:
    """What a Conv, ConvTranspose or Gemm becomes with a normalization in it; nothing is changed.

    Args:
        node: The operator.
        factor: a [output channels].
        shift: b [output channels].

    Raises:
        NotExactError: its weight or bias may not be changed, or the result does not fit.
    """
    weight = read_own_floats(node.inputs[1], "weight")
    check_channels(output_channels(node, weight), factor)
    if node.op_type == "Gemm":
        bias = gemm_bias(node, len(factor))
    else:
        bias = read_bias(node, 2, len(factor))
    return WeightEdit(
        node,
        cast_like(_SCALE[node.op_type](node, weight, factor), node.inputs[1], "weight"),
        cast_like(bias * factor + shift, node.inputs[1], "bias"),
    )


def output_channels(node: ir.Node, weight: Floats) -> int:
    """How many channels a Conv, ConvTranspose or Gemm makes."""
    if node.op_type == "ConvTranspose":
        return int(weight.shape[1]) * node.attributes.get_int("group", 1)
    if node.op_type == "Gemm" and not node.attributes.get_int("transB", 0):
        return int(weight.shape[1])
    return int(weight.shape[0])


def check_channels(channels: int, factor: Floats) -> None:
    """Pass where a BatchNormalization has as many channels as the operator beside it.

    Raises:
        NotExactError: it has not; the model is invalid.
    """
    if factor.shape != (channels,):
        raise NotExactError(
            f"its BatchNormalization has statistics {list(factor.shape)} for {channels} channels"
        )


def gemm_bias(node: ir.Node, channels: int) -> Floats:
    """What a Gemm adds to each row, beta times C, as [channels].

    Raises:
        NotExactError: C is not stored, or differs from row to row.
    """
    bias = read_bias(node, 2, channels) * node.attributes.get_float("beta", 1.0)
    if bias.ndim == 2 and bias.shape[0] != 1:
        raise NotExactError("its C differs from row to row")
    return np.broadcast_to(bias.reshape(-1), (channels,))
