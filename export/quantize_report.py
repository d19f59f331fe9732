"""What a conversion to smaller numbers did to each node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import onnx_ir as ir

from edgekit.export.executed import Executed
from edgekit.export.shared_scales import is_threshold
from edgekit.export.to_qdq import WEIGHTED_OPS

_CONVERTED = (ir.DataType.FLOAT16, ir.DataType.UINT8, ir.DataType.INT8)


@dataclass(frozen=True)
class LeftInFloat:
    """A node that computes in float32 still, and why."""

    node: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class QuantizeReport:
    """What a conversion did.

    Attributes:
        precision: The precision asked for.
        converted: Nodes that compute in it, by operator.
        left: Nodes that compute in float32 still.
        notes: What else the user should know, one sentence each.
        settings: Every setting that was used.
        executed: What onnxruntime runs; None for precisions of floating point.
    """

    precision: str
    converted: Mapping[str, int]
    left: tuple[LeftInFloat, ...]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    executed: Executed | None = None


def account(
    before: ir.Model,
    after: ir.Model,
    excluded: Collection[str],
    *,
    op_types: Collection[str] = (),
    weights_only: bool = False,
    reasons: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Mapping[str, int], tuple[LeftInFloat, ...]]:
    """Count what became of the nodes that compute floats.

    Args:
        before: The float32 model, every node named.
        after: The same model converted; nodes that stayed have their names.
        excluded: Names of nodes that were to stay float32.
        op_types: Operators that the conversion takes; empty for all.
        weights_only: Whether it takes nothing but weights.
        reasons: Why the conversion left a node of its operators, by the node's name.

    Returns:
        Converted nodes by operator, and the others one by one.
    """
    survivors = {str(node.name): node for node in after.graph}
    converted: Counter[str] = Counter()
    left = []
    for node in before.graph:
        if not _counts(node, weights_only):
            continue
        name = str(node.name)
        survivor = survivors.get(name) or survivors.get(f"{name}_MatMul")
        if survivor is None or (
            name not in excluded
            and name not in reasons
            and (_is_taken(node, op_types) or survivor.op_type != node.op_type)
            and _computes_converted(survivor)
        ):
            converted[node.op_type] += 1
            continue
        why = _reason(node, excluded, op_types, weights_only, reasons)
        left.append(LeftInFloat(name, node.op_type, why))
    return dict(converted), tuple(left)


def _is_taken(node: ir.Node, op_types: Collection[str]) -> bool:
    return not op_types or node.op_type in op_types or is_threshold(node)


def _counts(node: ir.Node, weights_only: bool) -> bool:
    """Whether a node computes floats, and with weights where only these are converted."""
    if weights_only and not any(_is_weight(value) for value in node.inputs):
        return False
    return any(output.dtype in (None, ir.DataType.FLOAT) for output in node.outputs)


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer() and value.dtype == ir.DataType.FLOAT


def _computes_converted(node: ir.Node) -> bool:
    """Whether a node works on half precision or codes, or on what is stored so or quantized."""
    sources = [value for value in node.inputs[:2] if value is not None]
    if any(value.dtype in _CONVERTED for value in (*sources, *node.outputs)):
        return True
    return any(_decoded(value) for value in sources)


def _decoded(value: ir.Value) -> bool:
    producer = value.producer()
    if producer is None:
        return False
    if producer.op_type == "Cast":
        stored = producer.inputs[0]
        return stored is not None and stored.is_initializer()
    return producer.op_type == "DequantizeLinear"


def _reason(
    node: ir.Node,
    excluded: Collection[str],
    op_types: Collection[str],
    weights_only: bool,
    reasons: Mapping[str, str],
) -> str:
    if node.name in excluded:
        return "excluded"
    if not _is_taken(node, op_types):
        return f"{node.op_type} has no quantized form here"
    if node.name in reasons:
        return reasons[str(node.name)]
    if weights_only:
        return "its weights are few, or out of half precision's range"
    if node.op_type in WEIGHTED_OPS:
        return "its weights are no constant"
    return "its input is float32"
