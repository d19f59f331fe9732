"""Standard operators that stand for onnxruntime's own when shapes are inferred.

onnx knows no shapes of onnxruntime's domains. In the skeleton that it sees, each such operator is
replaced by one that makes the same output shape from some of the same inputs; where the layout is
NHWC, between two Transposes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

# Name of the nodes that are in the skeleton alone.
ADDED = "edgekit.stand-in"

NCHWC = "com.microsoft.nchwc"
NHWC = "com.ms.internal.nhwc"
_DOMAINS = ("com.microsoft", NCHWC, NHWC)
_AXES_ARE_AN_INPUT = 18  # from this opset on, of a ReduceMean
# (operator that has the same output shape, inputs of ours that it takes)
STAND_INS: dict[str, tuple[str, tuple[int, ...] | slice]] = {
    "BiasGelu": ("Identity", (0,)),
    "DequantizeLinear": ("Cast", (0,)),
    "DynamicQuantizeLSTM": ("LSTM", (0, 1, 2)),
    "DynamicQuantizeMatMul": ("MatMul", (0, 1)),
    "FastGelu": ("Identity", (0,)),
    "FusedConv": ("Conv", (0, 1)),
    "FusedGemm": ("Gemm", (0, 1)),
    "FusedMatMul": ("MatMul", (0, 1)),
    "FusedMatMulActivation": ("MatMul", (0, 1)),
    "Gelu": ("Identity", (0,)),
    "GemmFastGelu": ("MatMul", (0, 1)),
    "MatMulInteger16": ("MatMul", (0, 1)),
    "MatMulIntegerToFloat": ("MatMul", (0, 1)),
    "MultiHeadAttention": ("Einsum", (0, 2)),
    "NhwcConv": ("Conv", (0, 1)),
    "NhwcFusedConv": ("Conv", (0, 1)),
    "NhwcMaxPool": ("MaxPool", (0,)),
    "QGemm": ("Gemm", (0, 3)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearConcat": ("Concat", slice(2, None, 3)),
    "QLinearConv": ("Conv", (0, 3)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QLinearLeakyRelu": ("Identity", (0,)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearReduceMean": ("ReduceMean", (0,)),
    "QLinearSigmoid": ("Identity", (0,)),
    "QLinearSoftmax": ("Identity", (0,)),
    "QuantizeLinear": ("Cast", (0,)),
    "QuickGelu": ("Identity", (0,)),
    "SkipLayerNormalization": ("Identity", (0,)),
    "TransposeMatMul": ("MatMul", (0, 1)),
}
_LAID_OUT: dict[str, tuple[str, tuple[int, ...] | slice]] = {
    "AveragePool": ("AveragePool", (0,)),
    "Conv": ("Conv", (0, 1)),
    "ConvTranspose": ("ConvTranspose", (0, 1)),
    "GlobalAveragePool": ("GlobalAveragePool", (0,)),
    "GlobalMaxPool": ("GlobalMaxPool", (0,)),
    "MaxPool": ("MaxPool", (0,)),
    "QLinearConv": ("Conv", (0, 3)),
    "ReorderInput": ("Identity", (0,)),  # the channels that it adds are the next weight's matter
    "ReorderOutput": ("Slice", (0,)),
}


def stand_in(node: ir.Node, scope: ir.Graph, opset: int) -> bool:
    """Turn a node of onnxruntime's domains into a standard one of the same output shape.

    Args:
        node: A node of the skeleton.
        scope: The graph that it is in; what it needs besides is added there.
        opset: Version of ONNX's own operator set that the skeleton imports.

    Returns:
        Whether there is one; if not the node is unchanged.
    """
    if node.domain not in _DOMAINS:
        return False
    laid_out = node.domain in (NCHWC, NHWC)
    channels_last = node.domain == NHWC or node.op_type.startswith("Nhwc")
    last = node.attributes.get("channels_last")
    channels_last |= last is not None and last.as_int() != 0
    if node.domain == "com.microsoft" and node.op_type in ("MatMulNBits", "Attention"):
        _become(node, "MatMul", [node.inputs[0], _weight(node, scope)])
        return True
    found = (_LAID_OUT if laid_out else STAND_INS).get(node.op_type)
    if found is None:
        return False
    inputs = _taken(node, found[1])
    if inputs is None:
        return False
    if found[0] == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", _cast_type(node))
    elif found[0] == "Einsum":
        node.attributes["equation"] = ir.AttrString("equation", "bsh,btv->bsv")
    elif found[0] == "Slice":
        stop = node.attributes["channels"].as_int()
        inputs += [_constant(scope, node, i, [v]) for i, v in enumerate((0, stop, 1))]
    elif found[0] == "ReduceMean" and opset >= _AXES_ARE_AN_INPUT:
        axes = node.attributes.pop("axes", None)
        inputs += [] if axes is None else [_constant(scope, node, 0, axes.as_ints())]
    _become(node, found[0], inputs)
    if channels_last and found[0] != "Identity":
        _transpose(node, before=found[0] != "Slice")
    return True


def _taken(node: ir.Node, which: tuple[int, ...] | slice) -> list[ir.Value | None] | None:
    """The inputs that the stand-in takes; None where the node has not all of them."""
    if isinstance(which, slice):
        return list(node.inputs[which])
    return [node.inputs[i] for i in which] if max(which) < len(node.inputs) else None


def _become(node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None]) -> None:
    node.op_type, node.domain = op_type, ""
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)
    for output in node.outputs:
        output.shape = None


def _transpose(node: ir.Node, *, before: bool) -> None:
    """Put a four-axis NHWC operator between the Transposes that make it an NCHW one."""
    if before:
        first = ir.node("Transpose", [node.inputs[0]], {"perm": [0, 3, 1, 2]}, name=ADDED)
        first.outputs[0].name = f"{node.outputs[0].name}.nchw"
        node.prepend(first)
        node.replace_input_with(0, first.outputs[0])
    inner = ir.node(node.op_type, node.inputs, node.attributes, name=ADDED, num_outputs=1)
    inner.outputs[0].name = f"{node.outputs[0].name}.nhwc"
    node.prepend(inner)
    node.attributes.clear()
    node.attributes["perm"] = ir.AttrInt64s("perm", [0, 2, 3, 1])
    _become(node, "Transpose", [inner.outputs[0]])


def _weight(node: ir.Node, scope: ir.Graph) -> ir.Value:
    """A stub [inputs, outputs] of the weight that the operator packs or splits."""
    if node.op_type == "MatMulNBits":
        shape = [node.attributes["K"].as_int(), node.attributes["N"].as_int()]
    else:
        tensor = node.inputs[1].const_value if node.inputs[1] is not None else None
        rows, columns = tensor.shape.numpy() if tensor is not None else (0, 0)
        sizes = node.attributes.get("qkv_hidden_sizes")
        shape = [rows, sizes.as_ints()[2] if sizes is not None else columns // 3]
    stub = ir.ExternalTensor(
        "absent", 0, 0, ir.DataType.FLOAT, shape=ir.Shape(shape), name="weight"
    )
    return _initializer(scope, f"{node.outputs[0].name}.weight", stub)


def _constant(scope: ir.Graph, node: ir.Node, index: int, values: Sequence[int]) -> ir.Value:
    tensor = ir.tensor(np.array(values, np.int64))
    return _initializer(scope, f"{node.outputs[0].name}.{index}", tensor)


def _initializer(scope: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    value = ir.Value(
        name=name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    scope.register_initializer(value)
    return value


def _cast_type(node: ir.Node) -> ir.DataType:
    """Type of what a QuantizeLinear (its zero point's) or DequantizeLinear (its scale's) makes."""
    index, default = (1, ir.DataType.FLOAT)
    if node.op_type == "QuantizeLinear":
        index, default = (2, ir.DataType.UINT8)
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return default
    tensor = value.const_value
    return (tensor.dtype if tensor is not None else value.dtype) or default
