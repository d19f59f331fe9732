"""Nodes that stay float32 for what they are, though others of their operator are quantized.

- A pool that onnxruntime's integer kernel computes otherwise, or does not know: an AveragePool that
  counts its padding and rounds its size up, or has gaps.
- A cubic Resize: it goes beyond the range of what it reads, which its output would share.
- What puts in, or passes on, numbers so large that codes would hardly tell others apart: the mask
  of an attention, or the lowest number around what a maximum is taken of.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.export.calibrators import Ranges
from edgekit.export.passes.base import is_op
from edgekit.export.passes.values import stored, write_constant

# Masks begin at -10,000; no bias of a network reaches so far.
_LEAST_MASK = 1e4
# All else is to have so many codes.
_FEWEST_CODES = 16
_MASKING_OPS = ("Add", "Sub", "Pad", "Concat", "Where")


def unquantizable(model: ir.Model, ranges: Ranges, *, has_8_bits: bool = True) -> dict[str, str]:
    """Names of the nodes that are to stay float32, and why.

    Args:
        model: A float32 model, its nodes named.
        ranges: Lowest and highest value of its tensors.
        has_8_bits: Whether codes have 8 bits, not 16.
    """
    found: dict[str, str] = {}
    masks: dict[ir.Value, tuple[str, float]] = {}
    for node in model.graph:
        passed = next((masks[v] for v in node.inputs if v in masks), None)
        mask = passed or _mask(node, ranges, 256 if has_8_bits else 1 << 16)
        if mask is not None:
            name, size = mask
            found[str(node.name)] = f"beside {size:.3g} in {name} all else would have few codes"
            masks |= {v: mask for v in node.outputs if _reach(v, ranges) >= size / 2}
        elif reason := _odd_form(node, has_8_bits=has_8_bits):
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


def _odd_form(node: ir.Node, *, has_8_bits: bool) -> str | None:
    if has_8_bits and is_op(node, "AveragePool"):  # with 16 bits it computes in floats
        if any(size != 1 for size in node.attributes.get_ints("dilations", [1])):
            return "onnxruntime's integer AveragePool has no dilations"
        rounds_up = node.attributes.get_int("ceil_mode", 0)
        if rounds_up and node.attributes.get_int("count_include_pad", 0):
            return "onnxruntime's integer AveragePool divides by another count with ceil_mode"
    if is_op(node, "Resize") and node.attributes.get_string("mode", "nearest") == "cubic":
        return "a cubic Resize goes beyond the range of its input"
    return None


def _mask(node: ir.Node, ranges: Ranges, levels: int) -> tuple[str, float] | None:
    """The operand beside which others have few of the codes, and its size."""
    if not is_op(node, *_MASKING_OPS):
        return None
    sizes = {str(v.name): size for v in node.inputs if v is not None and (size := _size(v, ranges))}
    name = max(sizes, key=lambda one: sizes[one], default="")
    if sizes.get(name, 0) < _LEAST_MASK:
        return None
    drowned = sizes[name] * _FEWEST_CODES / levels
    return (name, sizes[name]) if any(size < drowned for size in sizes.values()) else None


def _size(value: ir.Value, ranges: Ranges) -> float:
    tensor = stored(value)
    if tensor is None:
        return _reach(value, ranges)
    is_float = tensor.dtype == ir.DataType.FLOAT and tensor.size > 0
    return float(np.abs(tensor.numpy()).max()) if is_float else 0.0


def _reach(value: ir.Value, ranges: Ranges) -> float:
    low, high = ranges.get(str(value.name), (0.0, 0.0))
    return max(-low, high)
