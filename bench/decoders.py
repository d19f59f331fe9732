"""Weights that the graph rebuilds from packed ones: a mask and the non-zeros, codes and a codebook.

Such a decoder is a part of the graph that depends on no input. It is not known by its operators:
onnxruntime computes it, and what it makes counts as the weight, while the file is charged for what
it stores. Paths that only reshape, cast, join or dequantize are no decoders; `nonzeros`
follows those.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper

from edgekit.bench.shapes import operator, subgraphs
from edgekit.bench.weights import CASTS, NONZERO, RESHAPES, STORES, stored_tensor
from edgekit.export.random_draws import draws
from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.session import open_session

_PLAIN = (
    RESHAPES
    | CASTS
    | {"Concat", "DequantizeLinear", "Expand", "QuantizeLinear", "Slice", "Split", "Tile"}
)
# Inputs that say how to compute and hold no weight: shapes, axes and bounds.
_STRUCTURE: dict[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Expand": (1,),
    "OneHot": (1, 2),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "ReduceMax": (1,),
    "ReduceSum": (1,),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
}


@dataclass(frozen=True)
class Decoder:
    """A weight that the graph rebuilds.

    Attributes:
        value: What the rest of the graph uses; its `const_value` is the decoded tensor.
        nodes: The nodes that compute it.
        stored: The stored values that they read.
    """

    value: ir.Value
    nodes: frozenset[ir.Node]
    stored: tuple[ir.Value, ...]

    def stored_tensors(self) -> dict[int, int]:
        """Bits of each stored tensor that it reads, by the tensor's key; no shapes and axes."""
        found = {}
        for value in self.stored:
            tensor = stored_tensor(value)
            if tensor is not None and not _is_structure(value, self.nodes):
                found[tensor.key] = tensor.stored_bits
        return found


def constant_nodes(graph: ir.Graph, outside: Set[ir.Node] = frozenset()) -> set[ir.Node]:
    """The nodes of a graph that depend on no input and on no chance.

    Args:
        graph: A model's graph, or the body of a control-flow node.
        outside: For a body, those of the graphs around it, which are returned too.
    """
    constant = set(outside)
    for node in graph:
        if operator(node) in STORES or (
            not draws(node, {})
            and any(value is not None for value in node.inputs)
            and not any(subgraphs(node))
            and all(_is_constant(value, constant) for value in node.inputs)
        ):
            constant.add(node)
    return constant


def find_decoders(model: ir.Model) -> list[Decoder]:
    """Find and compute the decoded tensors of a model; each becomes its value's `const_value`.

    Args:
        model: A model as `shapes.with_static_shapes` returns it, which this may change.

    Raises:
        ModelFileError: onnxruntime cannot compute one.
    """
    scopes = list(_scopes(model.graph, frozenset()))
    constant = frozenset[ir.Node]().union(*(nodes for _, nodes in scopes))
    found = [list(_decoders(graph, constant)) for graph, _ in scopes]
    for decoders in filter(None, found):  # graph by graph: two bodies may use the same names
        for decoder, array in zip(decoders, _compute(decoders, model), strict=True):
            decoder.value.const_value = _decoded(decoder, array, model)
    return [decoder for decoders in found for decoder in decoders]


def _scopes(graph: ir.Graph, outside: Set[ir.Node]) -> Iterator[tuple[ir.Graph, set[ir.Node]]]:
    """A graph and the bodies in it, each with the constant nodes that it sees."""
    constant = constant_nodes(graph, outside)
    yield graph, constant
    for node in graph:
        for body in subgraphs(node):
            yield from _scopes(body, constant)


def _decoders(graph: ir.Graph, constant: Set[ir.Node]) -> Iterator[Decoder]:
    """The decoders whose results a graph makes; they may begin in the graphs around it."""
    for node in graph:
        if node not in constant or operator(node) in STORES:
            continue
        for value in node.outputs:
            if value.const_value is not None or not _leaves(value, constant):
                continue
            nodes = frozenset(_producers(value))
            if all(operator(producer) in _PLAIN for producer in nodes):
                continue
            decoder = Decoder(value, nodes, tuple(_stored(nodes)))
            if _handles_text(decoder):
                continue
            if any(_holds_weight(stored, nodes) for stored in decoder.stored):
                yield decoder


def _is_constant(value: ir.Value | None, constant: Set[ir.Node]) -> bool:
    if value is None or value.const_value is not None:
        return True
    producer = value.producer()
    return producer is not None and producer in constant


def _leaves(value: ir.Value, constant: Set[ir.Node]) -> bool:
    return value.is_graph_output() or any(user not in constant for user, _ in value.uses())


def _producers(value: ir.Value) -> Iterator[ir.Node]:
    seen: set[ir.Node] = set()
    open_values = [value]
    while open_values:
        node = open_values.pop().producer()
        if node is None or node in seen or operator(node) in STORES:
            continue
        seen.add(node)
        yield node
        open_values += [v for v in node.inputs if v is not None and v.const_value is None]


def _stored(nodes: Iterable[ir.Node]) -> Iterator[ir.Value]:
    """What the file stores of the values that the nodes read, in their order."""
    seen: set[ir.Value] = set()
    for node in nodes:
        for value in node.inputs:
            if value is None or value in seen:
                continue
            if stored_tensor(value) is not None:
                seen.add(value)
                yield value


def _handles_text(decoder: Decoder) -> bool:
    """Whether it reads or makes strings: names of classes and words are no weights."""
    tensors = map(stored_tensor, decoder.stored)
    types = [decoder.value.dtype, *(None if tensor is None else tensor.dtype for tensor in tensors)]
    return ir.DataType.STRING in types


def _holds_weight(value: ir.Value, nodes: frozenset[ir.Node]) -> bool:
    """Whether a stored value can hold what was learned: no shape, no scalar, no fill."""
    tensor = stored_tensor(value)
    if tensor is None or tensor.filled or tensor.elements < 2:
        return False
    return not _is_structure(value, nodes)


def _is_structure(value: ir.Value, nodes: frozenset[ir.Node]) -> bool:
    return all(
        index in _STRUCTURE.get(operator(user), ()) for user, index in value.uses() if user in nodes
    )


def _decoded(decoder: Decoder, array: NDArray[Any], model: ir.Model) -> ir.TensorProtocol:
    """The tensor with its non-zeros marked; floats are not kept but computed again if read."""
    if array.dtype.kind in "iub":
        return ir.tensor(array)

    def compute() -> ir.TensorProtocol:
        return ir.tensor(_compute([decoder], model)[0])

    dtype = ir.DataType.from_numpy(array.dtype)
    lazy = ir.LazyTensor(compute, dtype, ir.Shape(array.shape), name=decoder.value.name)
    lazy.meta[NONZERO] = np.packbits(array != 0)
    return lazy


def _compute(decoders: Sequence[Decoder], model: ir.Model) -> list[NDArray[Any]]:
    """What the decoders make, all in one run, since they may share what they read."""
    session = open_session(_as_model(decoders, model), optimize=False)
    try:
        return [np.asarray(array) for array in session.run(None, {})]
    except Exception as error:  # onnxruntime's exceptions share no base class
        names = ", ".join(str(decoder.value.name) for decoder in decoders[:3])
        reason = " ".join(str(error).split())
        raise ModelFileError(f"the constants {names} ... cannot be computed: {reason}") from error


def _as_model(decoders: Sequence[Decoder], model: ir.Model) -> onnx.ModelProto:
    """The decoders alone: no input, one output each."""
    tensors = []
    for value in dict.fromkeys(value for decoder in decoders for value in decoder.stored):
        held = stored_tensor(value)
        if held is not None:
            array = np.ascontiguousarray(held.array()) if held.filled else held.tensor.numpy()
            tensor = ir.Tensor(array, held.dtype, name=value.name)
            tensors.append(ir.serde.serialize_tensor(tensor))
    inside = frozenset[ir.Node]().union(*(decoder.nodes for decoder in decoders))
    nodes = [node for node in model.graph.all_nodes() if node in inside]
    graph = helper.make_graph(
        [ir.serde.serialize_node(node) for node in nodes],
        "decoder",
        [],
        [onnx.ValueInfoProto(name=decoder.value.name) for decoder in decoders],
        tensors,
    )
    imports = [helper.make_opsetid(*entry) for entry in model.opset_imports.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=model.ir_version)
