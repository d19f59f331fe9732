"""Rewrite a graph physically smaller, by what the analysis says of its channels."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.export.liveness.analysis import Analysis
from edgekit.export.liveness.elementwise import Elementwise
from edgekit.export.liveness.joins import Concat, Gather
from edgekit.export.liveness.mixers import Mixer
from edgekit.export.liveness.rule import Rule, Writer
from edgekit.export.liveness.state import Liveness
from edgekit.export.passes.values import drop_unread


def rewrite(analysis: Analysis) -> int:
    """Remove what need not stay. The analysis is void afterwards, if anything was changed.

    Returns:
        The number of channels that were removed from what makes or joins them, or cleared in the
        weights that read them.
    """
    live = analysis.live
    writer = Writer(live.model)
    changed = _store_constants(analysis, writer) or _remove(analysis, writer)
    if changed:
        _drop_unread(analysis)
    return changed


def _store_constants(analysis: Analysis, writer: Writer) -> int:
    """Store operands that are constant; what computed them is unread when analyzed anew."""
    changed = 0
    for rule in analysis.rules.values():
        if isinstance(rule, Elementwise):
            changed += rule.fold_into_bias(
                analysis.live, analysis.rules, writer
            ) or rule.replace_constants(analysis.live, writer)
        elif isinstance(rule, Gather):
            changed += rule.remove_idle(analysis.live)
    return changed


def _remove(analysis: Analysis, writer: Writer) -> int:
    live, rules = analysis.live, analysis.rules.values()
    changed = sum(_removed(live, rule) for rule in rules)
    gone = [rule.node for rule in rules if _vanishes(live, rule.node)]
    vanishing = set(gone)
    for rule in rules:
        if rule.node not in vanishing:
            changed += rule.shrink(live, writer)
    if changed:
        _note_shapes(live)
    for node in reversed(gone):
        _drop(node)
    return changed


def _drop_unread(analysis: Analysis) -> None:
    for rule in reversed(analysis.rules.values()):
        node = rule.node
        read = any(output.uses() or output.is_graph_output() for output in node.outputs)
        if node.graph is not None and not read:
            _drop(node)


def _drop(node: ir.Node) -> None:
    inputs, graph = tuple(node.inputs), node.graph
    assert graph is not None
    graph.remove(node, safe=True)
    drop_unread(inputs)


def _removed(live: Liveness, rule: Rule) -> int:
    """The channels that a node makes no more, and the parts that a Concat alone loses."""
    if isinstance(rule, Mixer):
        return int((~live.kept(rule.output)).sum())
    return rule.dropped(live) if isinstance(rule, Concat) else 0


def _vanishes(live: Liveness, node: ir.Node) -> bool:
    followed = [output for output in node.outputs if live.of(output) is not None]
    return all(len(live.channels[each]) and not live.kept(each).any() for each in followed)


def _note_shapes(live: Liveness) -> None:
    for value in live.channels:
        if value.shape is None or len(value.shape) < 2 or live.kept(value).all():
            continue
        shape = value.shape.copy()
        if isinstance(shape[1], int):
            shape[1] = int(live.kept(value).sum())
        value.shape = shape
