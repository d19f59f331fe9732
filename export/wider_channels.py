"""Round channels up to what onnxruntime's kernels for codes take at once, with zeros; exact.

- From 16 outputs on onnxruntime computes a quantized convolution without copying windows out first
  (kernel_shapes.py). One of 8 to 15 outputs gets zero filters up to 16.
- Its depthwise convolutions are fastest with a multiple of 16 channels. A convolution that one
  reads gets zero filters up to the next multiple (tests/peers/int8_speed.py measures it).

What is added are maps of zeros. They run through Concats, pools, activations, thresholds and
depthwise convolutions, and meet zero weights in the convolutions that read them. A convolution
whose added channels would reach anything else stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.passes.base import is_op
from edgekit.export.shared_scales import is_threshold

FEWEST_OUTPUTS = 8
DIRECT_OUTPUTS = 16
DEPTHWISE_CHANNELS = 16
# Elements of the output; below, what the added channels cost outweighs what the kernel saves.
_SMALLEST_OUTPUT = 768

# How many times more channels are still faster: 20 become 32.
_LARGEST_RATIO = 1.6

_PASSING_OPS = ("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool")

# The channel that each channel of a widened tensor was, -1 where it was none.
Layout = NDArray[np.int64]


def widen_channels(model: ir.Model, exclude: Collection[str] = ()) -> int:
    """Rewrite a float32 model in place; returns how many convolutions were widened.

    Args:
        model: Its nodes named, its shapes inferred.
        exclude: Names of nodes that will stay float32: none of them sees a widened tensor.
    """
    chosen = {
        node: outputs
        for node in model.graph
        if node.name not in exclude and (outputs := _better_outputs(node)) is not None
    }
    while chosen:
        plan = _Plan(chosen, exclude)
        for node in model.graph:
            plan.follow(node)
        if not plan.refused:
            plan.write(model)
            break
        chosen = {node: outputs for node, outputs in chosen.items() if node not in plan.refused}
    return len(chosen)


def _better_outputs(node: ir.Node) -> int | None:
    """How many outputs a convolution should have; None where it is good as it is."""
    if not is_op(node, "Conv") or node.attributes.get_int("group", 1) != 1:
        return None
    shape = node.outputs[0].shape
    weight = _constant(node, 1)
    if weight is None or shape is None or len(shape) != 4:
        return None
    outputs = len(weight)
    area = np.prod([side if isinstance(side, int) else 0 for side in shape[2:]])
    if outputs * area < _SMALLEST_OUTPUT:
        return None
    whole = -(-outputs // DEPTHWISE_CHANNELS) * DEPTHWISE_CHANNELS
    if _feeds_depthwise(node) and outputs < whole <= _LARGEST_RATIO * outputs:
        return whole
    is_narrow = FEWEST_OUTPUTS <= outputs < DIRECT_OUTPUTS and weight[0, 0].size > 1
    return DIRECT_OUTPUTS if is_narrow else None


def _feeds_depthwise(node: ir.Node) -> bool:
    """Whether a depthwise convolution reads what a node gives, behind activations at most."""
    return any(
        _is_depthwise(reader)
        or ((is_op(reader, "Relu", "Clip") or is_threshold(reader)) and _feeds_depthwise(reader))
        for reader in node.outputs[0].consumers()
    )


def _is_depthwise(node: ir.Node) -> bool:
    weight = _constant(node, 1) if is_op(node, "Conv") else None
    groups = node.attributes.get_int("group", 1)
    return weight is not None and weight.shape[1] == 1 and len(weight) == groups > 1


def _constant(node: ir.Node, index: int) -> NDArray[np.float32] | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    array: NDArray[np.float32] = value.const_value.numpy()
    return array


def _take(values: NDArray[np.float32], layout: Layout, axis: int) -> NDArray[np.float32]:
    """Channels in a new order, zeros where they are none."""
    kept = np.take(values, np.maximum(layout, 0), axis=axis)
    shape = [1] * values.ndim
    shape[axis] = -1
    return np.where(layout.reshape(shape) < 0, np.float32(0), kept)


def _is_seen_elsewhere(node: ir.Node) -> bool:
    """Whether what a node gives leaves the graph, or is read in the body of an If or a Loop."""
    given = node.outputs[0]
    return given.is_graph_output() or any(one.graph is not node.graph for one in given.consumers())


class _Plan:
    """The layout of each tensor that the chosen convolutions would widen, and what must follow."""

    def __init__(self, chosen: Mapping[ir.Node, int], exclude: Collection[str]) -> None:
        self.refused: set[ir.Node] = set()
        self._chosen, self._exclude = chosen, exclude
        self._layouts: dict[ir.Value, Layout] = {}
        self._origins: dict[ir.Value, frozenset[ir.Node]] = {}
        self._edits: dict[tuple[ir.Node, int], NDArray[np.float32]] = {}

    def follow(self, node: ir.Node) -> None:
        """Take the layouts of a node's inputs to its output, or refuse where they come from."""
        reading = [value for value in node.inputs if value in self._layouts]
        if reading:
            layout = None if node.name in self._exclude else self._beyond(node)
            if layout is None:
                self.refused |= self._sources(reading)
                return
            if len(layout):
                self._layouts[node.outputs[0]] = layout
                self._origins[node.outputs[0]] = frozenset(self._sources(reading))
        if node in self._chosen:
            self._widen(node)
        if node.outputs[0] in self._layouts and _is_seen_elsewhere(node):
            self.refused |= self._sources(node.outputs[:1])

    def write(self, model: ir.Model) -> None:
        """Store the new weights and limits."""
        for (node, index), values in self._edits.items():
            old = node.inputs[index]
            assert old is not None
            name = f"{old.name}_{node.name}_wide" if len(old.consumers()) > 1 else f"{old.name}"
            value = ir.Value(
                name=name, const_value=ir.tensor(np.ascontiguousarray(values), name=name)
            )
            node.replace_input_with(index, value)
            if not old.consumers():
                model.graph.initializers.pop(str(old.name), None)
            model.graph.register_initializer(value)
            if is_op(node, "Conv") and index == 1 and node.attributes.get_int("group", 1) > 1:
                node.attributes["group"] = ir.AttrInt64("group", len(values))
        for value, layout in self._layouts.items():
            if value.shape is not None:
                value.shape = ir.Shape([value.shape[0], len(layout), *value.shape[2:]])

    def _sources(self, values: Iterable[ir.Value | None]) -> set[ir.Node]:
        return {node for value in values if value for node in self._origins[value]}

    def _beyond(self, node: ir.Node) -> Layout | None:
        """The layout of the output; an empty one where the widening ends there."""
        source = node.inputs[0]
        if is_op(node, "Concat") and node.attributes["axis"].as_int() == 1:
            return self._concatenated(node)
        if source not in self._layouts or any(v in self._layouts for v in node.inputs[1:]):
            return None
        layout = self._layouts[source]
        if is_op(node, *_PASSING_OPS):
            return layout if len(node.outputs) == 1 else None
        if is_threshold(node):
            return layout if self._edit_limit(node, layout) else None
        if is_op(node, "Conv"):
            return self._convolved(node, layout)
        return None

    def _concatenated(self, node: ir.Node) -> Layout | None:
        parts: list[Layout] = []
        start = 0
        for value in node.inputs:
            channels = value.shape[1] if value is not None and value.shape is not None else None
            if value is None or not isinstance(channels, int):
                return None
            part = self._layouts.get(value, np.arange(channels))
            parts.append(np.where(part < 0, part, part + start))
            start += channels
        return np.concatenate(parts)

    def _edit_limit(self, node: ir.Node, layout: Layout) -> bool:
        limit = _constant(node, 1)
        if limit is None:
            return False
        if limit.size > 1:
            axis = limit.ndim - 3
            if axis < 0 or limit.size != limit.shape[axis]:
                return False
            self._edits[node, 1] = _take(limit, layout, axis)
        return True

    def _convolved(self, node: ir.Node, layout: Layout) -> Layout | None:
        weight, groups = _constant(node, 1), node.attributes.get_int("group", 1)
        if weight is None:
            return None
        if groups == 1:
            self._edits[node, 1] = _take(weight, layout, 1)
            return np.array([], np.int64)
        if not _is_depthwise(node):
            return None
        for index in range(1, len(node.inputs)):
            values = _constant(node, index)
            if values is None:
                return None
            self._edits[node, index] = _take(values, layout, 0)
        return layout

    def _widen(self, node: ir.Node) -> None:
        weight = self._edits.get((node, 1), _constant(node, 1))
        assert weight is not None
        layout = np.append(np.arange(len(weight)), [-1] * (self._chosen[node] - len(weight)))
        self._edits[node, 1] = _take(weight, layout, 0)
        bias = _constant(node, 2)
        if bias is not None:
            self._edits[node, 2] = _take(bias, layout, 0)
        elif len(node.inputs) > 2:
            self.refused.add(node)
        self._layouts[node.outputs[0]] = layout
        self._origins[node.outputs[0]] = frozenset({node})
