"""How often a control-flow operator runs its body."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.bench.shapes import static_shape, subgraphs
from edgekit.bench.weights import input_at, stored_tensor

# From here on a Loop's limit is none: exporters write 2^31 - 1 or 2^63 - 1 for `while`.
NO_LIMIT = 2**31 - 1


def trips(node: ir.Node) -> int | None:
    """Runs of the body; None where only the run can tell.

    If runs a branch once. A Loop runs as often as its constant limit says, also where a condition
    could end it before; a Scan as often as there are slices of its last input.
    """
    if node.op_type == "If":
        return 1
    return _slices(node) if node.op_type == "Scan" else _limit(node)


def _limit(loop: ir.Node) -> int | None:
    value = input_at(loop, 0)
    stored = None if value is None else stored_tensor(value)
    if stored is None or stored.elements != 1 or not stored.dtype.is_integer():
        return None
    limit = int(stored.array().reshape(()))
    return None if limit >= NO_LIMIT else max(limit, 0)


def _slices(scan: ir.Node) -> int | None:
    shape = static_shape(input_at(scan, len(scan.inputs) - 1))
    axes = scan.attributes.get("scan_input_axes")
    axis = axes.as_ints()[-1] if axes is not None and axes.as_ints() else 0
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    body = next(subgraphs(scan))
    if len(scan.inputs) > len(body.inputs) and len(shape) > 1:
        return shape[0] * shape[1]  # opset 8: lengths come first, each sample is scanned by itself
    return shape[axis]
