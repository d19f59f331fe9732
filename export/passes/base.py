"""What every pass of edgekit's own shares: it changes exactly, or refuses and says why."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import onnx_ir as ir

from edgekit.export.graph import graph_nodes


class NotExactError(Exception):
    """A rewrite would change what the model computes; the message says why in one sentence."""


@dataclass(frozen=True)
class Refusal:
    """A node that a pass left as it is.

    Attributes:
        node: Name of the node.
        reason: Why, in one sentence without a full stop.
    """

    node: str
    reason: str


@dataclass(frozen=True)
class Change:
    """What a pass did in one place, where a count does not tell it all.

    Attributes:
        node: Name of the node.
        what: What became of it, in a few words without a full stop; equal ones are printed once.
    """

    node: str
    what: str


class GraphPass(ir.passes.InPlacePass):
    """A pass over the nodes of a model, subgraphs included.

    Nodes inside the model's functions are left alone: a function may be called more than once, and
    holds no weights. A value that a subgraph reads counts as read there.

    Attributes:
        changes: What the last run changed, in the pass's own unit (nodes, channels).
        refusals: What the last run left as it is, and why.
        done: What the last run did where, of passes that say so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0
        self.refusals: list[Refusal] = []
        self.done: list[Change] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the model in place."""
        self.changes = 0
        self.refusals = []
        self.done = []
        self.rewrite(model)
        return ir.passes.PassResult(model, modified=self.changes > 0)

    def rewrite(self, model: ir.Model) -> None:
        """Offer each node to `rewrite_node` until none changes, and note what it refuses."""
        while changes := self._visit(model):
            self.changes += changes

    def _visit(self, model: ir.Model) -> int:
        self.refusals = []
        changes = 0
        for node in list(graph_nodes(model.graph)):
            if node.graph is None:  # removed together with another one
                continue
            try:
                changes += self.rewrite_node(model, node)
            except NotExactError as reason:
                self.refuse(node, str(reason))
        return changes

    @abstractmethod
    def rewrite_node(self, model: ir.Model, node: ir.Node) -> int:
        """Rewrite what begins or ends at this node, and return the number of changes.

        Raises:
            NotExactError: the pattern is there, but the rewrite would not be exact. Nothing has
                been changed yet.
        """

    def refuse(self, node: ir.Node, reason: str) -> None:
        """Note that a node stays as it is."""
        self.refusals.append(Refusal(node_label(node), reason))

    def tell(self, node: ir.Node, what: str) -> None:
        """Note what became of a node."""
        self.done.append(Change(node_label(node), what))


def node_label(node: ir.Node) -> str:
    """A name to print for a node: its own, or that of what it computes."""
    if node.name:
        return node.name
    return next((output.name for output in node.outputs if output.name), node.op_type)


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether a node is one of these standard operators."""
    return node is not None and node.domain == "" and node.op_type in op_types


def opset(model: ir.Model) -> int:
    """The version of the standard operators that the model uses."""
    return model.opset_imports.get("", 1)
