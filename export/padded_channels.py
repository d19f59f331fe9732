"""Round an image's channels up to what onnxruntime computes directly, with maps of zeros; exact.

On x86 a quantized convolution is computed without copying windows out first where its input
channels are a multiple of 4 (kernel_shapes.py), and images have 1 or 3. Their codes are padded to 4
channels, and what is added meets weights of zero. What else that kernel asks for: one group,
weights of int8 around zero, and outputs in fours, in eights without AVX-512 (onnxruntime,
core/mlas/lib/convsym.cpp).
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgekit.export.passes.base import is_op
from edgekit.export.threshold_codes import Grid
from edgekit.export.wider_channels import DIRECT_OUTPUTS

DIRECT_INPUTS = 4


def pad_channels(model: ir.Model, *, outputs: int = 4) -> int:
    """Rewrite a QDQ model in place.

    Args:
        model: The model.
        outputs: What a convolution's outputs must be a multiple of.

    Returns:
        How many convolutions read padded codes.
    """
    padded: dict[ir.Node, ir.Value] = {}
    done = 0
    for node in list(model.graph):
        if not is_op(node, "Conv") or node.attributes.get_int("group", 1) != 1:
            continue
        image, weight = _dequantizer(node.inputs[0]), _dequantizer(node.inputs[1])
        if image is None or weight is None or not _would_be_direct(weight, outputs):
            continue
        if Grid.of(image) is None or _codes(image).is_initializer():
            continue
        if image not in padded:
            padded[image] = _pad_codes(model, node, image, weight)
        node.replace_input_with(0, padded[image])
        _pad_weight(weight)
        done += 1
    for image in padded:
        if not image.outputs[0].consumers() and not image.outputs[0].is_graph_output():
            model.graph.remove(image, safe=True)
    return done


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and is_op(node, "DequantizeLinear") else None


def _codes(dequantize: ir.Node) -> ir.Value:
    value = dequantize.inputs[0]
    assert value is not None
    return value


def _would_be_direct(weight: ir.Node, outputs: int) -> bool:
    """Whether 4 channels are all that a convolution of these weights lacks."""
    codes = _codes(weight)
    if codes.const_value is None or codes.is_graph_input() or len(codes.consumers()) > 1:
        return False
    if len(weight.outputs[0].consumers()) > 1 or not _is_symmetric(weight):
        return False
    filters, channels, *window = codes.const_value.shape.numpy()
    fits = filters >= DIRECT_OUTPUTS and filters % outputs == 0
    return fits and channels < DIRECT_INPUTS and math.prod(window) > 1


def _is_symmetric(weight: ir.Node) -> bool:
    codes, zero = _codes(weight), weight.inputs[2] if len(weight.inputs) > 2 else None
    if codes.const_value is None or codes.const_value.dtype != ir.DataType.INT8:
        return False
    return zero is None or (zero.const_value is not None and not zero.const_value.numpy().any())


def _pad_codes(model: ir.Model, conv: ir.Node, image: ir.Node, weight: ir.Node) -> ir.Value:
    """What `image` dequantizes, with channels of codes of 0 behind its own, dequantized."""
    codes, stored_weight = _codes(image), _codes(weight).const_value
    assert stored_weight is not None
    axes, channels = len(stored_weight.shape), stored_weight.shape.numpy()[1]
    amounts = np.zeros(2 * axes, np.int64)
    amounts[axes + 1] = DIRECT_INPUTS - channels
    name = f"{conv.name}_channels"
    stored = ir.Value(name=f"{name}_pads", const_value=ir.tensor(amounts, name=f"{name}_pads"))
    model.graph.register_initializer(stored)
    pad = ir.node("Pad", [codes, stored], name=name)
    read = ir.node("DequantizeLinear", [pad.outputs[0], *image.inputs[1:]], name=f"{name}_read")
    pad.outputs[0].name, read.outputs[0].name = f"{name}_codes", f"{name}_values"
    grid = Grid.of(image)
    assert grid is not None
    pad.outputs[0].dtype, read.outputs[0].dtype = grid.dtype, ir.DataType.FLOAT
    if codes.shape is not None:
        padded = ir.Shape([codes.shape[0], DIRECT_INPUTS, *codes.shape[2:]])
        pad.outputs[0].shape = read.outputs[0].shape = padded
    model.graph.insert_before(conv, [pad, read])
    return read.outputs[0]


def _pad_weight(weight: ir.Node) -> None:
    """Put zeros behind a convolution's weights, for the channels that were added."""
    old = _codes(weight)
    assert old.const_value is not None
    values = old.const_value.numpy()
    added = [(0, 0)] * values.ndim
    added[1] = (0, DIRECT_INPUTS - values.shape[1])
    wide = np.pad(values, added)
    old.const_value, old.shape = ir.tensor(wide, name=str(old.name)), ir.Shape(wide.shape)
    if weight.outputs[0].shape is not None:
        weight.outputs[0].shape = old.shape
