"""Standard operators that stand for onnxruntime's own when shapes are inferred.

onnx knows no shapes of onnxruntime's domains. In the skeleton that it sees, each such operator is
replaced by one that makes the same output shape from some of the same inputs; where the layout is
NHWC, between two Transposes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.bench.transposed_products import transposes

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
# Operators whose weight is packed or holds several: a stub of another shape stands for it.
_PACKED = ("Attention", "MatMulNBits", "QAttention")
# Input that has the type of the output, and the type where it is left out.
_OUTPUT_TYPES: dict[str, tuple[int, ir.DataType]] = {
    "DequantizeLinear": (1, ir.DataType.FLOAT),
    "MatMulInteger16": (2, ir.DataType.INT32),
    "MatMulIntegerToFloat": (2, ir.DataType.FLOAT),
    "QAttention": (3, ir.DataType.FLOAT),
    "QGemm": (8, ir.DataType.FLOAT),
    "QLinearConcat": (1, ir.DataType.UINT8),
    "QLinearConv": (7, ir.DataType.UINT8),
    "QuantizeLinear": (2, ir.DataType.UINT8),
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
    if node.domain not in _DOMAINS or transposes(node):
        return False
    channels_last = _is_channels_last(node)
    dtype = _output_type(node)
    if not _replaced(node, scope, opset):
        return False
    if channels_last and node.op_type != "Identity":
        _transpose(node, before=node.op_type != "Slice")
    if dtype is not None and node.op_type != "Cast":
        _put_before(node, "Cast", ir.AttrInt64("to", dtype))
    elif dtype is not None:
        node.attributes["to"] = ir.AttrInt64("to", dtype)
    return True


def _replaced(node: ir.Node, scope: ir.Graph, opset: int) -> bool:
    if node.domain == "com.microsoft" and node.op_type in _PACKED:
        shape = _weight_shape(node)
        if shape is None or not node.inputs:
            return False
        _become(node, "MatMul", [node.inputs[0], _stub(node, shape, scope)])
        return True
    found = (STAND_INS if node.domain == "com.microsoft" else _LAID_OUT).get(node.op_type)
    inputs = None if found is None else _taken(node, found[1])
    if found is None or inputs is None:
        return False
    if found[0] == "Einsum":
        node.attributes["equation"] = ir.AttrString("equation", "bsh,btv->bsv")
    elif found[0] == "Slice":
        stop = node.attributes.get("channels")
        if stop is None:
            return False
        inputs += [_constant(scope, node, i, [v]) for i, v in enumerate((0, stop.as_int(), 1))]
    elif found[0] == "ReduceMean" and opset >= _AXES_ARE_AN_INPUT:
        axes = node.attributes.pop("axes", None)
        inputs += [] if axes is None else [_constant(scope, node, 0, axes.as_ints())]
    _become(node, found[0], inputs)
    return True


def _is_channels_last(node: ir.Node) -> bool:
    last = node.attributes.get("channels_last")
    named = node.domain == NHWC or node.op_type.startswith("Nhwc")
    return named or (last is not None and last.as_int() != 0)


def _taken(node: ir.Node, which: tuple[int, ...] | slice) -> list[ir.Value | None] | None:
    """The inputs that the stand-in takes; None where the node has not all of them."""
    if isinstance(which, slice):
        return list(node.inputs[which]) or None
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
    _put_before(node, "Transpose", ir.AttrInt64s("perm", [0, 2, 3, 1]))


def _put_before(node: ir.Node, op_type: str, attribute: ir.Attr) -> None:
    """Do what a node does in one before it, which has one output, and make it another operator."""
    inner = ir.node(node.op_type, node.inputs, node.attributes, name=ADDED, num_outputs=1)
    inner.outputs[0].name = f"{node.outputs[0].name}.{op_type}"
    node.prepend(inner)
    node.attributes.clear()
    node.attributes[attribute.name] = attribute
    _become(node, op_type, [inner.outputs[0]])


def _weight_shape(node: ir.Node) -> list[int] | None:
    """[inputs, outputs] of the weight that the operator packs or splits; None if it does not say.

    An Attention's weight holds those of Q, K and V side by side; V's columns are the outputs.
    """
    if node.op_type == "MatMulNBits":
        sizes = [node.attributes.get(name) for name in ("K", "N")]
        return [size.as_int() for size in sizes if size is not None] if all(sizes) else None
    value = node.inputs[1] if len(node.inputs) > 1 else None
    tensor = None if value is None or node.inputs[0] is None else value.const_value
    if tensor is None or len(tensor.shape) != 2:
        return None
    rows, columns = tensor.shape.numpy()
    hidden = node.attributes.get("qkv_hidden_sizes")
    return [rows, hidden.as_ints()[-1] if hidden is not None else columns // 3]


def _stub(node: ir.Node, shape: list[int], scope: ir.Graph) -> ir.Value:
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


def _output_type(node: ir.Node) -> ir.DataType | None:
    """Type of the output where it is not that of the first operand; None where it is."""
    if node.op_type not in _OUTPUT_TYPES:
        return None
    index, default = _OUTPUT_TYPES[node.op_type]
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return default
    tensor = value.const_value
    return (tensor.dtype if tensor is not None else value.dtype) or default
