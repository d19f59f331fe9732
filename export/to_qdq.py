"""Static quantization: QuantizeLinear/DequantizeLinear pairs from calibrated ranges.

Built on onnxruntime.quantization, in the form that its CPU kernels, OpenVINO and others fuse into
integer operators: weights int8, one scale per output channel, symmetric; activations unsigned with
a zero point, one scale per tensor; biases int32 with scale input scale * weight scale. A Relu or
Clip whose bounds are those of the range of its output is dropped: the quantizer clips there (see
keep_clips in shared_scales.py for the others).

Sixteen-bit activations need opset 21, where the standard QuantizeLinear has them; earlier only
onnxruntime's own operators do, which edgekit does not write. The stock CPU runtime computes them in
float32 between the pairs: `int16` is as exact as it is small, and no faster than float.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgekit.export.calibrators import Ranges
from edgekit.export.graph import from_proto, to_proto
from edgekit.export.opset import MIN_OPSET, convert_opset
from edgekit.export.passes.base import is_op
from edgekit.export.passes.values import stored
from edgekit.export.quantizer_names import Aliases
from edgekit.export.quiet import quiet_quantizer
from edgekit.export.shared_scales import stored_limits
from edgekit.export.weight_grid import weight_grids

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

    aliases = Aliases.find(model)
    model = aliases.put(model)
    bounds = TensorsData(
        CalibrationMethod.MinMax,
        {
            # Of zeros alone onnxruntime would make a scale of 1, and round biases behind it to it.
            aliases.alias(name): TensorData(
                lowest=np.float32(low), highest=np.float32(high if low < high else 1)
            )
            for name, (low, high) in ranges.items()
        },
    )
    signed = [aliases.alias(name) for name in signed]
    overrides = {
        **{name: [{"quant_type": QuantType.QInt8, "symmetric": True}] for name in signed},
        **_wide_tensors(model, wider, exclude, activations),
        **_grid_scales(model, weights, reduce_range),
        **_whole_scales(model, weights),
    }
    with quiet_quantizer():
        quantizer = QDQQuantizer(
            to_proto(model),
            True,  # one scale per channel
            reduce_range,
            QuantType[weights],
            QuantType[activations],
            bounds,
            [],
            [*exclude, *_kept_activations(model)],
            list(operators),
            {
                "TensorQuantOverrides": overrides,
                "ForceQuantizeNoInputCheck": every_max_pool,
            },
        )
        quantizer.quantize_model()
    result = from_proto(quantizer.model.model)
    _leave_outputs_float(model, result)
    ir.passes.Sequential(common.RemoveUnusedNodesPass(), common.TopologicalSortPass())(result)
    aliases.take_back(result)
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


def _whole_scales(model: ir.Model, weights: WeightType) -> dict[str, list[dict[str, Any]]]:
    """One scale for weights that have no axis of output channels of their own.

    Those of a grouped ConvTranspose serve many channels each; those of a MatMul of several
    matrices, or of a row, have it elsewhere than onnxruntime looks.
    """
    from onnxruntime.quantization import QuantType

    weights_of = (node.inputs[1] for node in model.graph if _has_odd_weight(node))
    type_ = {"quant_type": QuantType[weights], "symmetric": True}
    return {str(value.name): [dict(type_)] for value in weights_of if value is not None}


def _has_odd_weight(node: ir.Node) -> bool:
    if is_op(node, "ConvTranspose"):
        return node.attributes.get_int("group", 1) > 1
    weight = stored(node.inputs[1]) if is_op(node, "MatMul") else None
    return weight is not None and len(weight.shape) != 2


def _kept_activations(model: ir.Model) -> Iterator[str]:
    """Names of the Relu and Clip that onnxruntime's quantizer would drop, and no range stands for.

    Their limits are computed, or what they read is a graph output, or the body of an If or a Loop,
    where it does not look, reads what they read or give.
    """
    for node in model.graph:
        if not is_op(node, "Relu", "Clip"):
            continue
        source = node.inputs[0]
        around = (value for value in (source, node.outputs[0]) if value is not None)
        within = any(one.graph is not node.graph for value in around for one in value.consumers())
        shown = source is not None and source.is_graph_output()
        if within or shown or stored_limits(node) is None:
            yield str(node.name)


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
