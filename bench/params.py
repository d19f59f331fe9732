"""What each stored tensor is for, and so which figures it counts in.

| role | examples | params.total, nonzero | stored_bits |
|---|---|---|---|
| LEARNED | weights, biases, normalization constants, slopes, per-channel thresholds | yes | yes |
| QUANTIZER | scales and zero points | no | yes |
| CONSTANT | scalars of an activation function, limits of a Clip | no | yes |
| STRUCTURE | shapes, axes, indices, sizes | no | no |

The role follows from the operators that use the tensor, also through casts, reshapes and
dequantization (`LEARNED_INPUTS`, `QUANTIZER_INPUTS`, `STRUCTURE_INPUTS`, `ARITHMETIC`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import onnx_ir as ir

from edgekit.bench.decoders import Decoder
from edgekit.bench.shapes import operator, subgraphs
from edgekit.bench.weights import (
    CASTS,
    RESHAPES,
    STORES,
    StoredTensor,
    count_nonzero,
    element_bits,
    operand_type,
    stored_elements,
    stored_tensor,
)


class Role(IntEnum):
    """What a stored tensor is for; a tensor with several uses has the highest."""

    STRUCTURE = 0
    CONSTANT = 1
    QUANTIZER = 2
    LEARNED = 3


LEARNED_INPUTS: dict[str, tuple[int, ...]] = {
    "Attention": (0, 1, 2),
    "BatchNormalization": (1, 2, 3, 4),
    "CausalConvWithState": (1, 2),
    "Conv": (1, 2),
    "ConvInteger": (1,),
    "ConvTranspose": (1, 2),
    "DeformConv": (1, 3),
    "Einsum": (0, 1, 2, 3),
    "GRU": (1, 2, 3),
    "Gather": (0,),
    "Gemm": (0, 1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3, 7),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "PRelu": (1,),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3),
    "com.microsoft.Attention": (1, 2),
    "com.microsoft.BiasGelu": (1,),
    "com.microsoft.DynamicQuantizeLSTM": (1, 2, 3, 7),
    "com.microsoft.DynamicQuantizeMatMul": (1, 4),
    "com.microsoft.FastGelu": (1,),
    "com.microsoft.FusedConv": (1, 2),
    "com.microsoft.FusedGemm": (0, 1, 2),
    "com.microsoft.FusedMatMul": (0, 1),
    "com.microsoft.FusedMatMulActivation": (0, 1),
    "com.microsoft.GemmFastGelu": (0, 1, 2),
    "com.microsoft.MatMulInteger16": (0, 1),
    "com.microsoft.MatMulIntegerToFloat": (1, 6),
    "com.microsoft.MatMulNBits": (1, 5),
    "com.microsoft.MultiHeadAttention": (3,),
    "com.microsoft.NhwcConv": (1, 2),
    "com.microsoft.NhwcFusedConv": (1, 2),
    "com.microsoft.QAttention": (1, 2),
    "com.microsoft.QGemm": (3, 6),
    "com.microsoft.QLinearAdd": (0, 3),
    "com.microsoft.QLinearConv": (3, 8),
    "com.microsoft.QLinearMul": (0, 3),
    "com.microsoft.SkipLayerNormalization": (2, 3, 4),
    "com.microsoft.TransposeMatMul": (0, 1),
    "com.microsoft.nchwc.Conv": (1, 2),
    "com.ms.internal.nhwc.Conv": (1, 2),
    "com.ms.internal.nhwc.ConvTranspose": (1, 2),
    "com.ms.internal.nhwc.QLinearConv": (3, 8),
}
QUANTIZER_INPUTS: dict[str, tuple[int, ...]] = {
    "ConvInteger": (2, 3),
    "DequantizeLinear": (1, 2),
    "MatMulInteger": (2, 3),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QuantizeLinear": (1, 2),
    "com.microsoft.DynamicQuantizeLSTM": (8, 9, 10, 11),
    "com.microsoft.DynamicQuantizeMatMul": (2, 3),
    "com.microsoft.MatMulIntegerToFloat": (2, 3, 4, 5),
    "com.microsoft.MatMulNBits": (2, 3),
    "com.microsoft.QAttention": (3, 4, 6, 7),
    "com.microsoft.QGemm": (1, 2, 4, 5, 7, 8),
    "com.microsoft.QLinearAdd": (1, 2, 4, 5, 6, 7),
    "com.microsoft.QLinearAveragePool": (1, 2, 3, 4),
    "com.microsoft.QLinearConv": (1, 2, 4, 5, 6, 7),
    "com.microsoft.QLinearGlobalAveragePool": (1, 2, 3, 4),
    "com.microsoft.QLinearLeakyRelu": (1, 2, 3, 4),
    "com.microsoft.QLinearMul": (1, 2, 4, 5, 6, 7),
    "com.microsoft.QLinearSigmoid": (1, 2, 3, 4),
    "com.microsoft.QLinearSoftmax": (1, 2, 3, 4),
    "com.ms.internal.nhwc.QLinearConv": (1, 2, 4, 5, 6, 7),
}
STRUCTURE_INPUTS: dict[str, tuple[int, ...]] = {"Resize": (1, 2, 3), "Upsample": (1,)}
# A constant operand of these is learned if it has more than one element: an affine layer, or the
# thresholds of a Max or Min. A single element is part of a formula.
ARITHMETIC = frozenset({"Add", "Div", "Max", "Min", "Mul", "Sub", "Sum"})
# The tensor's role is that of what these hand on.
HANDED_ON = RESHAPES | CASTS | {"Concat", "Expand", "Slice", "Split", "Tile"}


@dataclass(frozen=True)
class Parameter:
    """A stored tensor and what it counts for.

    Attributes:
        name: Name of the first value that holds it.
        role: What it is for.
        elements: Elements that the graph sees.
        nonzero: Those that are not zero (a code that differs from its zero point).
        bits: Bits of an element; of a weight that is rebuilt, those stored for a non-zero, masks
            included, and no more than it is multiplied with.
        stored_bits: Bits of the values that the file stores.
        node: The first node that uses it in its role; None if none does.
        packed: The graph rebuilds it from what the file stores, see `decoders`.
    """

    name: str
    role: Role
    elements: int
    nonzero: int
    bits: int
    stored_bits: int
    node: ir.Node | None
    packed: bool = False


def parameters(model: ir.Model, decoders: Sequence[Decoder] = ()) -> list[Parameter]:
    """Every stored tensor of a model, subgraphs included, a shared one once.

    Args:
        model: A model as `shapes.with_static_shapes` returns it: functions inlined.
        decoders: Its decoders; what only they read counts as part of what they make.
    """
    order = {node: position for position, node in enumerate(model.graph.all_nodes())}
    inside = frozenset[ir.Node]().union(*(decoder.nodes for decoder in decoders))
    groups: dict[int, tuple[StoredTensor, list[ir.Value]]] = {}
    for value in _stored_values(model.graph):
        if inside and value.uses() and all(user in inside for user, _ in value.uses()):
            continue
        stored = stored_tensor(value)
        if stored is not None and stored.dtype != ir.DataType.STRING:
            groups.setdefault(stored.key, (stored, []))[1].append(value)
    found = [_parameter(stored, values, order) for stored, values in groups.values()]
    rebuilt = [_rebuilt(decoder, order) for decoder in decoders]
    tensors = [
        {key: bits for key, bits in decoder.stored_tensors().items() if key not in groups}
        for decoder in decoders
    ]
    for members in _sharing(tensors):
        stored_bits = sum({k: b for i in members for k, b in tensors[i].items()}.values())
        for index, part in zip(
            members, _charged([rebuilt[index] for index in members], stored_bits), strict=True
        ):
            rebuilt[index] = part
    return found + rebuilt


def _rebuilt(decoder: Decoder, order: dict[ir.Node, int]) -> Parameter:
    """A weight that the graph rebuilds: as large as it is used, at the width that multiplies."""
    stored = stored_tensor(decoder.value)
    if stored is None:
        raise AssertionError("a decoder's value has its tensor")
    parameter = _parameter(stored, [decoder.value], order)
    return replace(parameter, bits=operand_type(decoder.value).bitwidth, packed=True)


def _sharing(tensors: Sequence[dict[int, int]]) -> list[list[int]]:
    """Decoders by position, those together that read a stored tensor in common."""
    groups: list[tuple[set[int], list[int]]] = []
    for index, keys in enumerate(tensors):
        joined = [group for group in groups if group[0] & keys.keys()]
        groups = [group for group in groups if not group[0] & keys.keys()]
        both = set(keys).union(*(group[0] for group in joined))
        groups.append((both, [i for group in joined for i in group[1]] + [index]))
    return [members for _, members in groups]


def _charged(parts: list[Parameter], stored_bits: int) -> list[Parameter]:
    """Share out what weights have in common, by the width and number of their non-zeros.

    Coding narrows all their widths by the same factor; a mask on top widens none.
    """
    plain = [part.nonzero * part.bits for part in parts]
    total, charged, left = max(sum(plain), 1), [], stored_bits
    for part, bits in zip(parts, plain, strict=True):
        share = left if part is parts[-1] else stored_bits * bits // total
        left -= share
        width = min(part.bits, -(-part.bits * stored_bits // total))
        charged.append(replace(part, bits=width, stored_bits=share))
    return charged


def _stored_values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.initializers.values()
    for node in graph:
        if operator(node) in STORES:
            yield node.outputs[0]
        for body in subgraphs(node):
            yield from _stored_values(body)


def _parameter(
    stored: StoredTensor, values: list[ir.Value], order: dict[ir.Node, int]
) -> Parameter:
    uses = [use for value in values for use in _final_uses(value)]
    role, node, index = Role.CONSTANT if _is_float(stored.dtype) else Role.STRUCTURE, None, 0
    for user, position in sorted(uses, key=lambda use: (order[use[0]], use[1])):
        found = _role(user, position, stored)
        if node is None or found > role:
            role, node, index = found, user, position
    packed = None if node is None else element_bits(node, index)
    return Parameter(
        name=values[0].name or "",
        role=role,
        elements=stored.elements
        if packed is None or node is None
        else stored_elements(node, index),
        nonzero=_nonzero(stored, node, index) if role is Role.LEARNED else 0,
        bits=packed or stored.dtype.bitwidth,
        stored_bits=0 if role is Role.STRUCTURE else stored.stored_bits,
        node=node,
    )


def _final_uses(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    for node, index in value.uses():
        name = operator(node)
        if name in HANDED_ON and (index == 0 or name == "Concat"):
            for output in node.outputs:
                yield from _final_uses(output)
        elif name in ("DequantizeLinear", "QuantizeLinear") and index == 0:
            yield from _final_uses(node.outputs[0])
        else:
            yield node, index


def _role(node: ir.Node, index: int, stored: StoredTensor) -> Role:
    name = operator(node)
    if index in QUANTIZER_INPUTS.get(name, ()):
        return Role.QUANTIZER
    if index in STRUCTURE_INPUTS.get(name, ()):
        return Role.STRUCTURE
    used = node.inputs[index]
    dtype = used.dtype if used is not None and used.dtype is not None else stored.dtype
    if name in LEARNED_INPUTS:
        learned = index in LEARNED_INPUTS[name] and (name != "Gather" or _is_float(dtype))
        return Role.LEARNED if learned else _default(dtype)
    if name in ARITHMETIC and _is_float(dtype):
        if _scales_integers(node, index):
            return Role.QUANTIZER
        return Role.LEARNED if stored.elements > 1 else Role.CONSTANT
    return _default(dtype)


def _default(dtype: ir.DataType) -> Role:
    return Role.CONSTANT if _is_float(dtype) else Role.STRUCTURE


def _scales_integers(node: ir.Node, index: int) -> bool:
    """Whether a constant is multiplied with the scale that a DynamicQuantizeLinear found."""
    others = [value for position, value in enumerate(node.inputs) if position != index]
    producers = [value.producer() for value in others if value is not None]
    return any(p is not None and p.op_type == "DynamicQuantizeLinear" for p in producers)


def _nonzero(stored: StoredTensor, node: ir.Node | None, index: int) -> int:
    if stored.filled:
        return stored.elements if stored.tensor.numpy().any() else 0
    if node is not None:
        used = node.inputs[index]
        nonzero = count_nonzero(node, index)
        whole = used is not None and nonzero is not None and _is_whole(stored, used)
        if whole and nonzero is not None:
            return nonzero
    return int(np.count_nonzero(stored.array()))


def _is_whole(stored: StoredTensor, used: ir.Value) -> bool:
    """Whether the value used is the stored tensor itself, not a part or a join of several."""
    value: ir.Value | None = used
    while value is not None:
        behind = stored_tensor(value)
        if behind is not None:
            return behind.key == stored.key
        node = value.producer()
        value = node.inputs[0] if node is not None and node.inputs else None
    return False


def _is_float(dtype: ir.DataType) -> bool:
    return dtype.is_floating_point()
