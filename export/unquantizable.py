"""Nodes that stay float32 for what they are, though others of their operator are quantized.

- A pool that onnxruntime's integer kernel computes otherwise, or does not know: an AveragePool that
  counts its padding and rounds its size up, or has gaps.
- A cubic Resize: it goes beyond the range of what it reads, which its output would share.
- What puts in, or passes on, a constant so large that codes would tell nothing else apart: the mask
  of an attention, or the lowest number around what a maximum is taken of.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgekit.export.calibrators import Ranges
from edgekit.export.passes.base import is_op
from edgekit.export.passes.values import stored, write_constant

# Masks begin at -10,000; no bias of a network reaches so far.
_LEAST_MASK = 1e4
# So many times smaller, all else has one code of 8 bits.
_DROWNED = 256
_MASKING_OPS = ("Add", "Sub", "Pad", "Concat", "Where")


def unquantizable(model: ir.Model, ranges: Ranges) -> dict[str, str]:
    """Names of the nodes that are to stay float32, and why.

    Args:
        model: A float32 model, its nodes named.
        ranges: Lowest and highest value of its tensors.
    """
    found: dict[str, str] = {}
    masks: dict[ir.Value, tuple[str, float]] = {}
    for node in model.graph:
        mask = next((masks[v] for v in node.inputs if v in masks), None) or _mask(node, ranges)
        if mask is not None:
            name, size = mask
            found[str(node.name)] = f"beside {size:.3g} in {name} all else would have one code"
            masks |= {v: mask for v in node.outputs if _reach(v, ranges) >= size / 2}
        elif reason := _odd_form(node):
            found[str(node.name)] = reason
    return found


def bound_pads(model: ir.Model) -> None:
    """Let Pads that only maxima read pad with the lowest number, not minus infinity, in place.

    A window that holds a number of the map has the same maximum, and ranges are finite.
    """
    for node in model.graph:
        fill = stored(node.inputs[2]) if is_op(node, "Pad") and len(node.inputs) > 2 else None
        readers = node.outputs[0].consumers()
        if fill is None or fill.dtype != ir.DataType.FLOAT or not np.isneginf(fill.numpy()).all():
            continue
        if readers and all(is_op(reader, "MaxPool", "GlobalMaxPool") for reader in readers):
            lowest = np.full_like(fill.numpy(), np.finfo(np.float32).min)
            write_constant(model, node, 2, lowest, f"{node.name}/lowest")


def _odd_form(node: ir.Node) -> str | None:
    if is_op(node, "AveragePool"):
        if any(size != 1 for size in node.attributes.get_ints("dilations", [1])):
            return "onnxruntime's integer AveragePool has no dilations"
        rounds_up = node.attributes.get_int("ceil_mode", 0)
        if rounds_up and node.attributes.get_int("count_include_pad", 0):
            return "onnxruntime's integer AveragePool divides by another count with ceil_mode"
    if is_op(node, "Resize") and node.attributes.get_string("mode", "nearest") == "cubic":
        return "a cubic Resize goes beyond the range of its input"
    return None


def _mask(node: ir.Node, ranges: Ranges) -> tuple[str, float] | None:
    """The stored constant that drowns what a node reads, and its size."""
    if not is_op(node, *_MASKING_OPS):
        return None
    data = max((_reach(v, ranges) for v in node.inputs if v is not None), default=0.0)
    for name, size in _constants(node):
        if size >= _LEAST_MASK and size > _DROWNED * data > 0:
            return name, size
    return None


def _constants(node: ir.Node) -> Iterator[tuple[str, float]]:
    for value in node.inputs:
        tensor = stored(value)
        if tensor is not None and tensor.dtype == ir.DataType.FLOAT and tensor.size:
            assert value is not None
            yield str(value.name), float(np.abs(tensor.numpy()).max())


def _reach(value: ir.Value, ranges: Ranges) -> float:
    low, high = ranges.get(str(value.name), (0.0, 0.0))
    return max(-low, high)
