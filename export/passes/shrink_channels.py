"""Take channels out of every constant along a chain, and out of the shapes noted on its values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.passes.base import node_label
from edgekit.export.passes.channel_chain import Chain
from edgekit.export.passes.values import stored, write_constant

Mask = NDArray[np.bool_]


def shrink_chain(model: ir.Model, chain: Chain, keep: Mask) -> None:
    """Keep some of a chain's channels, in the order that they are in.

    Args:
        model: The model that the chain is part of.
        chain: The chain; all its constants are stored, its weights its own.
        keep: Which of the producer's output channels stay [channels].
    """
    _shrink_producer(model, chain.producer, keep)
    for step in chain.steps:
        _shrink_step(model, step, keep)
    _shrink_consumer(model, chain.consumer, keep)
    for node in (chain.producer, *chain.steps):
        for output in node.outputs:
            _shrink_shape(output, keep)


def _shrink_producer(model: ir.Model, node: ir.Node, keep: Mask) -> None:
    by_column = node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)
    _take(model, node, 1, keep, axis=1 if by_column else 0)
    bias = stored(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None and len(bias.shape) and bias.shape.numpy()[-1] == len(keep):
        _take(model, node, 2, keep, axis=-1)


def _shrink_step(model: ir.Model, node: ir.Node, keep: Mask) -> None:
    if node.op_type == "BatchNormalization":
        for index in range(1, 5):
            _take(model, node, index, keep, axis=0)
    elif node.op_type == "Conv":
        _take(model, node, 1, keep, axis=0)
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            _take(model, node, 2, keep, axis=0)
        node.attributes.add(ir.AttrInt64("group", int(keep.sum())))
    elif node.op_type == "Reshape":
        target = stored(node.inputs[1])
        assert target is not None
        rows, columns = target.numpy().tolist()
        if columns > 0:
            shrunk = np.array([rows, columns * keep.sum() // len(keep)], np.int64)
            write_constant(model, node, 1, shrunk, f"{node_label(node)}_shape")


def _shrink_consumer(model: ir.Model, node: ir.Node, keep: Mask) -> None:
    tensor = stored(node.inputs[1])
    assert tensor is not None
    weight = tensor.numpy()
    if node.op_type == "Gemm":
        axis = 1 if node.attributes.get_int("transB", 0) else 0
        features = np.repeat(keep, weight.shape[axis] // len(keep))
        _take(model, node, 1, features, axis=axis)
        return
    groups = node.attributes.get_int("group", 1)
    parts = zip(np.split(weight, groups), keep.reshape(groups, -1), strict=True)
    kept = np.concatenate([part[:, kept_inputs] for part, kept_inputs in parts])
    write_constant(model, node, 1, kept, "weight")


def _take(model: ir.Model, node: ir.Node, index: int, keep: Mask, axis: int) -> None:
    value = node.inputs[index]
    tensor = stored(value)
    assert value is not None
    assert tensor is not None
    array = np.compress(keep, tensor.numpy(), axis=axis)
    write_constant(model, node, index, array, f"{value.name}_stripped")


def _shrink_shape(value: ir.Value, keep: Mask) -> None:
    if value.shape is None or len(value.shape) < 2:
        return
    shape, features = value.shape.copy(), value.shape[1]
    if isinstance(features, int):
        shape[1] = features * int(keep.sum()) // len(keep)
    value.shape = shape
