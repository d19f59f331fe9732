"""Static quantization: QuantizeLinear/DequantizeLinear pairs from calibrated ranges.

Built on onnxruntime.quantization, in the form that its CPU kernels, OpenVINO and others fuse into
integer operators: weights int8, one scale per output channel, symmetric; activations unsigned with
a zero point, one scale per tensor; biases int32 with scale input scale * weight scale. A Relu or
Clip whose bounds are those of the range of its output is dropped: the quantizer clips there.

Sixteen-bit activations need opset 21, where the standard QuantizeLinear has them; earlier only
onnxruntime's own operators do, which edgekit does not write. The stock CPU runtime computes them in
float32 between the pairs: `int16` is as exact as it is small, and no faster than float.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgekit.export.calibrators import Ranges
from edgekit.export.graph import from_proto, to_proto
from edgekit.export.opset import MIN_OPSET, convert_opset
from edgekit.export.quiet import quiet
from edgekit.export.weight_grid import weight_grids
from edgekit.runtime.errors import ModelFileError

ActivationType = Literal["QUInt8", "QInt8", "QUInt16", "QInt16"]
WeightType = Literal["QInt8", "QUInt8"]

# Operators that hold weights: a model without any has nothing to quantize.
WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

# BatchNormalization, LayerNormalization, Softmax and the like are left out on purpose: they have no
# integer kernel, so quantizing their constants would cost accuracy and save nothing.
QDQ_OPS = (
    *WEIGHTED_OPS,
    "Add",
    "Mul",
    "Relu",
    "Clip",
    "LeakyRelu",
    "Sigmoid",
    "Concat",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Pad",
    "Resize",
    "Split",
    "Slice",
    "Gather",
)

# Standard QuantizeLinear takes per-channel scales from 13 on, 16-bit integers from 21 on.
_MIN_OPSETS: dict[ActivationType, int] = {
    "QUInt8": MIN_OPSET,
    "QInt8": MIN_OPSET,
    "QUInt16": 21,
    "QInt16": 21,
}

_WIDE: dict[ActivationType, ActivationType] = {"QUInt8": "QUInt16", "QInt8": "QInt16"}

# A quantized result of these at a graph output would only be rounded and made float again.
_FLOAT_AT_OUTPUT = ("Conv", "Gemm", "MatMul", "Add")


def raise_opset(model: ir.Model, activations: ActivationType) -> ir.Model:
    """The model at an opset that has the quantizers for `activations`.

    Raises:
        ModelFileError: it cannot be converted to that opset.
    """
    return convert_opset(model, max(model.opset_imports[""], _MIN_OPSETS[activations]))


def to_qdq(
    model: ir.Model,
    ranges: Ranges,
    activations: ActivationType,
    exclude: Collection[str],
    *,
    weights: WeightType = "QInt8",
    reduce_range: bool = False,
    wider: Collection[str] = (),
    signed: Collection[str] = (),
    operators: Sequence[str] = QDQ_OPS,
    every_max_pool: bool = False,
) -> ir.Model:
    """Quantize the nodes of some operators but for those in `exclude`.

    Args:
        model: A float32 model from `raise_opset`, its nodes named; it is not changed.
        ranges: Lowest and highest value of every tensor that those nodes read or write.
        activations: Type of the codes of activations.
        exclude: Names of nodes that stay float.
        weights: Type of the codes of weights.
        reduce_range: Whether weights keep to 7 bits.
        wider: Names of nodes that read and write codes of 16 bits, whatever `activations` is.
        signed: Names of tensors that get signed codes of 8 bits around zero, unless a node of
            `wider` reads or writes them.
        operators: Types of the nodes to quantize, of `QDQ_OPS`.
        every_max_pool: Whether a MaxPool is quantized where nothing else would quantize its input.

    Returns:
        The quantized model; the graph's inputs and outputs stay float32.

    Raises:
        ModelFileError: onnxruntime's quantizer fails on the graph.
    """
    from onnxruntime.quantization import (
        CalibrationMethod,
        QDQQuantizer,
        QuantType,
        TensorData,
        TensorsData,
    )

    bounds = TensorsData(
        CalibrationMethod.MinMax,
        {
            name: TensorData(lowest=np.float32(low), highest=np.float32(high))
            for name, (low, high) in ranges.items()
        },
    )
    overrides = {
        **{name: [{"quant_type": QuantType.QInt8, "symmetric": True}] for name in signed},
        **_wide_tensors(model, wider, exclude, activations),
        **_grid_scales(model, weights, reduce_range),
    }
    with quiet():
        quantizer = QDQQuantizer(
            to_proto(model),
            True,  # one scale per channel
            reduce_range,
            QuantType[weights],
            QuantType[activations],
            bounds,
            [],
            list(exclude),
            list(operators),
            {
                "TensorQuantOverrides": overrides,
                "ForceQuantizeNoInputCheck": every_max_pool,
            },
        )
        try:
            quantizer.quantize_model()
        except Exception as error:  # whatever onnxruntime's quantizer meets in a graph
            raise ModelFileError(
                f"onnxruntime cannot quantize the model ({' '.join(str(error).split())}): leave "
                "the node out with --exclude"
            ) from error
    result = from_proto(quantizer.model.model)
    _leave_outputs_float(model, result)
    ir.passes.Sequential(common.RemoveUnusedNodesPass(), common.TopologicalSortPass())(result)
    return result


def _wide_tensors(
    model: ir.Model, wider: Collection[str], exclude: Collection[str], activations: ActivationType
) -> dict[str, list[dict[str, Any]]]:
    """16 bits for what the nodes of `wider` read and write; other readers get `activations`."""
    from onnxruntime.quantization import QuantType

    overrides: dict[str, list[dict[str, Any]]] = {}
    if activations not in _WIDE:
        return overrides
    for node in (node for node in model.graph if node.name in wider):
        for value in (*node.inputs, *node.outputs):
            if value is None or value.is_initializer() or value.dtype != ir.DataType.FLOAT:
                continue
            narrow = {
                str(reader.name)
                for reader in value.consumers()
                if reader.name not in wider and reader.name not in exclude
            }
            wide: dict[str, Any] = {"quant_type": QuantType[_WIDE[activations]]}
            if narrow:
                wide["convert"] = {"quant_type": QuantType[activations], "recv_nodes": narrow}
            overrides[str(value.name)] = [wide]
    return overrides


def _grid_scales(
    model: ir.Model, weights: WeightType, reduce_range: bool
) -> dict[str, list[dict[str, Any]]]:
    """The scales of weights that lie on a grid already, see weight_grid.py."""
    from onnxruntime.quantization import QuantType

    zero = 0 if weights == "QInt8" else 128
    type_ = {"quant_type": QuantType[weights], "zero_point": zero}
    return {
        name: [{"axis": grid.axis, "scale": np.float32(scale), **type_} for scale in grid.scales]
        for name, grid in weight_grids(model, 63 if reduce_range else 127).items()
    }


def _leave_outputs_float(model: ir.Model, result: ir.Model) -> None:
    for index, (before, after) in enumerate(
        zip(model.graph.outputs, result.graph.outputs, strict=True)
    ):
        computed = _behind_pair(after)
        origin, producer = before.producer(), computed.producer() if computed else None
        if computed is None or origin is None or producer is None or computed.is_graph_output():
            continue
        if producer.op_type == origin.op_type and origin.op_type in _FLOAT_AT_OUTPUT:
            name = after.name
            after.name = f"{name}_dequantized"
            computed.name, computed.type, computed.shape = name, after.type, after.shape
            result.graph.outputs[index] = computed


def _behind_pair(value: ir.Value) -> ir.Value | None:
    """What a DequantizeLinear of a QuantizeLinear makes `value` from."""
    dequantize = value.producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    quantized = dequantize.inputs[0]
    quantize = quantized.producer() if quantized is not None else None
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return None
    return quantize.inputs[0]
