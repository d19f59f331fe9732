"""Tensors that hold what other tensors hold: their values are counted once.

A row of `DERIVATIONS` says of what an operator's output is made. A max pool's is a part of its
input's values; its codes pass through it unchanged, so that it must have its input's range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Derivation:
    """All values of the sources together, clamped.

    Attributes:
        sources: Names of float tensors.
        low: Smaller values become this.
        high: Greater values become this.
    """

    sources: tuple[str, ...]
    low: float = -math.inf
    high: float = math.inf


def derivation(value: ir.Value) -> Derivation | None:
    """Of what a tensor is made; None where it must be counted itself."""
    node = value.producer()
    rule = None if node is None or node.domain else DERIVATIONS.get(node.op_type)
    return None if rule is None or node is None else rule(node)


def _moved(node: ir.Node) -> Derivation | None:
    return _derivation(node.inputs[:1])


def _greatest(node: ir.Node) -> Derivation | None:
    """None of what a Pad puts in may be left of it."""
    source = node.inputs[0]
    producer = None if source is None else source.producer()
    padded = producer is not None and producer.op_type == "Pad"
    return None if padded else _moved(node)


def _joined(node: ir.Node) -> Derivation | None:
    return _derivation(node.inputs)


def _positive(node: ir.Node) -> Derivation | None:
    return _derivation(node.inputs[:1], low=0.0)


def _clipped(node: ir.Node) -> Derivation | None:
    bounds = {"low": -math.inf, "high": math.inf}
    for name, value in zip(bounds, node.inputs[1:], strict=False):
        if value is None:
            continue
        if value.const_value is None or value.const_value.size != 1:
            return None
        bounds[name] = float(value.const_value.numpy().reshape(-1)[0])
    for name, key in (("low", "min"), ("high", "max")):
        if key in node.attributes:
            bounds[name] = node.attributes[key].as_float()
    return _derivation(node.inputs[:1], **bounds)


def _derivation(
    values: Sequence[ir.Value | None], low: float = -math.inf, high: float = math.inf
) -> Derivation | None:
    if not all(value is not None and is_activation(value) for value in values):
        return None
    return Derivation(tuple(str(value.name) for value in values if value), low, high)


def is_activation(value: ir.Value) -> bool:
    """Whether a value is a float32 tensor that depends on the model's input."""
    return value.dtype == ir.DataType.FLOAT and value.const_value is None


DERIVATIONS: Mapping[str, Callable[[ir.Node], Derivation | None]] = {
    "Clip": _clipped,
    "Concat": _joined,
    "DepthToSpace": _moved,
    "Flatten": _moved,
    "Identity": _moved,
    "MaxPool": _greatest,
    "Relu": _positive,
    "Reshape": _moved,
    "SpaceToDepth": _moved,
    "Squeeze": _moved,
    "Transpose": _moved,
    "Unsqueeze": _moved,
}
