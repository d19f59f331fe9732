"""Run HardSigmoid on the codes: a Clip of uint8 or int8 instead of float32.

HardSigmoid is a x + b between 0 and 1. Codes q of scale s and zero point z stand for s (q - z), so
that between the code l of x = -b / a and the code h of x = (1 - b) / a

    a x + b = a s (q - l),   to half a step of q

the codes of x, clipped to l and h, are those of the gate, with scale a s and zero point l. Scale
1 / (h - l) in its place makes the end exactly 1, as that is what most elements are multiplied by.
HardSwish, x times its gate, is integer then throughout, and so are the gates of squeeze and
excitation. Howard et al. 2019, arXiv:1905.02244, chose both for being cheap in integers.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgekit.export.calibrators import Ranges
from edgekit.export.passes.base import is_op
from edgekit.export.passes.values import store
from edgekit.export.threshold_codes import Grid

# How many times wider a range may get: wider, it would lose over half of a bit.
_LARGEST_RATIO = 1.5
# Codes from closed to open: with fewer, the half step at the ends is over 1.6 percent.
_FEWEST_STEPS = 32


def reach_gates(model: ir.Model, ranges: Ranges, exclude: Collection[str] = ()) -> Ranges:
    """Let what a HardSigmoid reads begin where the gate is closed.

    A range that begins above is widened, by half at most. One that begins below is cut where
    nothing else reads it: HardSwish is zero down there, so that codes would be wasted on it.

    Args:
        model: The float32 model.
        ranges: Lowest and highest value of its tensors.
        exclude: Names of nodes that stay float.

    Returns:
        Ranges whose codes `put_gates_on_codes` can take.
    """
    reached = dict(ranges)
    for node in model.graph:
        name = str(node.inputs[0].name) if node.inputs and node.inputs[0] is not None else ""
        if _is_gate(node) and node.name not in exclude and name in ranges:
            reached[name] = _reach(ranges[name], _ends(node)[0], is_shut=_shuts(node))
    return reached


def _reach(ends: tuple[float, float], closed: float, *, is_shut: bool) -> tuple[float, float]:
    """The range from where the gate is closed: wider if that is near, narrower if it may be."""
    low, high = ends
    if low < closed:
        return (closed, high) if is_shut and closed < high else ends
    is_near = max(high, 0.0) - closed <= _LARGEST_RATIO * (max(high, 0.0) - min(low, 0.0))
    return (closed, high) if is_near else ends


def _shuts(gate: ir.Node) -> bool:
    """Whether all that reads the gate's input is the gate, or its product with the input.

    What is below the closed end is zero there, so that it may be clipped.
    """
    source = gate.inputs[0]
    assert source is not None
    factors = {source, gate.outputs[0]}
    return not source.is_graph_output() and all(
        reader is gate or (is_op(reader, "Mul") and set(reader.inputs) == factors)
        for reader in source.consumers()
    )


def put_gates_on_codes(model: ir.Model, exclude: Collection[str] = ()) -> int:
    """Rewrite a QDQ model in place; returns how many HardSigmoids now clip codes.

    Args:
        model: The QDQ model.
        exclude: Names of nodes that stay float.
    """
    done = 0
    for node in list(model.graph):
        source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if node.name in exclude or not _is_gate(node) or source is None:
            continue
        if is_op(source, "DequantizeLinear"):
            done += _rewrite(model, source, node)
    common.RemoveUnusedNodesPass()(model)
    return done


def _is_gate(node: ir.Node) -> bool:
    return is_op(node, "HardSigmoid") and node.attributes.get_float("alpha", 0.2) > 0


def _ends(node: ir.Node) -> tuple[float, float]:
    """Where the gate starts to open, and where it is open."""
    alpha = node.attributes.get_float("alpha", 0.2)
    beta = node.attributes.get_float("beta", 0.5)
    return -beta / alpha, (1 - beta) / alpha


def _rewrite(model: ir.Model, dequantize: ir.Node, node: ir.Node) -> bool:
    gate, grid = node.outputs[0], Grid.of(dequantize)
    quantizers = gate.consumers()
    if grid is None or gate.is_graph_output() or not quantizers:
        return False
    if any(not is_op(reader, "QuantizeLinear") or Grid.of(reader) is None for reader in quantizers):
        return False
    readers = [reader for q in quantizers for reader in q.outputs[0].consumers()]
    closed, opened = (round(end / grid.scale) + grid.zero_point for end in _ends(node))
    limits = np.iinfo(grid.dtype.numpy())
    if not all(is_op(reader, "DequantizeLinear") for reader in readers):
        return False
    if not limits.min <= closed < limits.max or opened - closed < _FEWEST_STEPS:
        return False
    codes, step, zero = _clip(model, node, dequantize, closed, opened)
    for reader in readers:
        for index, value in enumerate((codes, step, zero)):
            reader.replace_input_with(index, value)
    model.graph.remove([*quantizers, node], safe=True)
    return True


def _clip(
    model: ir.Model, node: ir.Node, dequantize: ir.Node, closed: int, opened: int
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """The gate's codes, their scale and zero point."""
    grid, gate = Grid.of(dequantize), node.outputs[0]
    assert grid is not None
    kind = grid.dtype.numpy()
    low = store(model, kind.type(closed), f"{node.name}/closed")
    high = store(model, kind.type(min(opened, np.iinfo(kind).max)), f"{node.name}/opened")
    step = store(model, np.float32(1 / (opened - closed)), f"{node.name}/step")
    clip = ir.node("Clip", [dequantize.inputs[0], low, high], name=node.name)
    codes = clip.outputs[0]
    codes.name, codes.dtype, codes.shape = f"{gate.name}/codes", grid.dtype, gate.shape
    model.graph.insert_after(node, clip)
    return codes, step, low
