"""How many elements of its input an operator makes one of its output from."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from edgekit.bench.shapes import static_shape

# Elements an axis between which an interpolation lies, by the operator's attribute `mode`.
_TAPS = {"bilinear": 2, "linear": 2, "bicubic": 4, "cubic": 4}


def window(node: ir.Node) -> int:
    """Elements of a pooling window, of an LRN's region, or of an interpolation; 1 for any other.

    A RoiAlign that samples as it sees fit counts as one point.
    """
    if node.op_type in ("Resize", "Upsample"):
        return prod([_taps(node, "nearest")] * _changing_axes(node))
    if node.op_type == "GridSample":
        shape = static_shape(node.outputs[0]) if node.outputs else None
        return prod([_taps(node, "linear")] * (len(shape or ()) - 2))
    if node.op_type == "RoiAlign":
        points = node.attributes.get("sampling_ratio")
        return 4 * max(points.as_int() if points is not None else 1, 1) ** 2
    if node.op_type == "LRN":
        size = node.attributes.get("size")
        return max(size.as_int(), 1) if size is not None else 1
    kernel = node.attributes.get("kernel_shape")
    return prod(kernel.as_ints()) if kernel is not None else 1


def _taps(node: ir.Node, default: str) -> int:
    mode = node.attributes.get("mode")
    return _TAPS.get(default if mode is None else mode.as_string(), 1)


def _changing_axes(node: ir.Node) -> int:
    before = static_shape(node.inputs[0]) if node.inputs else None
    after = static_shape(node.outputs[0]) if node.outputs else None
    if before is None or after is None:
        return 0
    return sum(old != new for old, new in zip(before, after, strict=False))
