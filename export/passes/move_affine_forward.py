"""Move a factor and a shift from a value into the weights of everything that reads it.

Where a value v = a u + c, with one a and one c a channel, is to be replaced by u, each reader takes
a and c over. Linear readers that see every channel at every tap take both:

    Conv                    W' = W a along the input channels, B' = B + sum of W c     (groups too)
    Gemm                    W' = W a along the inputs, C' = beta C + alpha c W, beta' = 1
    ConvTranspose, MatMul   W' = W a, for c = 0 alone: at its borders and between its strides the
                            one does not use every tap, the other has no bias

Behind a Flatten each channel is as many features as the map had positions. On the way, unchanged:

    Identity, idle Dropout, Flatten, Reshape to a matrix, Squeeze of spatial axes
    AveragePool, GlobalAveragePool, ReduceMean over spatial axes    mean of a u + c = a mean u + c
    MaxPool, GlobalMaxPool, ReduceMax over spatial axes             for a >= 0

Refused, with nothing changed, are:

1. a padded convolution, or an AveragePool that counts its padding, where c is not zero: at the
   border it sees zeros, which are zeros of a u just as well (so a alone moves), but not c;
2. a value on the way that is a graph output, or is read inside a subgraph, as anything but the
   data input, or by another operator than these;
3. a weight that another input reads too, that is a graph input or that is computed;
4. a Gemm that reads the value transposed, or whose C differs from row to row;
5. a max pool that is dilated: its window may lie in the padding with all its taps;
6. a result that does not fit the weight's type.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.passes.base import NotExactError
from edgekit.export.passes.fold_batch_norm import gemm_bias
from edgekit.export.passes.fold_batch_norm_into_next import is_padded
from edgekit.export.passes.remove_identities import is_idle_dropout
from edgekit.export.passes.values import cast_like, read_bias, read_own_floats, stored
from edgekit.export.passes.weight_edit import WeightEdit

Floats = NDArray[np.float64]


def plan_move(model: ir.Model, value: ir.Value, factor: Floats, shift: Floats) -> list[WeightEdit]:
    """What each reader of a value becomes where a and c move into it. Nothing is changed yet.

    Args:
        model: The model that the value is part of.
        value: v = a u + c, channels on axis 1.
        factor: a [channels].
        shift: c [channels].

    Raises:
        NotExactError: a reader cannot take them.
    """
    if value.is_graph_output():
        raise NotExactError("what follows it is a graph output")
    edits: list[WeightEdit] = []
    for node, index in value.uses():
        if node.graph is not value.graph:
            raise NotExactError("what follows it is read inside a subgraph")
        known = node.domain == "" and node.op_type in (*_TAKE, *_PASS)
        if not known or index:
            raise NotExactError(f"{node.op_type} reads it, which takes no scale or shift")
        if node.op_type in _TAKE:
            edits.append(_TAKE[node.op_type](node, factor, shift))
        else:
            _PASS[node.op_type](model, node, factor, shift)
            edits += plan_move(model, node.outputs[0], factor, shift)
    return edits


def _edit(node: ir.Node, weight: Floats, bias: Floats, added: Floats) -> WeightEdit:
    """The edit that adds something to a bias; a bias that nothing is added to stays as it is."""
    old = node.inputs[1]
    new_bias = cast_like(bias + added, old, "bias") if added.any() else None
    return WeightEdit(node, cast_like(weight, old, "weight"), new_bias)


def _take_conv(node: ir.Node, factor: Floats, shift: Floats) -> WeightEdit:
    weight = read_own_floats(node.inputs[1], "weight")
    groups = node.attributes.get_int("group", 1)
    _check_count(node, weight.shape[1] * groups, factor)
    by_group = weight.reshape(groups, -1, weight.shape[1], math.prod(weight.shape[2:]))
    shifts = shift.reshape(groups, -1, 1)
    if is_padded(node, weight.shape[2:]) and shift.any():
        shifted = by_group.any(axis=(1, 3)) & (shifts[..., 0] != 0)
        if shifted.any():
            raise NotExactError(f"{_described(node)} pads, and the shift is not zero")
    scaled = (by_group * factor.reshape(groups, 1, -1, 1)).reshape(weight.shape)
    added = (by_group.sum(axis=3) @ shifts).reshape(-1)
    return _edit(node, scaled, read_bias(node, 2, weight.shape[0]), added)


def _take_conv_transpose(node: ir.Node, factor: Floats, shift: Floats) -> WeightEdit:
    weight = read_own_floats(node.inputs[1], "weight")
    _check_count(node, weight.shape[0], factor)
    if (weight.reshape(len(shift), -1) * shift[:, None]).any():
        raise NotExactError(f"{_described(node)} takes no shift, which is not zero")
    scaled = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
    return _edit(node, scaled, np.zeros(1), np.zeros(1))


def _take_gemm(node: ir.Node, factor: Floats, shift: Floats) -> WeightEdit:
    if node.attributes.get_int("transA", 0):
        raise NotExactError(f"{_described(node)} reads it transposed")
    weight = read_own_floats(node.inputs[1], "weight")
    transposed = node.attributes.get_int("transB", 0) != 0
    by_input = weight.T if transposed else weight
    factors, shifts = _by_feature(node, by_input.shape[0], factor, shift)
    added = node.attributes.get_float("alpha", 1.0) * (shifts @ by_input)
    scaled = by_input * factors[:, None]
    bias = gemm_bias(node, by_input.shape[1])
    return _edit(node, scaled.T if transposed else scaled, bias, added)


def _take_matmul(node: ir.Node, factor: Floats, shift: Floats) -> WeightEdit:
    weight, data = read_own_floats(node.inputs[1], "weight"), node.inputs[0]
    if weight.ndim != 2 or data is None or data.shape is None or len(data.shape) != 2:
        raise NotExactError(f"{_described(node)} is not known to multiply two matrices")
    factors, shifts = _by_feature(node, weight.shape[0], factor, shift)
    if (weight * shifts[:, None]).any():
        raise NotExactError(f"{_described(node)} takes no shift, which is not zero")
    return _edit(node, weight * factors[:, None], np.zeros(1), np.zeros(1))


def _by_feature(
    node: ir.Node, features: int, factor: Floats, shift: Floats
) -> tuple[Floats, Floats]:
    """A factor and a shift for each feature that the channels became."""
    if not features or features % len(factor):
        raise NotExactError(
            f"{_described(node)} reads {features} features, no multiple of {len(factor)} channels"
        )
    return np.repeat(factor, features // len(factor)), np.repeat(shift, features // len(factor))


def _check_count(node: ir.Node, channels: int, factor: Floats) -> None:
    if channels != len(factor):
        raise NotExactError(f"{_described(node)} reads {channels} channels, not {len(factor)}")


def _described(node: ir.Node) -> str:
    return f"the {node.op_type} after it"


def _pass_any(_: ir.Model, _node: ir.Node, _factor: Floats, _shift: Floats) -> None:
    """Each of its outputs is one of its inputs, or a mean of some in the same channel."""


def _pass_dropout(model: ir.Model, node: ir.Node, _factor: Floats, _shift: Floats) -> None:
    is_idle_dropout(model, node)


def _pass_average_pool(_: ir.Model, node: ir.Node, _factor: Floats, shift: Floats) -> None:
    check_average_pool(node, shift)


def check_average_pool(node: ir.Node, shift: Floats) -> None:
    """Pass where the mean of x + c is the mean of x, plus c.

    Raises:
        NotExactError: c is not zero, and the node is an AveragePool that counts its padding.
    """
    kernel = tuple(node.attributes.get_ints("kernel_shape", ()))
    reaches_out = is_padded(node, kernel) or node.attributes.get_int("ceil_mode", 0) != 0
    counts = node.attributes.get_int("count_include_pad", 0) != 0
    if reaches_out and counts and shift.any():
        raise NotExactError(f"{_described(node)} counts its padding, and the shift is not zero")


def check_max(node: ir.Node, factor: Floats) -> None:
    """Pass where the largest a x is a times the largest x.

    Raises:
        NotExactError: a channel's factor is negative, or the node is a MaxPool whose indices are
            read or that is dilated.
    """
    if (factor < 0).any():
        raise NotExactError(f"{_described(node)} takes no negative scale")
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        raise NotExactError(f"the indices of {_described(node)} are read")
    if any(size > 1 for size in node.attributes.get_ints("dilations", ())):
        raise NotExactError(f"{_described(node)} is dilated")


def _pass_max(_: ir.Model, node: ir.Node, factor: Floats, _shift: Floats) -> None:
    check_max(node, factor)


def _pass_spatial(_: ir.Model, node: ir.Node, _factor: Floats, _shift: Floats) -> None:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    axes: tuple[int, ...] = tuple(node.attributes.get_ints("axes", ()))
    if len(node.inputs) > 1:
        tensor = stored(node.inputs[1])
        axes = () if tensor is None else tuple(tensor.numpy().reshape(-1).tolist())
    rank = 0 if shape is None else len(shape)
    if not axes or any((axis if axis >= 0 else axis + rank) < 2 for axis in axes):
        raise NotExactError(f"the axes of {_described(node)} are not known to be spatial")


def _pass_spatial_max(model: ir.Model, node: ir.Node, factor: Floats, shift: Floats) -> None:
    _pass_max(model, node, factor, shift)
    _pass_spatial(model, node, factor, shift)


def _pass_flatten(_: ir.Model, node: ir.Node, _factor: Floats, _shift: Floats) -> None:
    if node.attributes.get_int("axis", 1) != 1:
        raise NotExactError(f"{_described(node)} does not flatten at axis 1")


def _pass_reshape(_: ir.Model, node: ir.Node, _factor: Floats, _shift: Floats) -> None:
    """To a matrix with the batch in its rows: 0 or the batch itself first, or all features last."""
    data, target = node.inputs[0], stored(node.inputs[1]) if len(node.inputs) > 1 else None
    dims = () if data is None or data.shape is None else tuple(data.shape)
    known = [dim for dim in dims[1:] if isinstance(dim, int)]
    if target is not None and target.size == 2:
        rows, columns = target.numpy().tolist()
        copies = rows == 0 and not node.attributes.get_int("allowzero", 0)
        all_known = len(dims) > 1 and len(known) == len(dims) - 1
        if (
            copies
            or (dims and rows > 0 and dims[0] == rows)
            or (all_known and math.prod(known) == columns)
        ):
            return
    raise NotExactError(f"{_described(node)} is not known to flatten all but the batch")


_TAKE: dict[str, Callable[[ir.Node, Floats, Floats], WeightEdit]] = {
    "Conv": _take_conv,
    "ConvTranspose": _take_conv_transpose,
    "Gemm": _take_gemm,
    "MatMul": _take_matmul,
}
_PASS: dict[str, Callable[[ir.Model, ir.Node, Floats, Floats], None]] = {
    "AveragePool": _pass_average_pool,
    "Dropout": _pass_dropout,
    "Flatten": _pass_flatten,
    "GlobalAveragePool": _pass_any,
    "GlobalMaxPool": _pass_max,
    "Identity": _pass_any,
    "MaxPool": _pass_max,
    "ReduceMax": _pass_spatial_max,
    "ReduceMean": _pass_spatial,
    "Reshape": _pass_reshape,
    "Squeeze": _pass_spatial,
}
