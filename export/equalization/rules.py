"""What each operator does to the ids of channels; one that is not in `RULES` holds them.

A rule gives the node's outputs their ids and notes the constants that take scales up, or returns
False, having done nothing, where the node's form is not one that it knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.equalization.channels import Channels, Constant, Ids
from edgekit.export.passes.base import is_op

Rule = Callable[[Channels, ir.Node], bool]
_CHANNEL_AXIS = 1


def find_channels(model: ir.Model) -> Channels:
    """Walk a model's graph.

    Args:
        model: A float model in topological order, its shapes inferred.
    """
    channels = Channels()
    for node in model.graph:
        rule = RULES.get(node.op_type) if node.domain == "" else None
        if rule is None or not rule(channels, node):
            for value in node.inputs:
                channels.hold(value)
            continue
        for output in node.outputs:
            if output.is_graph_output():
                channels.hold(output)
    for node in model.graph.all_nodes():
        if node.graph is not model.graph:
            for value in node.inputs:
                channels.hold(value)
    return channels


def _convolution(channels: Channels, node: ir.Node) -> bool:
    weight, bias = own_array(node, 1), own_array(node, 2)
    if weight is None or (_has(node, 2) and bias is None):
        return False
    groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
    count, depth = weight.shape[:2]
    over = channels.fresh(count)
    times = _ids_or_held(channels, node.inputs[0], groups * depth)
    if times is None:
        return False
    by_output = np.repeat(times.reshape(groups, depth), count // groups, axis=0)
    spread = (1,) * (weight.ndim - 2)
    _weight(channels, node, by_output.reshape(count, depth, *spread), over.reshape(-1, 1, *spread))
    return _finish(channels, node, over)


def _product(channels: Channels, node: ir.Node) -> bool:
    """Gemm, and MatMul of rows, by a stored matrix."""
    weight, bias = own_array(node, 1), own_array(node, 2)
    if weight is None or weight.ndim != 2 or _rank(node.inputs[0]) != 2 or _flag(node, "transA"):
        return False
    depth, columns = weight.shape if inputs_first(node) else weight.shape[::-1]
    if _has(node, 2) and (bias is None or bias.shape[-1:] != (columns,)):
        return False
    over = channels.fresh(columns)
    times = _ids_or_held(channels, node.inputs[0], depth)
    if times is None:
        return False
    if inputs_first(node):
        _weight(channels, node, times[:, None], over[None, :])
    else:
        _weight(channels, node, times[None, :], over[:, None])
    return _finish(channels, node, over)


def _batch_norm(channels: Channels, node: ir.Node) -> bool:
    times = channels.of(node.inputs[0])
    stored = [own_array(node, index) for index in (1, 2, 3)]
    if times is None or any(array is None for array in stored) or _flag(node, "training_mode"):
        return False
    over = channels.fresh(len(times))
    scale, shift, mean = (node.inputs[index] for index in (1, 2, 3))
    assert scale is not None
    assert shift is not None
    assert mean is not None
    channels.constants += [
        Constant(scale, times, over),
        Constant(shift, over=over),
        Constant(mean, over=times),
    ]
    return _finish(channels, node, over)


def _same(channels: Channels, node: ir.Node) -> bool:
    ids = channels.of(node.inputs[0])
    return ids is not None and _finish(channels, node, ids)


def _prelu(channels: Channels, node: ir.Node) -> bool:
    channels.hold(node.inputs[1])
    return _same(channels, node)


def _clip(channels: Channels, node: ir.Node) -> bool:
    """A Clip at zero, from below or above alone, scales like a Relu."""
    bounds = [own_or_shared_array(node, index) for index in (1, 2)]
    known = all(array is not None or not _has(node, at) for at, array in enumerate(bounds, 1))
    finite = [array for array in bounds if array is not None and np.isfinite(array).all()]
    return known and not any(array.any() for array in finite) and _same(channels, node)


def _pad(channels: Channels, node: ir.Node) -> bool:
    value = own_or_shared_array(node, 2)
    pads = own_or_shared_array(node, 1)
    if pads is None or (_has(node, 2) and (value is None or value.any())) or _has(node, 3):
        return False
    rank = len(pads) // 2
    spatial = not pads[[_CHANNEL_AXIS, rank + _CHANNEL_AXIS]].any() and (pads >= 0).all()
    return bool(spatial) and _same(channels, node)


def _mean(channels: Channels, node: ir.Node) -> bool:
    axes, rank = own_or_shared_array(node, 1), _rank(node.inputs[0])
    if "axes" in node.attributes:
        axes = np.array(node.attributes["axes"].as_ints())
    if axes is None or rank is None:
        return False
    return all(axis % rank > _CHANNEL_AXIS for axis in axes.tolist()) and _same(channels, node)


def _flatten(channels: Channels, node: ir.Node) -> bool:
    """[N, C, ...] to [N, C * ...], by Flatten, Reshape or Squeeze."""
    ids, data, result = channels.of(node.inputs[0]), node.inputs[0], node.outputs[0]
    if ids is None or data is None or data.shape is None or result.shape is None:
        return False
    inner = [dim for dim in list(data.shape)[2:] if isinstance(dim, int)]
    rows = data.shape[0] == result.shape[0] or not isinstance(result.shape[0], int)
    if len(result.shape) != 2 or not rows or len(inner) != len(data.shape) - 2:
        return False
    ids = np.repeat(ids, math.prod(inner))
    return result.shape[1] == len(ids) and _finish(channels, node, ids)


def _concat(channels: Channels, node: ir.Node) -> bool:
    rank = _rank(node.outputs[0])
    axis = node.attributes["axis"].as_int()
    parts = [channels.of(value) for value in node.inputs]
    if rank is None or axis % rank != _CHANNEL_AXIS or all(part is None for part in parts):
        return False
    known = []
    for part, value in zip(parts, node.inputs, strict=True):
        count = _channel_count(value)
        if part is None and count is None:
            return False
        known.append(np.zeros(count or 0, np.int64) if part is None else part)
    return _finish(channels, node, np.concatenate(known))


def _join(channels: Channels, node: ir.Node) -> bool:
    """Add, Max and Min: of two values, or of a value and stored ones."""
    if len(node.inputs) != 2:
        return False
    first, second = (channels.of(value) for value in node.inputs)
    if first is not None and second is not None:
        if not _equal_shapes(node):
            return False
        channels.tie(first, second)
        return _finish(channels, node, first)
    return _with_stored(channels, node, scaled=True)


def _multiply(channels: Channels, node: ir.Node) -> bool:
    """Mul and Div by stored values, or a Mul by a value that keeps its scale."""
    if len(node.inputs) != 2:
        return False
    first, second = node.inputs
    for data, factor in ((first, second), (second, first))[: 1 if is_op(node, "Div") else 2]:
        ids = channels.of(data)
        if ids is None or factor is None or factor.is_initializer():
            continue
        if channels.is_held(factor) and _channel_count(data) == _channel_count(node.outputs[0]):
            return _finish(channels, node, ids)
    return _with_stored(channels, node, scaled=False)


def _with_stored(channels: Channels, node: ir.Node, *, scaled: bool) -> bool:
    """A value and a stored array that has one number for each channel, or one for all."""
    where = 0 if channels.of(node.inputs[0]) is not None else 1
    ids, array = channels.of(node.inputs[where]), own_or_shared_array(node, 1 - where)
    rank = _rank(node.inputs[where])
    if ids is None or array is None or rank is None or array.ndim > rank:
        return False
    if where == 1 and is_op(node, "Div"):
        return False
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(dim != 1 for axis, dim in enumerate(shape) if axis != _CHANNEL_AXIS):
        return False
    if scaled:
        value = node.inputs[1 - where]
        if own_array(node, 1 - where) is None or value is None or array.size != len(ids):
            return False
        channels.constants.append(Constant(value, over=ids.reshape(array.shape)))
    return array.size in (1, len(ids)) and _finish(channels, node, ids)


def own_array(node: ir.Node, index: int) -> NDArray[np.float32] | None:
    """A stored float32 input that this node alone reads, and may change; None otherwise."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    array = own_or_shared_array(node, index)
    return array if array is not None and array.dtype == np.float32 else None


def own_or_shared_array(node: ir.Node, index: int) -> NDArray[np.float32] | None:
    """A stored input, whoever reads it; None where a caller or a node supplies it."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return None if value.const_value is None else value.const_value.numpy()


def _weight(channels: Channels, node: ir.Node, times: Ids, over: Ids) -> None:
    weight, bias = node.inputs[1], node.inputs[2] if _has(node, 2) else None
    assert weight is not None
    channels.constants.append(Constant(weight, times, over, mixes=True))
    if bias is not None:
        channels.constants.append(Constant(bias, over=over.ravel()))


def _finish(channels: Channels, node: ir.Node, ids: Ids) -> bool:
    channels.give(node.outputs[0], ids)
    return True


def _ids_or_held(channels: Channels, value: ir.Value | None, count: int) -> Ids | None:
    ids = channels.of(value)
    if ids is None:
        return np.zeros(count, np.int64)
    return ids if len(ids) == count else None


def _has(node: ir.Node, index: int) -> bool:
    return index < len(node.inputs) and node.inputs[index] is not None


def _flag(node: ir.Node, name: str) -> bool:
    return name in node.attributes and bool(node.attributes[name].as_int())


def inputs_first(node: ir.Node) -> bool:
    """Whether the stored weight of a Conv, Gemm or MatMul is a matrix [in, out]."""
    return is_op(node, "MatMul") or (is_op(node, "Gemm") and not _flag(node, "transB"))


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _channel_count(value: ir.Value | None) -> int | None:
    if value is None or value.shape is None or len(value.shape) <= _CHANNEL_AXIS:
        return None
    count = value.shape[_CHANNEL_AXIS]
    return count if isinstance(count, int) else None


def _equal_shapes(node: ir.Node) -> bool:
    shapes = [None if value is None else value.shape for value in node.inputs]
    return None not in shapes and shapes[0] == shapes[1]


RULES: dict[str, Rule] = {
    "Conv": _convolution,
    "Gemm": _product,
    "MatMul": _product,
    "BatchNormalization": _batch_norm,
    "Relu": _same,
    "LeakyRelu": _same,
    "PRelu": _prelu,
    "Clip": _clip,
    "Identity": _same,
    "Dropout": _same,
    "MaxPool": _same,
    "AveragePool": _same,
    "GlobalAveragePool": _same,
    "GlobalMaxPool": _same,
    "ReduceMean": _mean,
    "Pad": _pad,
    "Flatten": _flatten,
    "Reshape": _flatten,
    "Squeeze": _flatten,
    "Concat": _concat,
    "Add": _join,
    "Max": _join,
    "Min": _join,
    "Mul": _multiply,
    "Div": _multiply,
}
