"""One range for all tensors whose codes an operator passes on unchanged.

A Concat whose inputs and output have one scale and zero point copies codes; with several it looks
every code up in a table, and some engines leave the integers altogether. Max pooling, thresholds
and whatever moves elements without computing take one scale in the same way; so does an average
pool, whose mean is then a mean of codes.

Tensors that such an operator joins form a group, and all of a group get the union of their ranges.
A tensor whose own range is more than `LARGEST_RATIO` times narrower than the group's would lose
more than two of its eight bits: it keeps its own, and the Concat requantizes it. Only what a Concat
reads can be left out like this, and what hangs on it alone goes with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekit.export.calibrators import Ranges
from edgekit.export.passes.base import is_op
from edgekit.export.passes.values import store

LARGEST_RATIO = 4.0

# Operators that move the elements of their first input, or choose among them.
PASSING_OPS = (
    "MaxPool",
    "AveragePool",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Slice",
    "Split",
    "Gather",
    "Pad",
    "DepthToSpace",
    "SpaceToDepth",
)
THRESHOLD_OPS = ("Max", "Min")


@dataclass(frozen=True)
class SharedScales:
    """What sharing came to.

    Attributes:
        ranges: Lowest and highest value of each tensor.
        groups: Names of the tensors that have one range, group by group.
        apart: Inputs of a Concat that keep a range of their own, and how many times narrower it is
            than the group's.
    """

    ranges: Ranges
    groups: tuple[tuple[str, ...], ...]
    apart: dict[str, float]


def share_scales(
    model: ir.Model,
    ranges: Ranges,
    exclude: Collection[str] = (),
    *,
    largest_ratio: float = LARGEST_RATIO,
) -> SharedScales:
    """Give tensors that meet one range.

    Args:
        model: The float32 model.
        ranges: Lowest and highest value of its tensors.
        exclude: Names of nodes that stay float, and so join nothing.
        largest_ratio: How many times narrower than its group's a range may be.
    """
    groups = _Groups()
    links: list[tuple[str, str]] = []
    for node in model.graph:
        if node.name not in exclude:
            pairs = [(str(first.name), str(second.name)) for first, second in _joined(node)]
            if node.op_type == "Concat":
                links += pairs
            else:
                for pair in pairs:
                    groups.join(*pair)
    apart = _join_concats(groups, links, ranges, largest_ratio)
    members = tuple(
        group
        for found in groups.all()
        if len(group := tuple(name for name in found if name in ranges)) > 1
    )
    shared = dict(ranges)
    for group in members:
        shared.update(dict.fromkeys(group, _union([ranges[name] for name in group])))
    return SharedScales(shared, members, apart)


def keep_clips(model: ir.Model, ranges: Ranges, exclude: Collection[str] = ()) -> Ranges:
    """Turn activations that their range does not clip into thresholds, in place.

    A quantizer stands in for Relu and Clip where its range ends where they do, or before. Where it
    goes beyond, since others share it or since it must hold zero, Max or Min with one number takes
    their place, and what they read has that range too.

    Args:
        model: A float32 model.
        ranges: Lowest and highest value of its tensors, as they are shared.
        exclude: Names of nodes that stay float.

    Returns:
        The ranges of the new model.
    """
    ranges = dict(ranges)
    for node in list(model.graph):
        source, name = (node.inputs[0] if node.inputs else None), str(node.outputs[0].name)
        limits = None if node.name in exclude else stored_limits(node)
        if limits is None or source is None or name not in ranges:
            continue
        low, high = ranges[name]
        clips = all(low >= x if kind == "Max" else high <= x for kind, x in limits.items())
        seen = source.is_graph_input() or source.is_graph_output() or len(source.consumers()) != 1
        if clips or seen:
            continue
        ranges[str(source.name)] = ranges[name]
        _replace(model, node, limits)
    return ranges


def stored_limits(node: ir.Node) -> dict[str, float] | None:
    """The limits of a Relu or Clip as those of Max and Min; None where they are not stored."""
    if is_op(node, "Relu"):
        return {"Max": 0.0}
    if not is_op(node, "Clip"):
        return None
    limits: dict[str, float] = {}
    for kind, value in zip(THRESHOLD_OPS, node.inputs[1:], strict=False):
        if value is None:
            continue
        if value.const_value is None or value.is_graph_input():
            return None
        limits[kind] = float(value.const_value.numpy().item())
    return limits


def _replace(model: ir.Model, node: ir.Node, limits: dict[str, float]) -> None:
    value = node.inputs[0]
    for index, (kind, limit) in enumerate(limits.items()):
        name = f"{node.name}_{kind.lower()}"
        stored = store(model, np.float32(limit), f"{name}_limit")
        last = index == len(limits) - 1
        made = ir.node(kind, [value, stored], name=str(node.name) if last else name)
        model.graph.insert_before(node, made)
        value = made.outputs[0]
        value.type, value.shape, value.name = node.outputs[0].type, node.outputs[0].shape, name
    output = node.outputs[0]
    assert value is not None
    ir.convenience.replace_all_uses_with(output, value, replace_graph_outputs=True)
    value.name, output.name = output.name, None
    model.graph.remove(node, safe=True)


def is_threshold(node: ir.Node) -> bool:
    """Whether a node is Max or Min of a tensor and stored numbers."""
    if node.op_type not in THRESHOLD_OPS or node.domain != "" or len(node.inputs) != 2:
        return False
    data, limit = node.inputs
    return (
        data is not None
        and limit is not None
        and limit.const_value is not None
        and data.const_value is None
        and not limit.is_graph_input()
    )


def _joined(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Pairs of an input and an output whose codes can be the same."""
    if node.domain != "":
        return
    if node.op_type == "Concat":
        sources = [value for value in node.inputs if value is not None]
    elif (node.op_type in PASSING_OPS or is_threshold(node)) and node.inputs[0] is not None:
        sources = [node.inputs[0]]
    else:
        return
    yield from ((source, output) for output in node.outputs for source in sources)


def _join_concats(
    groups: _Groups, links: list[tuple[str, str]], ranges: Ranges, largest_ratio: float
) -> dict[str, float]:
    """Join what Concats join, but for what is too narrow; returns the latter."""
    whole = _Groups(groups)
    for source, output in links:
        whole.join(source, output)
    apart: dict[str, float] = {}
    for source, output in links:
        own, joint = (
            _width(_union([ranges[name] for name in names if name in ranges] or [(0.0, 0.0)]))
            for names in (groups.of(source), whole.of(output))
        )
        ratio = joint / max(own, 1e-30)
        if ratio > largest_ratio and source != output:
            apart[source] = ratio
        else:
            groups.join(source, output)
    return apart


def _union(bounds: list[tuple[float, float]]) -> tuple[float, float]:
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _width(bounds: tuple[float, float]) -> float:
    """Width of a range as a quantizer takes it, which holds zero."""
    return max(bounds[1], 0.0) - min(bounds[0], 0.0)


class _Groups:
    """Disjoint sets of names."""

    def __init__(self, other: _Groups | None = None) -> None:
        self._parents: dict[str, str] = {} if other is None else dict(other._parents)

    def join(self, first: str, second: str) -> None:
        """Make one set of two."""
        self._parents[self._root(second)] = self._root(first)

    def of(self, name: str) -> list[str]:
        """The set that a name is in, itself at least."""
        root = self._root(name)
        return [other for other in {*self._parents, name} if self._root(other) == root]

    def all(self) -> list[list[str]]:
        """Every set."""
        sets: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._parents:
            sets[self._root(name)].append(name)
        return list(sets.values())

    def _root(self, name: str) -> str:
        self._parents.setdefault(name, name)
        while self._parents[name] != name:
            self._parents[name] = self._parents[self._parents[name]]
            name = self._parents[name]
        return name
