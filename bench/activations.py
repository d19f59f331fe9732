"""The most memory that activations need at once.

The graph runs in the file's order with a buffer for each activation from the node that makes it to
the last node that reads it; a node's inputs and outputs exist together. Stored tensors and what is
computed from them alone are no activations. A view (Reshape and its like) has its input's buffer.
Quantization counts as runtimes fuse it: the float copy behind a DequantizeLinear has the quantized
tensor's buffer, and a tensor that only a QuantizeLinear reads has that of its quantized output.
No other operator is taken to work in place. This is what the graph asks for, not what a runtime's
allocator takes.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgekit.bench.shapes import elements, graph_inputs, operator, static_shape, subgraphs
from edgekit.bench.weights import RESHAPES, value_type

_VIEWS = (RESHAPES - {"Transpose"}) | {"DequantizeLinear", "Dropout"}


def peak_bytes(model: ir.Model) -> int | None:
    """Bytes of the largest set of activations alive at one node.

    Args:
        model: A model as `shapes.with_static_shapes` returns it.

    Returns:
        Bytes, or None where the shape of an activation is not known.
    """
    try:
        return _graph_peak(model.graph, graph_inputs(model))
    except _UnknownShapeError:
        return None


class _UnknownShapeError(Exception):
    pass


def _graph_peak(graph: ir.Graph, inputs: list[ir.Value]) -> int:
    buffers = _buffers(graph, inputs)
    last_use = _last_uses(graph, buffers)
    starts: dict[ir.Value, int] = {buffers[value]: 0 for value in inputs}
    nodes = list(graph)
    for position, node in enumerate(nodes):
        for output in node.outputs:
            if output in buffers:
                starts.setdefault(buffers[output], position)
    change = [0] * (len(nodes) + 1)
    for root, start in starts.items():
        size = _bytes(root)
        change[start] += size
        change[max(last_use.get(root, start), start) + 1 if nodes else 0] -= size
    alive, peak = 0, 0
    for position, node in enumerate(nodes):
        alive += change[position]
        inner = max((_graph_peak(body, list(body.inputs)) for body in subgraphs(node)), default=0)
        peak = max(peak, alive + inner)
    return peak


def _buffers(graph: ir.Graph, inputs: list[ir.Value]) -> dict[ir.Value, ir.Value]:
    """Activation -> the activation whose buffer it has."""
    buffers = {value: value for value in inputs}
    for node in graph:
        read = [value for value in _reads(node) if value is not None]
        if operator(node) != "If" and all(_is_constant(value, buffers, graph) for value in read):
            continue
        kept = [v for index, v in enumerate(node.outputs) if index == 0 or _is_read(v)]
        buffers.update(zip(kept, kept, strict=True))
        first = node.inputs[0] if node.inputs else None
        if first is None or first not in buffers:
            continue
        if operator(node) in _VIEWS:
            buffers[node.outputs[0]] = buffers[first]
        elif operator(node) == "QuantizeLinear" and _only_quantized(first, buffers, inputs):
            _merge(buffers, first, node.outputs[0])
    return buffers


def _only_quantized(
    value: ir.Value, buffers: dict[ir.Value, ir.Value], inputs: list[ir.Value]
) -> bool:
    return len(value.uses()) == 1 and buffers[value] is value and value not in inputs


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _merge(buffers: dict[ir.Value, ir.Value], old: ir.Value, new: ir.Value) -> None:
    for value, root in buffers.items():
        if root is old:
            buffers[value] = new


def _is_constant(value: ir.Value, buffers: dict[ir.Value, ir.Value], graph: ir.Graph) -> bool:
    if value in buffers:
        return False
    producer = value.producer()
    outer = producer is not None and producer.graph is not graph
    return value.const_value is not None or not outer


def _reads(node: ir.Node) -> Iterator[ir.Value | None]:
    """What a node reads, its subgraphs included."""
    yield from node.inputs
    for body in subgraphs(node):
        for inner in body:
            yield from _reads(inner)


def _last_uses(graph: ir.Graph, buffers: dict[ir.Value, ir.Value]) -> dict[ir.Value, int]:
    last_use: dict[ir.Value, int] = {}
    for position, node in enumerate(graph):
        for value in _reads(node):
            if value is not None and value in buffers:
                last_use[buffers[value]] = position
    end = len(graph) - 1
    for value in graph.outputs:
        if value in buffers:
            last_use[buffers[value]] = end
    return last_use


def _bytes(value: ir.Value) -> int:
    shape = static_shape(value)
    if shape is None:
        raise _UnknownShapeError
    return -(-elements(shape) * value_type(value).bitwidth // 8)
