"""One of two models that are compared: its nodes, and what identifies their stored operands."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from typing import Any

import onnx
import onnx_ir as ir

from edgekit.bench.shapes import operator
from edgekit.bench.weights import stored_tensor

CONSTANTS = ("Constant", "ConstantOfShape")
# Operators whose inputs may change places.
COMMUTATIVE = ("Add", "And", "Equal", "Max", "Mean", "Min", "Mul", "Or", "Sum", "Xor")
# The number of a pair of nodes and which of its outputs, or the name of a graph input.
Feeder = tuple[int, int] | str
# Defaults that the schemas do not hold, since they depend on the rank.
RANK_DEFAULTS = {"dilations": 1, "output_padding": 0, "pads": 0, "strides": 1}
PLAIN = frozenset(
    ir.AttributeType[kind] for kind in ("FLOAT", "FLOATS", "INT", "INTS", "STRING", "STRINGS")
)


def node_name(node: ir.Node) -> str:
    """The node's name, or its first output's where it has none."""
    return node.name or next((str(value.name) for value in node.outputs), "")


class GraphSide:
    """A model, with what was found out about it.

    Attributes:
        nodes: Every node but Constants, subgraphs included.
        ends: Inputs and outputs of the graph by name.
        matched: The number of the pair that a node belongs to.
    """

    def __init__(self, model: ir.Model) -> None:
        self.nodes = [node for node in model.graph.all_nodes() if operator(node) not in CONSTANTS]
        ends = (*model.graph.inputs, *model.graph.outputs)
        self.ends = {str(value.name): value for value in ends}
        self.matched: dict[ir.Node, int] = {}
        self._constant: dict[ir.Value, bool] = {}
        self._digests: dict[int, bytes] = {}

    def unmatched(self, taken: set[ir.Node], *, by_output: bool) -> dict[str, ir.Node]:
        """Nodes without a partner by name, or by their first output's; the unique ones alone."""
        found: dict[str, list[ir.Node]] = {}
        for node in self.nodes:
            if node not in taken and node.outputs:
                name = str(node.outputs[0].name) if by_output else node_name(node)
                found.setdefault(name, []).append(node)
        return {name: nodes[0] for name, nodes in found.items() if len(nodes) == 1}

    def operands(self, node: ir.Node) -> tuple[Any, ...]:
        """What identifies a node's stored operands; None in the place of a computed one."""
        found = [
            tuple(self._leaves(value)) if self.is_constant(value) else None for value in node.inputs
        ]
        if operator(node) in COMMUTATIVE:
            found.sort(key=lambda leaves: (leaves is not None, repr(leaves)))
        return tuple(found)

    def feeders(self, node: ir.Node) -> tuple[frozenset[Feeder], ...]:
        """What feeds each input, up to the last that is fed; all together where order is idle."""
        found = [self._sources(value) for value in node.inputs]
        if operator(node) in COMMUTATIVE:
            return (frozenset().union(*found),)
        while found and not found[-1]:
            found.pop()
        return tuple(found)

    def _sources(self, value: ir.Value | None) -> frozenset[Feeder]:
        """Nearest matched nodes upstream, by number and output, and graph inputs, by name."""
        found: set[Feeder] = set()
        waiting = [] if value is None else [value]
        seen: set[ir.Value] = set()
        while waiting:
            value = waiting.pop()
            if value in seen or self.is_constant(value):
                continue
            seen.add(value)
            producer = value.producer()
            if producer is None:
                found.add(str(value.name))
            elif producer in self.matched:
                found.add((self.matched[producer], producer.outputs.index(value)))
            else:
                waiting.extend(item for item in producer.inputs if item is not None)
        return frozenset(found)

    def is_constant(self, value: ir.Value | None) -> bool:
        """Whether a value is stored, or computed from stored values alone."""
        if value is None:
            return False
        waiting = [value]
        while waiting:
            current = waiting[-1]
            producer = current.producer()
            inputs = [] if producer is None else [v for v in producer.inputs if v is not None]
            missing = [item for item in inputs if item not in self._constant]
            stored = current in self._constant or stored_tensor(current) is not None
            if missing and not stored:
                waiting.extend(missing)
                continue
            waiting.pop()
            if current not in self._constant:
                # The inputs of a stored value are not looked up: they need not be known.
                self._constant[current] = stored or (
                    bool(inputs) and all(self._constant[item] for item in inputs)
                )
        return self._constant[value]

    def _leaves(self, value: ir.Value | None) -> Iterator[tuple[Any, ...]]:
        """Type, shape and digest of each stored tensor that a constant is made of."""
        waiting = [value]
        while waiting:
            current = waiting.pop()
            stored = None if current is None else stored_tensor(current)
            if stored is not None:
                if stored.key not in self._digests:
                    self._digests[stored.key] = _digest(stored.tensor)
                yield stored.dtype, stored.shape, self._digests[stored.key]
            elif current is not None and (producer := current.producer()) is not None:
                waiting.extend(producer.inputs)


def attributes(node: ir.Node) -> dict[str, Any]:
    """Attributes that are not at their default, in a form that compares; no graphs."""
    found: dict[str, Any] = {}
    defaults = _defaults(node.domain, node.op_type, node.version)
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            found[name] = f"@{attribute.ref_attr_name}"
        elif attribute.type == ir.AttributeType.TENSOR:
            found[name] = _digest(attribute.as_tensor())
        elif attribute.type in PLAIN:
            value = attribute.value
            found[name] = list(value) if isinstance(value, list | tuple) else value
            if found[name] == defaults.get(name) or _fills(found[name], RANK_DEFAULTS.get(name)):
                del found[name]
    return found


@functools.cache
def _defaults(domain: str, op_type: str, opset: int | None) -> dict[str, Any]:
    """What the operator's schema says for attributes that a node does not have."""
    try:
        schema = onnx.defs.get_schema(op_type, opset or onnx.defs.onnx_opset_version(), domain)
    except onnx.defs.SchemaError:
        return {}
    found = {}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.type != onnx.AttributeProto.UNDEFINED:
            value = onnx.helper.get_attribute_value(attribute.default_value)
            found[name] = value.decode() if isinstance(value, bytes) else value
    return found


def _fills(value: Any, default: int | None) -> bool:
    return isinstance(value, list) and default is not None and set(value) == {default}


def _digest(tensor: ir.TensorProtocol) -> bytes:
    if tensor.dtype == ir.DataType.STRING:
        return hashlib.sha256(repr(tensor.numpy().tolist()).encode()).digest()
    return hashlib.sha256(tensor.tobytes()).digest()
