"""How many multiply-accumulates each operator does.

A rule is a function of shapes and attributes alone. Each also names the two operands that are
multiplied: every element of the second is used equally often, so that the effective count is the
dense count times the share of non-zeros. An operator that multiplies several pairs (LSTM,
Attention) has a rule for each. Positions in the padding and under a mask count like any other, as
the field has it.

An operator is in `MAC_RULES`, in `ZERO_MAC_OPS`, or it is reported as uncounted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import onnx_ir as ir

from edgekit.bench.einsum import einsum_macs
from edgekit.bench.n_bits import n_bits_size
from edgekit.bench.shapes import Shape, static_shape


@dataclass(frozen=True)
class Operands:
    """Shapes that a rule sees.

    Attributes:
        x: Shape of the first operand (activations).
        w: Shape of the second operand (weights).
        output: Shape of the node's first output.
        inputs: Shapes of all inputs; None where an input is left out or its shape is not known.
    """

    x: Shape
    w: Shape
    output: Shape
    inputs: tuple[Shape | None, ...] = ()

    def axis(self, index: int, axis: int) -> int:
        """Length of an axis of an input that may be left out: 0 then."""
        shape = self.inputs[index] if index < len(self.inputs) else None
        return shape[axis] if shape else 0


@dataclass(frozen=True)
class MacRule:
    """One pair of operands of an entry of `MAC_RULES`.

    Attributes:
        dense: MACs of the node from its shapes.
        x: Input index of the activations.
        w: Input index of the weights.
        bias: Input index of the bias; None where the operator takes none.
        symmetric: The stored operand may also be the first (matrix products).
        optional: Input indices whose shapes the rule needs where they are given.
        by_output: The rule needs the output's shape, which must be known.
        quantizes_to: Bits to which the operator itself quantizes the activations; None where it
            multiplies them as they come.
    """

    dense: Callable[[ir.Node, Operands], int]
    x: int = 0
    w: int = 1
    bias: int | None = None
    symmetric: bool = False
    optional: tuple[int, ...] = ()
    by_output: bool = True
    quantizes_to: int | None = None


def conv(_node: ir.Node, shapes: Operands) -> int:
    """Each output element takes one filter: |output| * C/group * kernel; W is [M, C/group, ...].

    Neither the order of the axes of x (NCHW, NHWC, NCHWc) nor the sampling of a DeformConv matters.
    """
    return prod(shapes.output) * prod(shapes.w[1:])


def conv_transpose(_node: ir.Node, shapes: Operands) -> int:
    """Each input element is spread by one filter: |input| * M/group * kernel.

    W is [C, M/group, ...].
    """
    return prod(shapes.x) * prod(shapes.w[1:])


def gemm(node: ir.Node, shapes: Operands) -> int:
    """|output| * K, K the columns of A (its rows with transA)."""
    return prod(shapes.output) * shapes.x[0 if flag(node, "transA") else 1]


def mat_mul(node: ir.Node, shapes: Operands) -> int:
    """|output| * K, K the last axis of A; batch axes broadcast.

    With transA it is the axis before, or the first with transBatchA: `transposed_products`.
    """
    transposed = 0 if flag(node, "transBatchA") else -2
    return prod(shapes.output) * shapes.x[transposed if flag(node, "transA") else -1]


def recurrent(_node: ir.Node, shapes: Operands) -> int:
    """At each step, for each sample, every weight once: steps * batch * |W|.

    X is [steps, batch, I] or [batch, steps, I]; W is [directions, gates * H, I] and R is
    [directions, gates * H, H]. Steps beyond `sequence_lens` count like padding. Peepholes are
    elementwise products and no MACs.
    """
    return prod(shapes.x[:2]) * prod(shapes.w)


def attention_scores(_node: ir.Node, shapes: Operands) -> int:
    """Q K^T: |Q| * keys; Q is [B, heads, S, D] or [B, S, heads * D], past keys count."""
    return prod(shapes.x) * (shapes.w[-2] + shapes.axis(4, -2))


def attention_values(_node: ir.Node, shapes: Operands) -> int:
    """P V: |output| * keys."""
    return prod(shapes.output) * (shapes.w[-2] + shapes.axis(4, -2))


def projection(_node: ir.Node, shapes: Operands) -> int:
    """The product with Q's, K's and V's weights: B * S * |W|; W is [D, 3 * hidden]."""
    return prod(shapes.x[:2]) * prod(shapes.w)


def projected_scores(node: ir.Node, shapes: Operands) -> int:
    """Q K^T with Q [B, S, hidden]: B * S * hidden * keys; past is [2, B, heads, P, D]."""
    sizes = node.attributes.get("qkv_hidden_sizes")
    hidden = sizes.as_ints()[0] if sizes is not None else shapes.axis(1, 1) // 3
    return prod(shapes.x[:2]) * hidden * _keys(node, shapes)


def projected_values(node: ir.Node, shapes: Operands) -> int:
    """P V: |output| * keys."""
    return prod(shapes.output) * _keys(node, shapes)


def multi_head_scores(node: ir.Node, shapes: Operands) -> int:
    """Q K^T: |Q| * keys; Q may hold K and V too: [B, S, heads, 3, D]."""
    query = prod(shapes.x) // (3 if len(shapes.x) == 5 else 1)
    return query * _multi_head_keys(node, shapes)


def multi_head_values(node: ir.Node, shapes: Operands) -> int:
    """P V: |output| * keys."""
    return prod(shapes.output) * _multi_head_keys(node, shapes)


def mat_mul_n_bits(node: ir.Node, shapes: Operands) -> int:
    """|output| * K; the weight is packed, so that its shape does not tell K."""
    return prod(shapes.output) * n_bits_size(node)[1]


def _keys(node: ir.Node, shapes: Operands) -> int:
    return shapes.x[1] + shapes.axis(8 if node.op_type == "QAttention" else 4, 3)


def _multi_head_keys(_node: ir.Node, shapes: Operands) -> int:
    """Keys are [B, T, hidden], [B, T, heads, 2, D] or [B, heads, T, D]; past [B, heads, P, D]."""
    key = shapes.inputs[1] if len(shapes.inputs) > 1 else None
    steps = shapes.x[1] if key is None else key[2 if len(key) == 4 else 1]
    return steps + shapes.axis(6, 2)


def flag(node: ir.Node, name: str) -> bool:
    """Whether an attribute is there and not 0."""
    attribute = node.attributes.get(name)
    return attribute is not None and attribute.as_int() != 0


def _einsum(node: ir.Node, shapes: Operands) -> int:
    known = [shape for shape in shapes.inputs if shape is not None]
    return einsum_macs(node.attributes["equation"].as_string(), known)


_PRODUCTS: dict[str, MacRule] = {
    "CausalConvWithState": MacRule(conv, bias=2),
    "Conv": MacRule(conv, bias=2),
    "ConvInteger": MacRule(conv),
    "ConvTranspose": MacRule(conv_transpose, bias=2),
    "DeformConv": MacRule(conv, bias=3),
    "Einsum": MacRule(_einsum, w=-1, symmetric=True, by_output=False),
    "Gemm": MacRule(gemm, bias=2, symmetric=True),
    "MatMul": MacRule(mat_mul, symmetric=True),
    "MatMulInteger": MacRule(mat_mul, symmetric=True),
    "QLinearConv": MacRule(conv, w=3, bias=8),
    "QLinearMatMul": MacRule(mat_mul, w=3, symmetric=True),
    "com.microsoft.DynamicQuantizeMatMul": MacRule(mat_mul, bias=4, quantizes_to=8),
    "com.microsoft.FusedConv": MacRule(conv, bias=2),
    "com.microsoft.FusedGemm": MacRule(gemm, bias=2, symmetric=True),
    "com.microsoft.FusedMatMul": MacRule(mat_mul, symmetric=True),
    "com.microsoft.FusedMatMulActivation": MacRule(mat_mul, symmetric=True),
    "com.microsoft.GemmFastGelu": MacRule(mat_mul, bias=2),
    "com.microsoft.MatMulInteger16": MacRule(mat_mul, symmetric=True),
    "com.microsoft.MatMulIntegerToFloat": MacRule(mat_mul, bias=6),
    "com.microsoft.MatMulNBits": MacRule(mat_mul_n_bits, bias=5),
    "com.microsoft.NhwcConv": MacRule(conv, bias=2),
    "com.microsoft.NhwcFusedConv": MacRule(conv, bias=2),
    "com.microsoft.QGemm": MacRule(gemm, w=3, bias=6),
    "com.microsoft.QLinearConv": MacRule(conv, w=3, bias=8),
    "com.microsoft.TransposeMatMul": MacRule(mat_mul, symmetric=True),
    "com.microsoft.nchwc.Conv": MacRule(conv, bias=2),
    "com.ms.internal.nhwc.Conv": MacRule(conv, bias=2),
    "com.ms.internal.nhwc.ConvTranspose": MacRule(conv_transpose, bias=2),
    "com.ms.internal.nhwc.QLinearConv": MacRule(conv, w=3, bias=8),
}
_RECURRENT = (
    MacRule(recurrent, w=1, bias=3, by_output=False),
    MacRule(recurrent, w=2, bias=3, by_output=False),
)
# Several pairs in one node; the first names the widths at which the node is listed.
MAC_RULES: dict[str, tuple[MacRule, ...]] = {
    **{name: (rule,) for name, rule in _PRODUCTS.items()},
    "Attention": (
        MacRule(attention_scores, w=1, optional=(4,)),
        MacRule(attention_values, w=2, optional=(4,)),
    ),
    "GRU": _RECURRENT,
    "LSTM": _RECURRENT,
    "RNN": _RECURRENT,
    "com.microsoft.Attention": (
        MacRule(projection, bias=2),
        MacRule(projected_scores, w=0, optional=(4,)),
        MacRule(projected_values, w=0, optional=(4,)),
    ),
    "com.microsoft.DynamicQuantizeLSTM": tuple(replace(r, quantizes_to=8) for r in _RECURRENT),
    "com.microsoft.MultiHeadAttention": (
        MacRule(multi_head_scores, w=0, optional=(1, 6)),
        MacRule(multi_head_values, w=0, optional=(1, 6)),
    ),
    "com.microsoft.QAttention": (
        MacRule(projection, bias=2),
        MacRule(projected_scores, w=0, optional=(8,)),
        MacRule(projected_values, w=0, optional=(8,)),
    ),
}

# If, Loop and Scan stand here because their bodies are entered and counted node by node.
_ZERO_MAC_NAMES = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
    Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast
    CastLike Ceil Celu CenterCropPad Clip Col2Im Compress Concat ConcatFromSequence Constant
    ConstantOfShape Cos Cosh CumProd CumSum DepthToSpace DequantizeLinear Div Dropout
    DynamicQuantizeLinear Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements
    GatherND Gelu GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax Loop LpNormalization LpPool Max MaxPool MaxRoiPool MaxUnpool Mean
    MeanVarianceNormalization Min Mish Mod Mul Multinomial Neg NonMaxSuppression NonZero Not OneHot
    Optional OptionalGetElement OptionalHasElement Or PRelu Pad Pow QuantizeLinear RMSNormalization
    RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1
    ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round Scan Scatter
    ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty SequenceErase
    SequenceInsert SequenceLength Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus
    Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze Sub Sum SwiGLU Swish Tan Tanh
    TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
    com.microsoft.BiasGelu com.microsoft.FastGelu com.microsoft.Gelu com.microsoft.NhwcMaxPool
    com.microsoft.QLinearAdd com.microsoft.QLinearAveragePool com.microsoft.QLinearConcat
    com.microsoft.QLinearGlobalAveragePool com.microsoft.QLinearLeakyRelu com.microsoft.QLinearMul
    com.microsoft.QLinearReduceMean com.microsoft.QLinearSigmoid com.microsoft.QLinearSoftmax
    com.microsoft.QuickGelu com.microsoft.SkipLayerNormalization com.microsoft.nchwc.AveragePool
    com.microsoft.nchwc.GlobalAveragePool com.microsoft.nchwc.GlobalMaxPool
    com.microsoft.nchwc.MaxPool com.microsoft.nchwc.ReorderInput com.microsoft.nchwc.ReorderOutput
    com.microsoft.nchwc.Upsample com.ms.internal.nhwc.AveragePool
    com.ms.internal.nhwc.GlobalAveragePool com.ms.internal.nhwc.GlobalMaxPool
    com.ms.internal.nhwc.MaxPool
"""
ZERO_MAC_OPS: frozenset[str] = frozenset(_ZERO_MAC_NAMES.split())


def operands(node: ir.Node, rule: MacRule) -> Operands | None:
    """The shapes that the rule needs; None where one of them is not known, or not there."""
    inputs = tuple(static_shape(value) for value in node.inputs)
    output = static_shape(node.outputs[0]) if node.outputs else None
    needed = [i for i in rule.optional if i < len(inputs) and node.inputs[i] is not None]
    if any(inputs[index] is None for index in needed) or (output is None and rule.by_output):
        return None
    if max(rule.x, rule.w) >= len(inputs):
        return None
    x, w = inputs[rule.x], inputs[rule.w]
    return None if x is None or w is None else Operands(x, w, output or (), inputs)
