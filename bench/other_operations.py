"""Operations of the operators that are no matrix products, for the MicroNet rules.

Each entry gives (multiplications, additions). The rules leave open what a function costs; the
organizers' counter has ReLU (1, 0), sigmoid (2, 1) and swish (3, 1) an element. In their spirit:

- A comparison of an activation or a pooling, a division, and a function of one number that machines
  have as one (exponential, logarithm, root, power, error function, sine) are a multiplication each;
  a change of sign is an addition.
- A formula costs what stands in it: Mish, x tanh(log(1 + exp(x))), is Softplus (2, 1) and tanh
  (2, 1) and a product.
- A normalization by mean and variance takes three additions an element (for the mean, its
  subtraction, the variance) and three multiplications (the square, the division by the deviation,
  the scale), and an addition for each of its biases.
- What is done once for many elements (the root of a variance, the logarithm of a sum) is left out,
  unless it is what comes out.
- Interpolation weighs and adds the elements that it lies between: 2 an axis that changes, 4 if it
  is cubic. The nearest element is a copy.

An operator is in `OTHER_OPERATIONS`, in `FREE_OPERATIONS` or in `mac_rules.MAC_RULES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # counting reads this table to tell the dearer branch of an If
    from edgekit.bench.count import NodeCount

Operations = tuple[int, int]


def _per_output(multiplications: int, additions: int) -> Callable[[NodeCount], Operations]:
    return lambda node: (node.outputs * multiplications, node.outputs * additions)


def _per_operand_multiplied(node: NodeCount) -> Operations:
    return node.outputs * max(node.operands - 1, 1), 0


def _per_operand_added(node: NodeCount) -> Operations:
    return 0, node.outputs * max(node.operands - 1, 1)


def _normalized_with_biases(node: NodeCount) -> Operations:
    """X and a scale come first; every operand after these is added, as is SkipLayer's skip."""
    return node.outputs * 3, node.outputs * (3 + max(node.operands - 2, 0))


def _mean(node: NodeCount) -> Operations:
    return node.outputs, _joined(node)


def _joined(node: NodeCount) -> int:
    """Elements that are joined to others: all that come in, but one for each that comes out."""
    return max(node.inputs - node.outputs, 0)


def _window_mean(node: NodeCount) -> Operations:
    return node.outputs, node.outputs * (node.window - 1)


def _window_max(node: NodeCount) -> Operations:
    return node.outputs * (node.window - 1), 0


def _window_norm(node: NodeCount) -> Operations:
    return node.outputs * (node.window + 1), node.outputs * (node.window - 1)


def _interpolated(node: NodeCount) -> Operations:
    if node.window == 1:
        return 0, 0
    return node.outputs * node.window, node.outputs * (node.window - 1)


_FUNCTION_NAMES = """
    Abs Acos Acosh Asin Asinh Atan Atanh Cos Cosh Erf Exp Log Pow Reciprocal Sin Sinh Sqrt Tan
"""
_FUNCTIONS = _FUNCTION_NAMES.split()
_MEANS = ("GlobalAveragePool", "ReduceMean", "com.microsoft.QLinearReduceMean")
_GLOBAL_MEANS = (
    "com.microsoft.QLinearGlobalAveragePool",
    "com.microsoft.nchwc.GlobalAveragePool",
    "com.ms.internal.nhwc.GlobalAveragePool",
)
_EXTREMES = (
    "GlobalMaxPool",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "com.microsoft.nchwc.GlobalMaxPool",
    "com.ms.internal.nhwc.GlobalMaxPool",
)
_WINDOW_MEANS = (
    "AveragePool",
    "com.microsoft.QLinearAveragePool",
    "com.microsoft.nchwc.AveragePool",
    "com.ms.internal.nhwc.AveragePool",
)
_WINDOW_EXTREMES = (
    "MaxPool",
    "com.microsoft.NhwcMaxPool",
    "com.microsoft.nchwc.MaxPool",
    "com.ms.internal.nhwc.MaxPool",
)
_INTERPOLATIONS = ("GridSample", "Resize", "Upsample", "com.microsoft.nchwc.Upsample")
OTHER_OPERATIONS: dict[str, Callable[[NodeCount], Operations]] = {
    **dict.fromkeys(_FUNCTIONS, _per_output(1, 0)),
    **dict.fromkeys((*_MEANS, *_GLOBAL_MEANS), _mean),
    **dict.fromkeys(_EXTREMES, lambda node: (_joined(node), 0)),
    **dict.fromkeys(_WINDOW_MEANS, _window_mean),
    **dict.fromkeys(_WINDOW_EXTREMES, _window_max),
    **dict.fromkeys(_INTERPOLATIONS, _interpolated),
    "Add": _per_operand_added,
    "BatchNormalization": _per_output(1, 1),  # one factor and one summand, known at load
    "Celu": _per_output(3, 1),
    "Clip": _per_output(1, 0),
    "Col2Im": lambda node: (0, _joined(node)),
    "CumProd": _per_output(1, 0),
    "CumSum": _per_output(0, 1),
    "Div": _per_output(1, 0),
    "Elu": _per_output(2, 1),
    "Gelu": _per_output(3, 1),
    "GlobalLpPool": lambda node: (node.inputs + node.outputs, _joined(node)),
    "GroupNormalization": _per_output(3, 4),
    "HardSigmoid": _per_output(2, 1),
    "HardSwish": _per_output(3, 1),
    "Hardmax": _per_output(1, 0),
    "InstanceNormalization": _per_output(3, 4),
    "LRN": lambda node: (node.outputs * 4, node.outputs * node.window),
    "LayerNormalization": _normalized_with_biases,
    "LeakyRelu": _per_output(1, 0),
    "LogSoftmax": _per_output(1, 2),
    "LpNormalization": _per_output(2, 1),
    "LpPool": _window_norm,
    "Max": _per_operand_multiplied,
    "MaxRoiPool": _per_output(1, 0),
    "Mean": lambda node: (node.outputs, node.outputs * (node.operands - 1)),
    "MeanVarianceNormalization": _per_output(2, 3),
    "Min": _per_operand_multiplied,
    "Mish": _per_output(5, 2),
    "Mod": _per_output(1, 0),
    "Mul": _per_operand_multiplied,
    "Neg": _per_output(0, 1),
    "PRelu": _per_output(1, 0),
    "RMSNormalization": _per_output(3, 1),
    "ReduceL1": lambda node: (node.inputs, _joined(node)),
    "ReduceL2": lambda node: (node.inputs + node.outputs, _joined(node)),
    "ReduceLogSum": lambda node: (node.outputs, _joined(node)),
    "ReduceLogSumExp": lambda node: (node.inputs + node.outputs, _joined(node)),
    "ReduceSum": lambda node: (0, _joined(node)),
    "ReduceSumSquare": lambda node: (node.inputs, _joined(node)),
    "Relu": _per_output(1, 0),
    "RoiAlign": _window_norm,  # the weights, and the mean of the points
    "RotaryEmbedding": _per_output(2, 1),
    "Selu": _per_output(3, 1),
    "Shrink": _per_output(1, 1),
    "Sigmoid": _per_output(2, 1),
    "Softmax": _per_output(2, 1),
    "Softplus": _per_output(2, 1),
    "Softsign": _per_output(2, 1),
    "Sub": _per_output(0, 1),
    "Sum": _per_operand_added,
    "SwiGLU": _per_output(4, 1),
    "Swish": _per_output(3, 1),
    "Tanh": _per_output(2, 1),
    "ThresholdedRelu": _per_output(1, 0),
    "com.microsoft.BiasGelu": _per_output(3, 2),
    "com.microsoft.FastGelu": lambda node: (node.outputs * 3, node.outputs * node.operands),
    "com.microsoft.Gelu": _per_output(3, 1),
    "com.microsoft.QLinearAdd": _per_output(0, 1),
    "com.microsoft.QLinearLeakyRelu": _per_output(1, 0),
    "com.microsoft.QLinearMul": _per_output(1, 0),
    "com.microsoft.QLinearSigmoid": _per_output(2, 1),
    "com.microsoft.QLinearSoftmax": _per_output(2, 1),
    "com.microsoft.QuickGelu": _per_output(4, 1),
    "com.microsoft.SkipLayerNormalization": _normalized_with_biases,
}
# Copies, changes of type, choices, comparisons outside of activation and pooling, logic on bits,
# random numbers; the bodies of If, Loop and Scan are counted node by node.
_FREE_NAMES = """
    And ArgMax ArgMin Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor
    BlackmanWindow Cast CastLike Ceil CenterCropPad Compress Concat ConcatFromSequence Constant
    ConstantOfShape DepthToSpace DequantizeLinear Dropout DynamicQuantizeLinear Equal Expand EyeLike
    Flatten Floor Gather GatherElements GatherND Greater GreaterOrEqual HammingWindow HannWindow
    Identity If IsInf IsNaN Less LessOrEqual Loop MaxUnpool Multinomial NonMaxSuppression NonZero
    Not OneHot Optional OptionalGetElement OptionalHasElement Or Pad QuantizeLinear RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Range Reshape ReverseSequence Round Scan
    Scatter ScatterElements ScatterND SequenceAt SequenceConstruct SequenceEmpty SequenceErase
    SequenceInsert SequenceLength Shape Sign Size Slice SpaceToDepth Split SplitToSequence Squeeze
    TensorScatter Tile TopK Transpose Trilu Unique Unsqueeze Where Xor
    com.microsoft.QLinearConcat com.microsoft.nchwc.ReorderInput com.microsoft.nchwc.ReorderOutput
"""
FREE_OPERATIONS: frozenset[str] = frozenset(_FREE_NAMES.split())
