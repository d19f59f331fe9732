"""What became of each node between two versions of a model.

Nodes are matched by name, then by the name of their first output, then by their place: from each
pair, and from inputs and outputs of the same name, on to the nodes of the same operator that feed
the same input or are the only ones to read the same output. So a rewrite may rename nodes. Constant
nodes are no nodes here but part of what uses them. A pair has *changed* where one of these differs:

1. the operator or its attributes,
2. a stored operand: its values, type or shape, also behind the nodes that decode it,
3. what feeds it: the nearest matched nodes and graph inputs upstream. A node is not changed because
   one between it and its feeder came or went: that one is *added* or *removed* itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from math import prod
from typing import Any

import onnx_ir as ir

from edgekit.bench.graph_side import GraphSide, attributes, node_name
from edgekit.bench.node_pairs import node_pairs
from edgekit.bench.shapes import operator

SCHEMA_VERSION = 1


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


def diff_graphs(before: ir.Model, after: ir.Model) -> GraphDiff:
    """Compare two versions of a model node by node; both are left as they are.

    Nodes of subgraphs are compared like any other; a model's functions count as operators.
    """
    old, new = GraphSide(before), GraphSide(after)
    pairs = node_pairs(old, new)
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


def _reasons(old: GraphSide, one: ir.Node, new: GraphSide, other: ir.Node) -> Iterator[str]:
    if operator(one) != operator(other):
        yield f"operator {operator(one)} to {operator(other)}"
    before, after = attributes(one), attributes(other)
    for name in sorted(before.keys() | after.keys()):
        inferred = name == "kernel_shape" and (name not in before or name not in after)
        if before.get(name) != after.get(name) and not inferred:  # the weight has that shape too
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
    return "other values" if first[1] == second[1] else "stored in another form"


def _main(leaves: tuple[Any, ...]) -> tuple[Any, ...]:
    """The largest of the tensors that an operand is made of: not its scale or zero point."""
    largest: tuple[Any, ...] = max(leaves, key=lambda leaf: prod(leaf[1]))
    return largest


def _from_to(before: Any, after: Any) -> str:
    if isinstance(before, bytes) or isinstance(after, bytes):  # a tensor
        return ""
    return " " + " to ".join("none" if value is None else str(value) for value in (before, after))
