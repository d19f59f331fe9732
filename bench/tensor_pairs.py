"""Which tensor of one version of a model is which of another, and where its values are read.

A tensor's *origin* is the name that it had before a quantizer renamed it. Both versions keep the
origins of what they share, so tensors are matched by origin; those that are left, by the place of
the nodes that make them (see `node_pairs`), where a rewrite has renamed both.

What is compared is what the next layer reads: behind a quantizer, the dequantized codes; of an
operator that computes codes (a QLinearConv, a Max on codes), those codes times their scale. Where
an operator stands alone that had a BatchNormalization behind it, its output is the
normalization's; where its output is quantized, a Relu or Clip behind it is in the quantizer too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.bench.graph_side import GraphSide
from edgekit.bench.node_pairs import node_pairs
from edgekit.bench.weights import stored_tensor

Match = Literal["name", "place"]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)
_CODES = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16)
_CONVERSIONS = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("Cast", "CastLike"),
)
# How onnxruntime's quantizers rename what they quantize.
_SUFFIXES = ("_QuantizeLinear_Input", "_dequantized", "_quantized")
_FOLDS = ("Conv", "ConvTranspose", "Gemm")
_IN_QUANTIZERS = ("Relu", "Clip")

# Where operators on codes have the scale of their output; the zero point is the input after it.
_OUTPUT_SCALES = {
    "QLinearConv": 6,
    "QLinearMatMul": 6,
    "QLinearAdd": 6,
    "QLinearMul": 6,
    "QGemm": 7,
    "QLinearConcat": 0,
    "QLinearAveragePool": 3,
    "QLinearGlobalAveragePool": 3,
    "QLinearReduceMean": 3,
    "QLinearLeakyRelu": 3,
    "QLinearSigmoid": 3,
    "QLinearSoftmax": 3,
}
# Operators that leave codes of their first input on its scale.
_PASS_CODES = (
    *("MaxPool", "Max", "Min", "Clip", "Relu", "Concat", "Reshape", "Flatten", "Transpose"),
    *("Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Identity", "Pad"),
)


@dataclass(frozen=True)
class Codes:
    """What turns codes into numbers: (code - zero point) * scale, one of each a tensor."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Reading:
    """Where the values of a tensor are read.

    Attributes:
        value: Name of the value to fetch.
        codes: How its codes are decoded; None where it is in floating point.
    """

    value: str
    codes: Codes | None = None

    def decode(self, array: NDArray[Any]) -> NDArray[np.float64]:
        """The fetched array in floating point."""
        wide = array.astype(np.float64)
        return wide if self.codes is None else (wide - self.codes.zero_point) * self.codes.scale


@dataclass(frozen=True)
class TensorPair:
    """One tensor that both models compute.

    Attributes:
        tensor: Its name in the reference.
        node: The node of the reference that makes it.
        reference: Where the reference has it.
        model: Where the other model has it.
        matched: By the name of its origin, or by the place of the nodes that make it.
    """

    tensor: str
    node: ir.Node
    reference: Reading
    model: Reading
    matched: Match


@dataclass(frozen=True)
class Unmatched:
    """A tensor that is compared with none.

    Attributes:
        tensor: Its name.
        op_type: The operator that makes it.
        reason: Why.
    """

    tensor: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class TensorPairs:
    """The tensors of two models.

    Attributes:
        pairs: Those of both, in the reference's order.
        reference_only: Those of the reference alone.
        model_only: Those of the other model alone.
    """

    pairs: tuple[TensorPair, ...]
    reference_only: tuple[Unmatched, ...]
    model_only: tuple[Unmatched, ...]


def tensor_pairs(reference: ir.Model, model: ir.Model) -> TensorPairs:
    """Match the tensors that two models compute; both are left as they are.

    Constants and integers that are no codes are left out, and so are tensors in subgraphs.
    """
    sides = GraphSide(reference), GraphSide(model)
    ours, theirs = _origins(reference, sides[0]), _origins(model, sides[1])
    pairs: dict[ir.Value, TensorPair] = {}
    taken: dict[ir.Value, str] = {}
    reasons: dict[ir.Value, str] = {}

    def match(value: ir.Value, other: ir.Value | None, matched: Match) -> None:
        if other is None or value in pairs:
            return
        if other in taken:
            reasons.setdefault(value, f"the other model computes it within {taken[other]}")
            return
        expected = _behind_fused(value, other, theirs)
        node, name = expected.producer(), str(expected.name)
        if expected not in pairs and node is not None:
            readings = _reading(expected), _reading(other)
            pairs[expected] = TensorPair(name, node, *readings, matched)
            taken[other] = name
            if expected is not value:
                reasons[value] = f"the other model computes it within {name}"

    for origin, value in ours.items():
        match(value, theirs.get(origin), "name")
    if len(pairs) < len(ours):
        partners = dict(node_pairs(*sides))
        computed = set(theirs.values())
        for value in ours.values():
            other = _same_output(value, partners)
            match(value, other if other in computed else None, "place")
    return TensorPairs(
        tuple(pairs[value] for value in ours.values() if value in pairs),
        tuple(
            _alone(value, reasons.get(value, "the other model has none like it"))
            for value in ours.values()
            if value not in pairs
        ),
        tuple(
            _alone(value, "the reference has none like it")
            for value in theirs.values()
            if value not in taken
        ),
    )


def _origins(model: ir.Model, side: GraphSide) -> dict[str, ir.Value]:
    """The values that nodes compute, by origin; where two have the same, the first."""
    found: dict[str, ir.Value] = {}
    for node in model.graph:
        if node.op_type in _CONVERSIONS:  # its origin is what it converts, unless that is codes
            ends = {str(value.name): value for value in node.outputs if value.is_graph_output()}
            found = {**ends, **found}
            continue
        for value in node.outputs:
            numbers = value.dtype is None or value.dtype in (*_FLOATS, *_CODES)
            if value.name and numbers and not side.is_constant(value):
                found.setdefault(_origin(str(value.name)), value)
    return found


def _origin(name: str) -> str:
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def _same_output(value: ir.Value, partners: dict[ir.Node, ir.Node]) -> ir.Value | None:
    producer, index = value.producer(), value.index()
    partner = None if producer is None else partners.get(producer)
    if partner is None or index is None or index >= len(partner.outputs):
        return None
    return partner.outputs[index]


def _behind_fused(value: ir.Value, other: ir.Value, theirs: dict[str, ir.Value]) -> ir.Value:
    """What `other` stands for: `value`, or what an operator computes of it that went into it."""
    producer, readers = value.producer(), value.consumers()
    if producer is None or len(readers) != 1 or value.is_graph_output():
        return value
    (reader,) = readers
    folded = reader.op_type == "BatchNormalization" and producer.op_type in _FOLDS
    clipped = reader.op_type in _IN_QUANTIZERS and _is_quantized(other)
    behind = reader.outputs[0]
    if not (folded or clipped) or _origin(str(behind.name)) in theirs:
        return value
    return _behind_fused(behind, other, theirs)


def _is_quantized(value: ir.Value) -> bool:
    return _codes(value) is not None or _quantizer(value) is not None


def _quantizer(value: ir.Value) -> ir.Node | None:
    return next((node for node in value.consumers() if node.op_type == "QuantizeLinear"), None)


def _reading(value: ir.Value) -> Reading:
    """Where the next layer reads a value."""
    quantizer = _quantizer(value)
    codes = value if quantizer is None else quantizer.outputs[0]
    for node in codes.consumers():
        if node.op_type == "DequantizeLinear" and node.inputs[0] is codes:
            return Reading(str(node.outputs[0].name))
    return Reading(str(codes.name), _codes(codes))


def _codes(value: ir.Value | None) -> Codes | None:
    """How a value's codes are decoded; None where it holds none, or their scale is computed."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _PASS_CODES:
        value = next((v for v in node.inputs if v is not None and not stored_tensor(v)), None)
        node = None if value is None else value.producer()
    if node is None:
        return None
    if node.op_type == "QuantizeLinear":
        return _stored_codes(node, 1)
    if node.op_type in _OUTPUT_SCALES:
        return _stored_codes(node, _OUTPUT_SCALES[node.op_type])
    return None


def _stored_codes(node: ir.Node, position: int) -> Codes | None:
    scale, zero_point = (_scalar(node, index) for index in (position, position + 1))
    return None if scale is None else Codes(scale, int(zero_point or 0))


def _scalar(node: ir.Node, index: int) -> float | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    stored = None if value is None else stored_tensor(value)
    return float(stored.array().item()) if stored is not None and stored.tensor.size == 1 else None


def _alone(value: ir.Value, reason: str) -> Unmatched:
    producer = value.producer()
    op_type = "" if producer is None else producer.op_type
    return Unmatched(_origin(str(value.name)), op_type, reason)
