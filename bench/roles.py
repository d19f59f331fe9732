"""What each stored tensor is for, and so which figures it counts in.

| role | examples | params.total, nonzero | stored_bits |
|---|---|---|---|
| LEARNED | weights, biases, normalization constants, slopes, per-channel thresholds | yes | yes |
| QUANTIZER | scales and zero points | no | yes |
| CONSTANT | scalars of an activation function, limits of a Clip | no | yes |
| STRUCTURE | shapes, axes, indices, sizes | no | no |

The role follows from the operators that use the tensor, also through casts, reshapes and
dequantization (`LEARNED_INPUTS`, `QUANTIZER_INPUTS`, `STRUCTURE_INPUTS`, `ARITHMETIC`). Integers
are learned where their float twins are if they hold codes or are added to the sums of codes: a
quantized embedding, thresholds that are compared with codes, an int32 bias.
"""

from __future__ import annotations

from enum import IntEnum

import onnx_ir as ir

from edgekit.bench.shapes import operator
from edgekit.bench.uses import makers
from edgekit.bench.weights import RESHAPES, StoredTensor
from edgekit.bench.zero_points import code_inputs


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
    "GatherElements": (0,),
    "GatherND": (0,),
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
    "SimplifiedLayerNormalization": (1,),
    "com.microsoft.Attention": (1, 2),
    "com.microsoft.BiasGelu": (1,),
    "com.microsoft.DynamicQuantizeLSTM": (1, 2, 3, 7),
    "com.microsoft.DynamicQuantizeMatMul": (1, 4),
    "com.microsoft.EmbedLayerNormalization": (2, 3, 4, 5, 6),
    "com.microsoft.FastGelu": (1,),
    "com.microsoft.FusedConv": (1, 2),
    "com.microsoft.FusedGemm": (0, 1, 2),
    "com.microsoft.FusedMatMul": (0, 1),
    "com.microsoft.FusedMatMulActivation": (0, 1),
    "com.microsoft.GatherBlockQuantized": (0,),
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
    "com.microsoft.SkipSimplifiedLayerNormalization": (2, 3),
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
    "com.microsoft.GatherBlockQuantized": (2, 3),
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
    "com.microsoft.QLinearReduceMean": (1, 2, 3, 4),
    "com.microsoft.QLinearSigmoid": (1, 2, 3, 4),
    "com.microsoft.QLinearSoftmax": (1, 2, 3, 4),
    "com.ms.internal.nhwc.QLinearConv": (1, 2, 4, 5, 6, 7),
}
STRUCTURE_INPUTS: dict[str, tuple[int, ...]] = {"Resize": (1, 2, 3), "Upsample": (1,)}
# A constant operand of these is learned if it has more than one element: an affine layer, or the
# thresholds of a Max or Min. A single element is part of a formula.
ARITHMETIC = frozenset({"Add", "Div", "Max", "Min", "Mul", "Sub", "Sum"})
_INTEGER_PRODUCTS = ("ConvInteger", "MatMulInteger", "com.microsoft.MatMulInteger16")
_LOOKUPS = ("Gather", "GatherElements", "GatherND")
_WIDEST_CODE = 16


def role_of_use(node: ir.Node, index: int, stored: StoredTensor) -> Role:
    """Role of a stored tensor where a node takes it, as it is or handed on, at an input."""
    name = operator(node)
    if name == "com.microsoft.QLinearConcat":
        return Role.LEARNED if index in code_inputs(node) else Role.QUANTIZER
    if index in QUANTIZER_INPUTS.get(name, ()):
        return Role.QUANTIZER
    if index in STRUCTURE_INPUTS.get(name, ()):
        return Role.STRUCTURE
    used = node.inputs[index]
    dtype = used.dtype if used is not None and used.dtype is not None else stored.dtype
    if name in LEARNED_INPUTS:
        learned = index in LEARNED_INPUTS[name] and (name not in _LOOKUPS or _holds_numbers(dtype))
        return Role.LEARNED if learned else default_role(dtype)
    if name in ARITHMETIC and (_holds_numbers(dtype) or _joins_sums(node, index)):
        if _scales_integers(node, index):
            return Role.QUANTIZER
        return Role.LEARNED if stored.elements > 1 else Role.CONSTANT
    return default_role(dtype)


def default_role(dtype: ir.DataType) -> Role:
    """Role of a tensor whose use says nothing."""
    return Role.CONSTANT if dtype.is_floating_point() else Role.STRUCTURE


def _holds_numbers(dtype: ir.DataType) -> bool:
    """Whether elements stand for real numbers: floats, or codes; wider integers are for shapes."""
    return dtype.is_floating_point() or (dtype.is_integer() and dtype.bitwidth <= _WIDEST_CODE)


def _joins_sums(node: ir.Node, index: int) -> bool:
    """Whether a constant meets the sums of an integer product, as a bias does."""
    others = [value for position, value in enumerate(node.inputs) if position != index]
    found = makers(others, lambda n: n.inputs if operator(n) in RESHAPES | ARITHMETIC else ())
    return any(operator(maker) in _INTEGER_PRODUCTS for maker in found)


def _scales_integers(node: ir.Node, index: int) -> bool:
    """Whether a constant is multiplied with the scale that a DynamicQuantizeLinear found."""
    others = [value for position, value in enumerate(node.inputs) if position != index]
    producers = [value.producer() for value in others if value is not None]
    return any(p is not None and p.op_type == "DynamicQuantizeLinear" for p in producers)
