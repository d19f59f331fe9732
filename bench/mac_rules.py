"""How many multiply-accumulates each operator does.

A rule is a function of shapes alone. Each also names the two operands that are multiplied: every
element of the second is used equally often, so that the effective count is the dense count times
the share of non-zeros. Positions in the padding count like any other, as the field has it.

An operator is in `MAC_RULES`, in `ZERO_MAC_OPS`, or it is reported as uncounted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from edgekit.bench.shapes import Shape, static_shape


@dataclass(frozen=True)
class Operands:
    """Shapes that a rule sees.

    Attributes:
        x: Shape of the first operand (activations).
        w: Shape of the second operand (weights).
        output: Shape of the node's first output.
    """

    x: Shape
    w: Shape
    output: Shape


@dataclass(frozen=True)
class MacRule:
    """One entry of `MAC_RULES`.

    Attributes:
        dense: MACs of the node from its shapes.
        x: Input index of the activations.
        w: Input index of the weights.
        bias: Input index of the bias; None where the operator takes none.
        symmetric: The stored operand may also be the first (matrix products).
    """

    dense: Callable[[ir.Node, Operands], int]
    x: int = 0
    w: int = 1
    bias: int | None = None
    symmetric: bool = False


def conv(_node: ir.Node, shapes: Operands) -> int:
    """Each output element takes one filter: |output| * C/group * kernel; W is [M, C/group, ...]."""
    return prod(shapes.output) * prod(shapes.w[1:])


def conv_transpose(_node: ir.Node, shapes: Operands) -> int:
    """Each input element is spread by one filter: |input| * M/group * kernel.

    W is [C, M/group, ...].
    """
    return prod(shapes.x) * prod(shapes.w[1:])


def gemm(node: ir.Node, shapes: Operands) -> int:
    """|output| * K, K the columns of A (its rows with transA)."""
    return prod(shapes.output) * shapes.x[0 if _flag(node, "transA") else 1]


def mat_mul(node: ir.Node, shapes: Operands) -> int:
    """|output| * K, K the last axis of A (the one before with transA); batch axes broadcast."""
    return prod(shapes.output) * shapes.x[-2 if _flag(node, "transA") else -1]


def _flag(node: ir.Node, name: str) -> bool:
    attribute = node.attributes.get(name)
    return attribute is not None and attribute.as_int() != 0


MAC_RULES: dict[str, MacRule] = {
    "Conv": MacRule(conv, bias=2),
    "ConvInteger": MacRule(conv),
    "ConvTranspose": MacRule(conv_transpose, bias=2),
    "Gemm": MacRule(gemm, bias=2, symmetric=True),
    "MatMul": MacRule(mat_mul, symmetric=True),
    "MatMulInteger": MacRule(mat_mul, symmetric=True),
    "QLinearConv": MacRule(conv, w=3, bias=8),
    "QLinearMatMul": MacRule(mat_mul, w=3, symmetric=True),
    "com.microsoft.DynamicQuantizeMatMul": MacRule(mat_mul, bias=4),
    "com.microsoft.FusedConv": MacRule(conv, bias=2),
    "com.microsoft.FusedGemm": MacRule(gemm, bias=2, symmetric=True),
    "com.microsoft.FusedMatMul": MacRule(mat_mul, symmetric=True),
    "com.microsoft.MatMulIntegerToFloat": MacRule(mat_mul, bias=6),
    "com.microsoft.QLinearConv": MacRule(conv, w=3, bias=8),
}

# If, Loop and Scan stand here because their bodies are entered and counted node by node.
_ZERO_MAC_NAMES = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
    Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast
    CastLike Ceil Celu CenterCropPad Clip Col2Im Compress Concat ConcatFromSequence Constant
    ConstantOfShape Cos Cosh CumProd CumSum DepthToSpace DequantizeLinear Div Dropout
    DynamicQuantizeLinear Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements
    GatherND Gelu GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
    GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax
    Identity If InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less
    LessOrEqual Log LogSoftmax Loop LpNormalization LpPool Max MaxPool MaxRoiPool MaxUnpool
    Mean MeanVarianceNormalization Min Mish Mod Mul Multinomial Neg NonMaxSuppression NonZero
    Not OneHot Optional OptionalGetElement OptionalHasElement Or PRelu Pad Pow QuantizeLinear
    RMSNormalization RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range
    Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Round
    Scan Scatter ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty
    SequenceErase SequenceInsert SequenceLength Shape Shrink Sigmoid Sign Sin Sinh Size Slice
    Softmax Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze Sub Sum Swish
    Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
    com.microsoft.BiasGelu com.microsoft.FastGelu com.microsoft.Gelu com.microsoft.QLinearAdd
    com.microsoft.QLinearAveragePool com.microsoft.QLinearConcat
    com.microsoft.QLinearGlobalAveragePool com.microsoft.QLinearLeakyRelu
    com.microsoft.QLinearMul com.microsoft.QLinearSigmoid com.microsoft.QLinearSoftmax
    com.microsoft.QuickGelu
"""
ZERO_MAC_OPS: frozenset[str] = frozenset(_ZERO_MAC_NAMES.split())


def operands(node: ir.Node, rule: MacRule) -> Operands | None:
    """The shapes that the rule needs; None where one of them is not known."""
    x, w = static_shape(node.inputs[rule.x]), static_shape(node.inputs[rule.w])
    output = static_shape(node.outputs[0])
    if x is None or w is None or output is None:
        return None
    return Operands(x, w, output)
