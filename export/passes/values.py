"""Values of a graph: read stored constants, write changed ones, take a node out of a chain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.graph import graphs
from edgekit.export.passes.base import NotExactError, is_op, node_label

FLOATS = (
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.DOUBLE,
    ir.DataType.BFLOAT16,
)


def stored(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor that the file stores for a value; None where a caller or a node supplies it."""
    if value is None or value.is_graph_input():
        return None
    if value.is_initializer():
        return value.const_value
    producer = value.producer()
    if (
        producer is None
        or not is_op(producer, "Constant")
        or producer.attributes.keys() != {"value"}
    ):
        return None
    return producer.attributes["value"].as_tensor()


def read_floats(value: ir.Value | None, role: str) -> NDArray[np.float64]:
    """Read a stored floating-point constant.

    Args:
        value: The input of a node.
        role: What it is to the node, for the reason: "weight", "scale", ...

    Raises:
        NotExactError: it is not stored in the graph, or has no floating-point type.
    """
    tensor = stored(value)
    if tensor is None or value is None:
        raise NotExactError(f"its {role} {_where_from(value)}")
    if tensor.dtype not in FLOATS:
        raise NotExactError(f"its {role} {value.name} is {tensor.dtype.name}, not floating point")
    return tensor.numpy().astype(np.float64)


def read_own_floats(value: ir.Value | None, role: str) -> NDArray[np.float64]:
    """Read a stored floating-point constant that one node alone reads, so that it may be changed.

    Raises:
        NotExactError: as `read_floats`, and where the constant is shared or a graph output.
    """
    array = read_floats(value, role)
    assert value is not None
    others = len(value.uses()) - 1
    if others:
        raise NotExactError(f"its {role} {value.name} is shared with {others} other input(s)")
    if value.is_graph_output():
        raise NotExactError(f"its {role} {value.name} is a graph output")
    return array


def read_bias(node: ir.Node, index: int, channels: int) -> NDArray[np.float64]:
    """Read an optional bias: zeros [channels] where the node has none.

    Raises:
        NotExactError: as `read_floats`.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    return np.zeros(channels) if value is None else read_floats(value, "bias")


def cast_like(array: NDArray[np.float64], value: ir.Value | None, role: str) -> NDArray[Any]:
    """Round a result to the type of the constant that it stands for.

    Raises:
        NotExactError: it is not finite in that type.
    """
    tensor = stored(value)
    assert tensor is not None
    with np.errstate(over="ignore"):
        cast: NDArray[Any] = array.astype(tensor.dtype.numpy())
    if not np.isfinite(cast.astype(np.float64)).all():
        raise NotExactError(f"the new {role} is not finite as {tensor.dtype.name}")
    return cast


def write_constant(
    model: ir.Model,
    node: ir.Node,
    index: int,
    array: NDArray[Any],
    stem: str,
    *,
    taken: set[str] | None = None,
) -> None:
    """Make an array the constant input of a node.

    An initializer that nobody else reads keeps its name; a shared one stays for its other readers.

    Args:
        model: The model, whose names the new one must not repeat.
        node: The reader.
        index: Which of its inputs.
        array: The new value, in the type the node takes.
        stem: Name of a new initializer, made unique with a number.
        taken: The model's names, for many calls in a row; a new name is added to them.
    """
    old = node.inputs[index] if index < len(node.inputs) else None
    if (
        old is not None
        and old.is_initializer()
        and len(old.uses()) == 1
        and not old.is_graph_output()
    ):
        old.const_value = ir.tensor(array, name=old.name)
        old.shape = ir.Shape(array.shape)
        old.type = ir.TensorType(old.const_value.dtype)
        return
    value = store(model, array, stem, taken=taken)
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)
    drop_unread((old,))


def store(
    model: ir.Model,
    array: NDArray[Any] | np.generic,
    stem: str,
    *,
    taken: set[str] | None = None,
) -> ir.Value:
    """A new initializer of the model.

    Args:
        model: The model, whose names the new one must not repeat.
        array: What it holds.
        stem: Its name, made unique with a number.
        taken: The model's names, for many calls in a row; the new name is added to them.
    """
    name = fresh_name(names(model) if taken is None else taken, stem)
    tensor = ir.tensor(np.asarray(array), name=name)
    value = ir.Value(
        name=name,
        shape=ir.Shape(np.shape(array)),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    model.graph.register_initializer(value)
    return value


def names(model: ir.Model) -> set[str]:
    """Every name of a value in the model, subgraphs included."""
    return {value.name for value in all_values(model) if value.name is not None}


def all_values(model: ir.Model) -> Iterator[ir.Value]:
    """Every value in the model, subgraphs included."""
    for graph in graphs(model):
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs


def bias_stem(node: ir.Node) -> str:
    """Name for the bias of a node that has none, after its weight's."""
    weight = node.inputs[1]
    name = weight.name if weight is not None and weight.name else node_label(node)
    return f"{name.removesuffix('weight')}bias" if name.endswith("weight") else f"{name}_bias"


def only_reader(value: ir.Value) -> ir.Node:
    """The node that alone reads a value, in the same graph, as its first input.

    Raises:
        NotExactError: there are other readers, or none, or the value is a graph output.
    """
    if value.is_graph_output():
        raise NotExactError(f"the value between, {value.name}, is a graph output")
    uses = list(value.uses())
    if len(uses) != 1:
        names = ", ".join(node_label(use.node) for use in uses)
        raise NotExactError(f"the value between, {value.name}, has {len(uses)} readers ({names})")
    reader, index = uses[0]
    if reader.graph is not value.graph:
        raise NotExactError(f"the value between, {value.name}, is read inside a subgraph")
    if index != 0:
        raise NotExactError(f"{node_label(reader)} reads it as its input {index}, not as its data")
    return reader


def bypass(node: ir.Node, source: ir.Value) -> None:
    """Give the readers of a node's first output `source` instead, and remove the node.

    The name of a graph output survives: `source` takes it.
    """
    result, graph = node.outputs[0], node.graph
    assert graph is not None
    inputs, name, is_output = tuple(node.inputs), result.name, result.is_graph_output()
    if source.type is None:
        source.type = result.type
    if result.shape is not None and (source.shape is None or is_output):
        source.shape = result.shape
    result.replace_all_uses_with(source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if is_output:
        source.name = name
    drop_unread(inputs)


def drop_unread(values: Iterable[ir.Value | None]) -> None:
    """Remove the stored constants among these values that nothing reads any more."""
    for value in values:
        if value is None or value.uses() or value.is_graph_input() or value.is_graph_output():
            continue
        graph, producer = value.graph, value.producer()
        if value.is_initializer() and graph is not None and value.name is not None:
            graph.initializers.pop(value.name)
        elif producer is not None and is_op(producer, "Constant") and graph is not None:
            graph.remove(producer, safe=True)


def _where_from(value: ir.Value | None) -> str:
    if value is None:
        return "is missing"
    if value.is_graph_input():
        return f"{value.name} is a graph input, which a caller may replace"
    producer = value.producer()
    if producer is None:
        return f"{value.name} is not stored in the graph"
    return f"{value.name} is computed by {producer.op_type}, not stored"


def fresh_name(taken: set[str], stem: str) -> str:
    """The stem, or the stem with a number; it is added to the names that are taken."""
    name, number = stem, 0
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name)
    return name
