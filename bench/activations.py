"""The most memory that activations need at once.

There is a buffer for each activation from the node that makes it to the last node that reads it; a
node's inputs and outputs exist together. Stored tensors and what is computed from them alone are no
activations. A view (Reshape and its like) has its input's buffer. Quantization counts as runtimes
fuse it: the float copy behind a DequantizeLinear has the quantized tensor's buffer, and a tensor
that is no result and that only a QuantizeLinear reads has that of its quantized output. No other
operator is taken to work in place. This is what the graph asks for, in the order of the file and in
the best order that `execution_order` finds; what a runtime's allocator takes is measured by
`arena`.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgekit.bench.execution_order import Buffer, Flow, Peak, least_peak
from edgekit.bench.shapes import elements, graph_inputs, operator, static_shape, subgraphs
from edgekit.bench.weights import RESHAPES, value_type

_VIEWS = (RESHAPES - {"Transpose"}) | {"DequantizeLinear", "Dropout"}


def activation_peak(model: ir.Model) -> Peak | None:
    """Bytes of the largest set of activations alive at one node.

    Args:
        model: A model as `shapes.with_static_shapes` returns it.

    Returns:
        Bytes by order, or None where the shape of an activation is not known.
    """
    try:
        return _graph_peak(model.graph, graph_inputs(model), frozenset())
    except _UnknownShapeError:
        return None


class _UnknownShapeError(Exception):
    pass


def _graph_peak(graph: ir.Graph, inputs: list[ir.Value], outer: frozenset[ir.Value]) -> Peak:
    """The peak of a graph; `outer` are the activations of the graphs around it."""
    roots = _buffers(graph, inputs, outer)
    steps = [node for node in graph if _moves_activations(node, roots)]
    seen = outer | roots.keys()
    bodies = [_bodies_peak(node, seen) for node in steps]
    position = {node: index for index, node in enumerate(steps)}
    writers = dict.fromkeys(roots.values(), 0)
    users = dict(writers)
    needs = []
    for index, node in enumerate(steps):
        before = 0
        for value in node.outputs:
            if value in roots:
                writers[roots[value]] |= 1 << index
                users[roots[value]] |= 1 << index
        for read in _reads(node):
            if read is None or read not in roots:
                continue
            users[roots[read]] |= 1 << index
            producer = read.producer()
            if producer is not None and producer in position:
                before |= 1 << position[producer]
        needs.append(before)
    kept = {roots[value] for value in graph.outputs if value in roots}
    buffers = [Buffer(_bytes(r), writers[r], users[r], r in kept) for r in writers]
    peak = least_peak(Flow(needs, [body.best for body in bodies], buffers))
    if any(body != Peak(0, 0, 0) for body in bodies):
        worse = least_peak(Flow(needs, [body.file_order for body in bodies], buffers))
        bound = least_peak(Flow(needs, [body.lower_bound for body in bodies], buffers))
        return Peak(peak.best, worse.file_order, bound.lower_bound)
    return peak


def _bodies_peak(node: ir.Node, outer: frozenset[ir.Value]) -> Peak:
    """Of a control-flow node, the body that needs most."""
    peaks = [_graph_peak(body, list(body.inputs), outer) for body in subgraphs(node)]
    return Peak(
        max((peak.best for peak in peaks), default=0),
        max((peak.file_order for peak in peaks), default=0),
        max((peak.lower_bound for peak in peaks), default=0),
    )


def _moves_activations(node: ir.Node, roots: dict[ir.Value, ir.Value]) -> bool:
    return any(value in roots for value in node.outputs) or any(
        value in roots for value in _reads(node)
    )


def _buffers(
    graph: ir.Graph, inputs: list[ir.Value], outer: frozenset[ir.Value]
) -> dict[ir.Value, ir.Value]:
    """Activation -> the activation whose buffer it has."""
    buffers = {value: value for value in inputs}
    for node in graph:
        if node.outputs and all(value.const_value is not None for value in node.outputs):
            continue
        read = [value for value in _reads(node) if value is not None]
        if operator(node) != "If" and not any(value in buffers or value in outer for value in read):
            continue
        kept = [v for i, v in enumerate(node.outputs) if v.name and (i == 0 or _is_read(v))]
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
    alone = len(value.uses()) == 1 and not value.is_graph_output()
    return alone and buffers[value] is value and value not in inputs


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _merge(buffers: dict[ir.Value, ir.Value], old: ir.Value, new: ir.Value) -> None:
    for value, root in buffers.items():
        if root is old:
            buffers[value] = new


def _reads(node: ir.Node) -> Iterator[ir.Value | None]:
    """What a node reads, its subgraphs included."""
    yield from node.inputs
    for body in subgraphs(node):
        for inner in body:
            yield from _reads(inner)


def _bytes(value: ir.Value) -> int:
    shape = static_shape(value)
    if shape is None:
        raise _UnknownShapeError
    return -(-elements(shape) * value_type(value).bitwidth // 8)
