"""Round an image's channels up to what onnxruntime computes directly, with a map of zeros; exact.

A quantized convolution is computed without copying windows out first where its input channels are a
multiple of 4 (kernel_shapes.py), and images have 1 or 3. Their codes are padded to 4 channels, and
what is added meets weights of zero.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgekit.export.passes.base import is_op
from edgekit.export.threshold_codes import Grid
from edgekit.export.wider_channels import DIRECT_OUTPUTS

DIRECT_INPUTS = 4


def pad_channels(model: ir.Model) -> int:
    """Rewrite a QDQ model in place; returns how many convolutions read padded codes."""
    done = 0
    for node in list(model.graph):
        if not is_op(node, "Conv") or node.attributes.get_int("group", 1) != 1:
            continue
        image, weight = _dequantizer(node.inputs[0]), _dequantizer(node.inputs[1])
        if image is None or weight is None or not _would_be_direct(weight):
            continue
        grid = Grid.of(image)
        if grid is None or _codes(image).is_initializer():
            continue
        _pad_image(model, node, image, grid.dtype)
        _pad_weight(weight)
        done += 1
    return done


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and is_op(node, "DequantizeLinear") else None


def _codes(dequantize: ir.Node) -> ir.Value:
    value = dequantize.inputs[0]
    assert value is not None
    return value


def _would_be_direct(weight: ir.Node) -> bool:
    """Whether 4 channels are all that a convolution of these weights lacks."""
    codes = _codes(weight)
    if codes.const_value is None or codes.is_graph_input() or len(codes.consumers()) > 1:
        return False
    if len(weight.outputs[0].consumers()) > 1:
        return False
    filters, channels, *window = codes.const_value.shape.numpy()
    return filters >= DIRECT_OUTPUTS and channels < DIRECT_INPUTS and math.prod(window) > 1


def _pad_image(model: ir.Model, conv: ir.Node, image: ir.Node, dtype: ir.DataType) -> None:
    """Let a convolution read the codes of an image with channels of codes of 0 behind its own."""
    codes, weight = _codes(image), _dequantizer(conv.inputs[1])
    assert weight is not None
    shape = _codes(weight).shape
    assert shape is not None
    amounts = np.zeros(2 * len(shape), np.int64)
    amounts[len(shape) + 1] = DIRECT_INPUTS - shape.numpy()[1]
    name = f"{conv.name}_channels"
    stored = ir.Value(name=f"{name}_pads", const_value=ir.tensor(amounts, name=f"{name}_pads"))
    model.graph.register_initializer(stored)
    pad = ir.node("Pad", [codes, stored], name=name)
    read = ir.node("DequantizeLinear", [pad.outputs[0], *image.inputs[1:]], name=f"{name}_read")
    pad.outputs[0].name, read.outputs[0].name = f"{name}_codes", f"{name}_values"
    pad.outputs[0].dtype, read.outputs[0].dtype = dtype, ir.DataType.FLOAT
    if codes.shape is not None:
        padded = ir.Shape([codes.shape[0], DIRECT_INPUTS, *codes.shape[2:]])
        pad.outputs[0].shape = read.outputs[0].shape = padded
    model.graph.insert_before(conv, [pad, read])
    conv.replace_input_with(0, read.outputs[0])
    if not image.outputs[0].consumers() and not image.outputs[0].is_graph_output():
        model.graph.remove(image, safe=True)


def _pad_weight(weight: ir.Node) -> None:
    """Put zeros behind a convolution's weights, for the channels that were added."""
    old = _codes(weight)
    assert old.const_value is not None
    values = old.const_value.numpy()
    zero = weight.inputs[2] if len(weight.inputs) > 2 else None
    level = 0 if zero is None or zero.const_value is None else zero.const_value.numpy()
    zeros = np.asarray(level, values.dtype).reshape(-1, *[1] * (values.ndim - 1))
    missing = (len(values), DIRECT_INPUTS - values.shape[1], *values.shape[2:])
    wide = np.concatenate([values, np.broadcast_to(zeros, missing)], 1)
    tensor = ir.tensor(wide, name=str(old.name))
    old.const_value, old.shape = tensor, ir.Shape(wide.shape)
    if weight.outputs[0].shape is not None:
        weight.outputs[0].shape = old.shape
