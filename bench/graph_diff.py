"""What became of each node between two versions of a model.

Nodes are matched by name, then by the name of their first output; Constant nodes are no nodes here
but part of what uses them. A pair has *changed* where one of these differs:

1. the operator or its attributes,
2. a stored operand: its values, type or shape, also behind the nodes that decode it,
3. what feeds it: the nearest matched nodes and graph inputs upstream. A node is not changed because
   one between it and its feeder came or went: that one is *added* or *removed* itself.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from math import prod
from typing import Any

import onnx_ir as ir

from edgekit.bench.shapes import operator
from edgekit.bench.weights import stored_tensor

SCHEMA_VERSION = 1
CONSTANTS = ("Constant", "ConstantOfShape")
PLAIN = frozenset(
    ir.AttributeType[kind] for kind in ("FLOAT", "FLOATS", "INT", "INTS", "STRING", "STRINGS")
)


class Change(StrEnum):
    """What became of a node."""

    SAME = "same"
    CHANGED = "changed"
    REMOVED = "removed"
    ADDED = "added"


@dataclass(frozen=True)
class NodeChange:
    """What became of one node.

    Attributes:
        before: Its name in the older model; None if it was added.
        after: Its name in the newer model; None if it was removed.
        op_type: The operator, of the newer model where it has the node.
        change: What became of it.
        reasons: What differs, for a node that changed.
    """

    before: str | None
    after: str | None
    op_type: str
    change: Change
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class GraphDiff:
    """What became of every node.

    Attributes:
        nodes: Those of the newer model in its order, then the removed ones in theirs.
    """

    nodes: tuple[NodeChange, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many nodes each change befell."""
        found = Counter(node.change for node in self.nodes)
        return {change.value: found[change] for change in Change}

    def before(self) -> dict[str, NodeChange]:
        """The older model's nodes by name."""
        return {node.before: node for node in self.nodes if node.before is not None}

    def after(self) -> dict[str, NodeChange]:
        """The newer model's nodes by name."""
        return {node.after: node for node in self.nodes if node.after is not None}

    def to_json(self) -> dict[str, Any]:
        """One object for `json.dumps`; its keys are a contract."""
        nodes = [
            {
                "before": node.before,
                "after": node.after,
                "op_type": node.op_type,
                "change": node.change.value,
                "reasons": list(node.reasons),
            }
            for node in self.nodes
        ]
        return {
            "schema_version": SCHEMA_VERSION,
            "edgekit": version("edgekit"),
            "counts": self.counts,
            "nodes": nodes,
        }


def node_name(node: ir.Node) -> str:
    """The node's name, or its first output's where it has none."""
    return node.name or next((str(value.name) for value in node.outputs), "")


def diff_graphs(before: ir.Model, after: ir.Model) -> GraphDiff:
    """Compare two versions of a model node by node; both are left as they are.

    Nodes of subgraphs are compared like any other; a model's functions count as operators.
    """
    old, new = _Side(before), _Side(after)
    pairs = _pairs(old, new)
    for number, (one, other) in enumerate(pairs):
        old.matched[one] = new.matched[other] = number
    partner = {other: one for one, other in pairs}
    changes = []
    for node in new.nodes:
        old_node = partner.get(node)
        if old_node is None:
            changes.append(NodeChange(None, node_name(node), operator(node), Change.ADDED))
            continue
        reasons = tuple(_reasons(old, old_node, new, node))
        change = Change.CHANGED if reasons else Change.SAME
        changes.append(
            NodeChange(node_name(old_node), node_name(node), operator(node), change, reasons)
        )
    changes += [
        NodeChange(node_name(node), None, operator(node), Change.REMOVED)
        for node in old.nodes
        if node not in old.matched
    ]
    return GraphDiff(tuple(changes))


class _Side:
    """One of the two models, with what was found out about it."""

    def __init__(self, model: ir.Model) -> None:
        self.nodes = [node for node in model.graph.all_nodes() if operator(node) not in CONSTANTS]
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
        return tuple(
            tuple(self._leaves(value)) if self.is_constant(value) else None for value in node.inputs
        )

    def feeders(self, node: ir.Node) -> set[int | str]:
        """Nearest matched nodes upstream, by number, and graph inputs, by name."""
        found: set[int | str] = set()
        waiting = [value for value in node.inputs if value is not None]
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
                found.add(self.matched[producer])
            else:
                waiting.extend(item for item in producer.inputs if item is not None)
        return found

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
                computed = bool(inputs) and all(self._constant[item] for item in inputs)
                self._constant[current] = stored or computed
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


def _digest(tensor: ir.TensorProtocol) -> bytes:
    if tensor.dtype == ir.DataType.STRING:
        return hashlib.sha256(repr(tensor.numpy().tolist()).encode()).digest()
    return hashlib.sha256(tensor.tobytes()).digest()


def _pairs(old: _Side, new: _Side) -> list[tuple[ir.Node, ir.Node]]:
    pairs: list[tuple[ir.Node, ir.Node]] = []
    for by_output in (False, True):
        ones = old.unmatched({one for one, _ in pairs}, by_output=by_output)
        others = new.unmatched({other for _, other in pairs}, by_output=by_output)
        pairs += [(ones[name], others[name]) for name in ones if name in others]
    return pairs


def _reasons(old: _Side, one: ir.Node, new: _Side, other: ir.Node) -> Iterator[str]:
    if operator(one) != operator(other):
        yield f"operator {operator(one)} to {operator(other)}"
    before, after = _attributes(one), _attributes(other)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"attribute {name}{_from_to(before.get(name), after.get(name))}"
    yield from _operand_reasons(old.operands(one), new.operands(other))
    if old.feeders(one) != new.feeders(other):
        yield "fed by other nodes"


def _operand_reasons(before: tuple[Any, ...], after: tuple[Any, ...]) -> Iterator[str]:
    for index in range(max(len(before), len(after))):
        one = before[index] if index < len(before) else None
        other = after[index] if index < len(after) else None
        if one == other:
            continue
        yield f"input {index}: {_operand_reason(one, other)}"


def _operand_reason(one: tuple[Any, ...] | None, other: tuple[Any, ...] | None) -> str:
    if one is None:
        return "stored now"
    if other is None:
        return "no longer stored"
    first, second = _main(one), _main(other)
    if first[1] != second[1] and len(one) == len(other):
        return f"shape {list(first[1])} to {list(second[1])}"
    if first[0] != second[0]:
        return f"{first[0]} to {second[0]}"
    return "other values"


def _main(leaves: tuple[Any, ...]) -> tuple[Any, ...]:
    """The largest of the tensors that an operand is made of: not its scale or zero point."""
    largest: tuple[Any, ...] = max(leaves, key=lambda leaf: prod(leaf[1]))
    return largest


def _attributes(node: ir.Node) -> dict[str, Any]:
    """A node's attributes in a form that compares; a graph's nodes are compared on their own."""
    found: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            found[name] = f"@{attribute.ref_attr_name}"
        elif attribute.type == ir.AttributeType.TENSOR:
            found[name] = _digest(attribute.as_tensor())
        elif attribute.type in PLAIN:
            value = attribute.value
            found[name] = list(value) if isinstance(value, list | tuple) else value
    return found


def _from_to(before: Any, after: Any) -> str:
    if isinstance(before, bytes) or isinstance(after, bytes):  # a tensor
        return ""
    return " " + " to ".join("none" if value is None else str(value) for value in (before, after))
