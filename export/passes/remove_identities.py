"""Remove the nodes whose output is their input.

1. Identity.
2. Dropout at inference: a training_mode input that is absent or a stored false (opset 12), any
   Dropout of opsets 7 to 11, is_test = 1 before.
3. Cast to the type that its input has.
4. Concat, Sum, Max, Min or Mean of one input.
5. Transpose whose permutation is 0, 1, 2, ...
6. Reshape to the shape that its input has: each entry of the stored target equals a static
   dimension, or copies it (0), or is the one left to infer (-1).
7. Flatten of a matrix at axis 1.

Where the output is a graph output its name goes to the value before it. Refused are:

1. a Dropout in training mode, whose mode is computed, or whose mask is read;
2. a node between two names that must both stay: its output is a graph output, and its input is a
   graph input, an initializer, another graph output, or comes from outside the subgraph.

A Cast, Reshape, Transpose or Flatten is no identity where its input's type or shape is not known.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from edgekit.export.passes.base import GraphPass, NotExactError, is_op, opset
from edgekit.export.passes.values import bypass, stored


def _always(_: ir.Model, node: ir.Node) -> bool:
    return len(node.inputs) == 1


def is_idle_dropout(model: ir.Model, node: ir.Node) -> bool:
    """Whether a Dropout passes its input on, which it does or raises.

    Raises:
        NotExactError: it is in training mode, its mode is computed, or its mask is read.
    """
    version = opset(model)
    if version < 7:
        trains = node.attributes.get_int("is_test", 0) == 0
    else:
        trains = version >= 12 and len(node.inputs) > 2 and not _is_stored_false(node.inputs[2])
    if trains:
        raise NotExactError("the Dropout is in training mode, or a caller decides on it")
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        raise NotExactError("the Dropout's mask is read")
    return True


def _is_stored_false(value: ir.Value | None) -> bool:
    if value is None:
        return True
    tensor = stored(value)
    return tensor is not None and not tensor.numpy().any()


def _is_idle_cast(_: ir.Model, node: ir.Node) -> bool:
    source = node.inputs[0]
    if source is None or not isinstance(source.type, ir.TensorType):
        return False
    return source.dtype is not None and source.dtype.value == node.attributes.get_int("to")


def _is_idle_transpose(_: ir.Model, node: ir.Node) -> bool:
    if "perm" in node.attributes:
        permutation = list(node.attributes.get_ints("perm"))
        return permutation == sorted(permutation)
    shape = _shape(node)
    return shape is not None and len(shape) <= 1


def _is_idle_reshape(model: ir.Model, node: ir.Node) -> bool:
    shape = _shape(node)
    if opset(model) < 5 or len(node.inputs) < 2 or shape is None:
        return False
    target = stored(node.inputs[1])
    if target is None or target.size != len(shape):
        return False
    copies = () if node.attributes.get_int("allowzero", 0) else (0,)
    return all(
        entry in (*copies, -1) or (isinstance(dim, int) and entry == dim)
        for entry, dim in zip(target.numpy().tolist(), shape, strict=True)
    )


def _is_idle_flatten(_: ir.Model, node: ir.Node) -> bool:
    shape = _shape(node)
    axis = node.attributes.get_int("axis", 1)
    return shape is not None and len(shape) == 2 and axis in (1, -1)


def _shape(node: ir.Node) -> ir.Shape | None:
    return node.inputs[0].shape if node.inputs[0] is not None else None


_IS_IDLE: dict[str, Callable[[ir.Model, ir.Node], bool]] = {
    "Cast": _is_idle_cast,
    "Concat": _always,
    "Dropout": is_idle_dropout,
    "Flatten": _is_idle_flatten,
    "Identity": _always,
    "Max": _always,
    "Mean": _always,
    "Min": _always,
    "Reshape": _is_idle_reshape,
    "Sum": _always,
    "Transpose": _is_idle_transpose,
}


class RemoveIdentities(GraphPass):
    """Remove the nodes whose output is their input."""

    def rewrite_node(self, model: ir.Model, node: ir.Node) -> int:
        """Remove this node if its output is its input."""
        if not is_op(node, *_IS_IDLE) or not _IS_IDLE[node.op_type](model, node):
            return 0
        source, result = node.inputs[0], node.outputs[0]
        if source is None:
            return 0
        if result.is_graph_output():
            _check_may_take_name(source, node)
        bypass(node, source)
        return 1


def _check_may_take_name(source: ir.Value, node: ir.Node) -> None:
    kinds = {
        "a graph input": source.is_graph_input(),
        "an initializer": source.is_initializer(),
        "a graph output": source.is_graph_output(),
        "made outside the subgraph": source.graph is not node.graph,
    }
    for kind, holds in kinds.items():
        if holds:
            raise NotExactError(
                f"its output {node.outputs[0].name} is a graph output and its input {source.name} "
                f"is {kind}: both names must stay"
            )
