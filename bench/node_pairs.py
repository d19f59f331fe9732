"""Which node of one model is which of another: by name, by output, then by place."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgekit.bench.graph_side import CONSTANTS, GraphSide
from edgekit.bench.shapes import operator

Pairs = list[tuple[ir.Node, ir.Node]]


def node_pairs(old: GraphSide, new: GraphSide) -> Pairs:
    """Nodes of two models that stand for each other; no node is in two pairs."""
    pairs: Pairs = []
    for by_output in (False, True):
        ones = old.unmatched({one for one, _ in pairs}, by_output=by_output)
        others = new.unmatched({other for _, other in pairs}, by_output=by_output)
        pairs += [(ones[name], others[name]) for name in ones if name in others]
    return _by_place(pairs, old, new)


def _by_place(pairs: Pairs, old: GraphSide, new: GraphSide) -> Pairs:
    """The pairs, and those that follow from them and from inputs and outputs of one name."""
    taken = {node for pair in pairs for node in pair}
    values = [(old.ends[name], new.ends[name]) for name in old.ends if name in new.ends]
    found = list(pairs)
    position = 0
    while True:
        for one, other in values:
            for pair in (_producers(one, other), *_readers(one, other, taken)):
                if pair is not None and not taken & set(pair):
                    taken |= set(pair)
                    found.append(pair)
        if position == len(found):
            return found
        values = _values_of(*found[position])
        position += 1


def _values_of(one: ir.Node, other: ir.Node) -> list[tuple[ir.Value, ir.Value]]:
    """The values at the same inputs and outputs of two nodes."""
    inputs = [(x, y) for x, y in zip(one.inputs, other.inputs, strict=False) if x and y]
    return [*inputs, *zip(one.outputs, other.outputs, strict=False)]


def _producers(one: ir.Value, other: ir.Value) -> tuple[ir.Node, ir.Node] | None:
    makers = one.producer(), other.producer()
    if makers[0] is None or makers[1] is None or one.index() != other.index():
        return None
    return _alike(makers[0], makers[1])


def _readers(
    one: ir.Value, other: ir.Value, taken: set[ir.Node]
) -> Iterator[tuple[ir.Node, ir.Node]]:
    """Nodes of one operator that alone read two values at the same input."""
    sides: list[dict[tuple[str, int], list[ir.Node]]] = []
    for value in (one, other):
        readers: dict[tuple[str, int], list[ir.Node]] = {}
        for node, index in value.uses():
            if node not in taken:
                readers.setdefault((operator(node), index), []).append(node)
        sides.append(readers)
    for key, nodes in sides[0].items():
        others = sides[1].get(key, [])
        if len(nodes) == len(others) == 1:
            yield nodes[0], others[0]


def _alike(one: ir.Node, other: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    same = operator(one) == operator(other) and operator(one) not in CONSTANTS
    return (one, other) if same else None
