"""Give images the channels that onnxruntime convolves directly; exact.

On x86 a quantized convolution is computed without copying windows out first where its input
channels are a multiple of 4 (kernel_shapes.py), and images have 1 or 3. So

- before a convolution of stride 2, each 2x2 pixels become one of four times the channels
  (SpaceToDepth), and its window one of half the side over these: with padding p, pixel
  2 i + t - p is part (t + f) mod 2 of block i + (t + f) div 2 - (p + f) / 2, f being 1 for odd p;
- before any other, and before small windows on small images, maps of zeros are added up to 4
  channels.

What is added to the weights is zero. What else that kernel asks for: one group, weights of int8
around zero, and outputs in fours, in eights without AVX-512 (onnxruntime,
core/mlas/lib/convsym.cpp).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

from edgekit.export.passes.base import is_op
from edgekit.export.passes.values import store
from edgekit.export.threshold_codes import Grid
from edgekit.export.wider_channels import DIRECT_OUTPUTS

DIRECT_INPUTS = 4

# Pixels of an image from which folding is faster than padding for windows up to 3x3.
_LARGE = 96 * 96


@dataclass(frozen=True)
class _Axis:
    """How one axis of a convolution of stride 2 folds.

    Attributes:
        front: Zeros before the weights.
        taps: Length of the window over blocks.
        pads: Blocks of padding before and after.
    """

    front: int
    taps: int
    pads: tuple[int, int]

    @classmethod
    def of(cls, side: int, taps: int, before: int, after: int) -> _Axis | None:
        """The axis of `side` pixels; None where it does not fold."""
        outputs = (side + before + after - taps) // 2 + 1
        front = before % 2
        folded, begin = (taps + front + 1) // 2, (before + front) // 2
        end = outputs - side // 2 + folded - 1 - begin
        return None if side % 2 or end < 0 else cls(front, folded, (begin, end))


@dataclass(frozen=True)
class _Stem:
    """A convolution that lacks channels, between what dequantizes its input and its weights."""

    conv: ir.Node
    image: ir.Node
    weight: ir.Node

    @classmethod
    def of(cls, conv: ir.Node, outputs: int) -> _Stem | None:
        """What there is around a node; None where it gains nothing."""
        if not is_op(conv, "Conv") or conv.attributes.get_int("group", 1) != 1:
            return None
        image, weight = _dequantizer(conv.inputs[0]), _dequantizer(conv.inputs[1])
        if image is None or weight is None or not _would_be_direct(weight, outputs):
            return None
        if Grid.of(image) is None or _codes(image).is_initializer():
            return None
        return cls(conv, image, weight)

    @property
    def values(self) -> NDArray[np.int8]:
        """Codes of the weights [filters, channels, ...]."""
        stored = _codes(self.weight).const_value
        assert stored is not None
        values: NDArray[np.int8] = stored.numpy()
        return values

    def folding(self) -> tuple[_Axis, _Axis] | None:
        """How it folds; None where it does not, or should not."""
        sides, window = _sides(self.image), self.values.shape[2:]
        attributes = self.conv.attributes
        if sides is None or tuple(attributes.get_ints("strides", ())) != (2, 2):
            return None
        if any(step != 1 for step in attributes.get_ints("dilations", ())):
            return None
        if attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
            return None
        if max(window) <= 3 and math.prod(sides) < _LARGE:
            return None
        pads = attributes.get_ints("pads", (0, 0, 0, 0))
        rows, columns = (_Axis.of(sides[i], window[i], pads[i], pads[i + 2]) for i in range(2))
        return None if rows is None or columns is None else (rows, columns)


def fit_image_channels(model: ir.Model, *, outputs: int = 4) -> int:
    """Rewrite a QDQ model in place.

    Args:
        model: The model.
        outputs: What a convolution's outputs must be a multiple of.

    Returns:
        How many convolutions read other channels than they did.
    """
    made: dict[tuple[ir.Node, bool], ir.Value] = {}
    done = 0
    for node in list(model.graph):
        stem = _Stem.of(node, outputs)
        if stem is None:
            continue
        axes = stem.folding()
        key = stem.image, axes is not None
        if key not in made:
            made[key] = _pad(model, stem) if axes is None else _fold(model, stem)
        node.replace_input_with(0, made[key])
        _store(stem, _padded(stem.values) if axes is None else _folded(stem.values, *axes))
        if axes is not None:
            _set_window(node, *axes)
        done += 1
    common.RemoveUnusedNodesPass()(model)
    return done


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and is_op(node, "DequantizeLinear") else None


def _codes(dequantize: ir.Node) -> ir.Value:
    value = dequantize.inputs[0]
    assert value is not None
    return value


def _would_be_direct(weight: ir.Node, outputs: int) -> bool:
    """Whether channels are all that a convolution of these weights lacks."""
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


def _sides(image: ir.Node) -> tuple[int, int] | None:
    """Height and width of what is dequantized, where they are known."""
    codes = _codes(image)
    quantize = codes.producer()
    sources = [image.outputs[0], codes]
    if quantize is not None and is_op(quantize, "QuantizeLinear"):
        sources += [value for value in quantize.inputs[:1] if value is not None]
    for value in sources:
        if value.shape is not None and len(value.shape) == 4:
            height, width = value.shape[2:]
            if isinstance(height, int) and isinstance(width, int):
                return height, width
    return None


def _pad(model: ir.Model, stem: _Stem) -> ir.Value:
    """The image with channels of codes of 0 behind its own."""
    _, channels, *window = stem.values.shape
    amounts = np.zeros(2 * (2 + len(window)), np.int64)
    amounts[len(amounts) // 2 + 1] = DIRECT_INPUTS - channels
    stored = store(model, amounts, f"{stem.conv.name}_channels_pads")
    return _insert(model, stem, ir.node("Pad", [_codes(stem.image), stored]))


def _fold(model: ir.Model, stem: _Stem) -> ir.Value:
    """The image with each 2x2 pixels as one."""
    return _insert(model, stem, ir.node("SpaceToDepth", [_codes(stem.image)], {"blocksize": 2}))


def _insert(model: ir.Model, stem: _Stem, node: ir.Node) -> ir.Value:
    """Let a node work on the codes of the image; returns what it makes, dequantized."""
    grid = Grid.of(stem.image)
    assert grid is not None
    node.name = f"{stem.conv.name}_channels"
    codes = node.outputs[0]
    read = ir.node("DequantizeLinear", [codes, *stem.image.inputs[1:]], name=f"{node.name}_read")
    codes.name, read.outputs[0].name = f"{node.name}_codes", f"{node.name}_values"
    codes.dtype, read.outputs[0].dtype = grid.dtype, ir.DataType.FLOAT
    model.graph.insert_before(stem.conv, [node, read])
    return read.outputs[0]


def _padded(values: NDArray[np.int8]) -> NDArray[np.int8]:
    added = [(0, 0)] * values.ndim
    added[1] = (0, DIRECT_INPUTS - values.shape[1])
    return np.pad(values, added)


def _folded(values: NDArray[np.int8], rows: _Axis, columns: _Axis) -> NDArray[np.int8]:
    """Weights over blocks of 2x2, their channels ordered as SpaceToDepth orders them."""
    filters, channels, *window = values.shape
    added = [
        (axis.front, 2 * axis.taps - axis.front - taps)
        for axis, taps in zip((rows, columns), window, strict=True)
    ]
    whole = np.pad(values, [(0, 0), (0, 0), *added])
    parts = whole.reshape(filters, channels, rows.taps, 2, columns.taps, 2)
    return parts.transpose(0, 3, 5, 1, 2, 4).reshape(filters, 4 * channels, rows.taps, columns.taps)


def _store(stem: _Stem, values: NDArray[np.int8]) -> None:
    old = _codes(stem.weight)
    values = np.ascontiguousarray(values)
    old.const_value, old.shape = ir.tensor(values, name=str(old.name)), ir.Shape(values.shape)
    if stem.weight.outputs[0].shape is not None:
        stem.weight.outputs[0].shape = old.shape


def _set_window(conv: ir.Node, rows: _Axis, columns: _Axis) -> None:
    attributes = {
        "strides": [1, 1],
        "kernel_shape": [rows.taps, columns.taps],
        "pads": [rows.pads[0], columns.pads[0], rows.pads[1], columns.pads[1]],
    }
    for name, values in attributes.items():
        conv.attributes[name] = ir.AttrInt64s(name, values)
