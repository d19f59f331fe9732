"""Let a model take pixels: uint8 [N, height, width, channels], as a camera gives them.

With x = (p / 255 - mean) / std for each channel, the first convolution W x + b is

    W' (p - z) + b',   W' = W / (255 std),   b' = b + sum of W' (z - 255 mean)

for any whole number z, so that after quantization pixels are the codes themselves, of scale 1 and
zero point z. Padding must stand for x = 0, a pixel of 255 mean. Where that rounds to one number for
all channels, it is z, which is what a quantized convolution pads with. Otherwise the pixels are
padded first, with 0, raised to each channel's own number at the border by a Max, and z is 0. The
border map is made of constants by operators that engines compute once, at load. Either way the
border is off by what rounding a mean to a pixel costs, like any pixel.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.calibration import single_input
from edgekit.export.calibrators import Ranges
from edgekit.export.graph import from_proto, set_metadata, store_constants, to_proto
from edgekit.export.opset import MIN_OPSET, convert_opset
from edgekit.export.passes.base import is_op, opset
from edgekit.export.passes.fold_pad import FoldPad
from edgekit.export.passes.values import store, stored
from edgekit.export.threshold_codes import Grid, runs_thresholds_on_codes
from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.preprocessing import PREFIX, Preprocessing

_LEVELS = 255.0


def take_pixels(model: ir.Model, preprocessing: Preprocessing) -> ir.Model:
    """A float32 model that reads uint8 [N, height, width, channels] and normalizes it itself.

    Args:
        model: A model of one float32 input [N, channels, height, width]; it is not changed.
        preprocessing: How its input is normalized now.

    Returns:
        The model, whose metadata says that pixels are to be given as they are.

    Raises:
        ModelFileError: its input goes elsewhere than into one convolution, or is of another kind,
            or a mean that it pads with is no pixel.
    """
    work = from_proto(to_proto(model))
    store_constants(work)
    work = convert_opset(work, max(opset(work), MIN_OPSET))
    FoldPad()(work)
    entry = single_input(work)
    conv = _first_convolution(entry, preprocessing)
    mean = _LEVELS * np.asarray(preprocessing.mean, np.float64)
    codes = np.rint(mean).clip(0, _LEVELS).astype(np.uint8)
    pads = conv.attributes.get_ints("pads", (0, 0, 0, 0))
    if any(pads) and np.abs(codes - mean).max() > 1:
        raise ModelFileError(
            "--uint8-input pads with each channel's mean, which must be a pixel, within 0 and 1: "
            f"{list(preprocessing.mean)} is not; leave it out for this model"
        )
    padded = any(pads) and len(set(codes.tolist())) > 1
    zero = 0 if padded else int(codes[0])
    _fold(work, conv, preprocessing, mean, zero)
    build = _Builder(work, conv)
    value = build.add("Transpose", [entry], "pixels", {"perm": [0, 3, 1, 2]})
    if padded:
        value = _pad(build, value, codes, preprocessing.input_shape, tuple(pads))
        conv.attributes["pads"] = ir.AttrInt64s("pads", [0, 0, 0, 0])
    value = build.add("Cast", [value], "pixels_float", {"to": int(ir.DataType.FLOAT)})
    conv.replace_input_with(0, value)
    level = build.constant("pixels_zero", np.float32(zero))
    conv.replace_input_with(0, build.add("Sub", [value, level], "pixels_centred"))
    batch = entry.shape[0] if entry.shape is not None else "N"
    entry.shape = ir.Shape([batch, *preprocessing.image_shape])
    entry.type = ir.TensorType(ir.DataType.UINT8)
    channels = preprocessing.channels
    as_they_are = replace(
        preprocessing, mean=(0.0,) * channels, std=(1 / _LEVELS,) * channels, layout="NHWC"
    )
    set_metadata(work, as_they_are.to_metadata())
    folded = {"mean": list(preprocessing.mean), "std": list(preprocessing.std)}
    set_metadata(work, {f"{PREFIX}folded_normalization": json.dumps(folded)})
    return work


def pixel_ranges(model: ir.Model) -> Ranges:
    """The range of what a model of pixels computes from them first: that of all there are."""
    return {
        str(node.outputs[0].name): (-zero, _LEVELS - zero)
        for node in model.graph
        if (zero := _centre(node)) is not None
    }


def give_codes(model: ir.Model) -> None:
    """Let the first operator of a QDQ model read pixels as its codes, in place."""
    for node in list(model.graph):
        zero = _centre(node)
        if zero is None:
            continue
        cast = node.inputs[0].producer() if node.inputs[0] is not None else None
        grid = Grid(1.0, int(zero), ir.DataType.UINT8)
        quantizers = node.outputs[0].consumers()
        if cast is None or any(
            reader.op_type != "QuantizeLinear" or Grid.of(reader) != grid for reader in quantizers
        ):
            continue
        pixels = cast.inputs[0]
        assert pixels is not None
        for quantizer in quantizers:
            ir.convenience.replace_all_uses_with(quantizer.outputs[0], pixels)
        model.graph.remove([*quantizers, node, cast], safe=True)


def _centre(node: ir.Node) -> float | None:
    """What a node takes from pixels; None where it is another node."""
    if not is_op(node, "Sub") or node.inputs[0] is None or node.inputs[1] is None:
        return None
    cast, level = node.inputs[0].producer(), node.inputs[1].const_value
    if cast is None or not is_op(cast, "Cast") or level is None or level.size != 1:
        return None
    source = cast.inputs[0]
    if source is None or source.dtype != ir.DataType.UINT8:
        return None
    return float(level.numpy().item())


def _first_convolution(entry: ir.Value, preprocessing: Preprocessing) -> ir.Node:
    readers = entry.consumers()
    conv = readers[0] if len(readers) == 1 else None
    if (
        conv is None
        or not is_op(conv, "Conv")
        or any(value is not None and stored(value) is None for value in conv.inputs[1:])
        or conv.attributes.get_int("group", 1) != 1
        or conv.attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
        or entry.dtype != ir.DataType.FLOAT
        or entry.is_graph_output()
        or preprocessing.layout != "NCHW"
        or not runs_thresholds_on_codes()
    ):
        raise ModelFileError(
            "--uint8-input needs a float32 input [N, C, H, W] that one Conv of one group with "
            "stored weights and bias reads, and onnxruntime 1.31 or later: leave it out for this "
            "model"
        )
    return conv


def _fold(
    model: ir.Model,
    conv: ir.Node,
    preprocessing: Preprocessing,
    mean: NDArray[np.float64],
    zero: int,
) -> None:
    constants = [tensor.numpy() for value in conv.inputs[1:] if (tensor := stored(value))]
    std = _LEVELS * np.asarray(preprocessing.std, np.float64)
    weight = constants[0].astype(np.float64) / std[:, None, None]
    bias = constants[1].astype(np.float64) if len(constants) > 1 else np.zeros(len(weight))
    bias = bias + (weight * (zero - mean)[:, None, None]).sum((1, 2, 3))
    for index, values in ((1, weight), (2, bias)):
        stem = f"{conv.name or 'first'}_pixel_{'weight' if index == 1 else 'bias'}"
        value = store(model, values.astype(np.float32), stem)
        conv.resize_inputs(max(len(conv.inputs), index + 1))
        conv.replace_input_with(index, value)


class _Builder:
    """Adds nodes before one."""

    def __init__(self, model: ir.Model, before: ir.Node) -> None:
        self._model, self._graph, self._before = model, model.graph, before

    def constant(self, stem: str, values: NDArray[np.generic] | np.generic) -> ir.Value:
        return store(self._model, values, stem)

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        name: str,
        attributes: dict[str, int | list[int]] | None = None,
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes or {}, name=name)
        node.outputs[0].name = f"{name}_out"
        self._graph.insert_before(self._before, node)
        return node.outputs[0]


def _pad(
    build: _Builder,
    pixels: ir.Value,
    codes: NDArray[np.uint8],
    shape: tuple[int, int, int],
    pads: tuple[int, ...],
) -> ir.Value:
    """The pixels within a border of each channel's own code."""
    channels, height, width = shape
    top, left, bottom, right = pads
    whole = np.asarray([channels, height + top + bottom, width + left + right], np.int64)
    inside = build.add(
        "Expand",
        [
            build.constant("pixels_none", np.zeros((1, 1, 1), np.uint8)),
            build.constant("pixels_inside_shape", np.asarray([1, height, width], np.int64)),
        ],
        "pixels_inside",
    )
    frame = np.asarray([0, top, left, 0, bottom, right], np.int64)
    mask = build.add(
        "Pad",
        [
            inside,
            build.constant("pixels_frame", frame),
            build.constant("pixels_full", np.uint8(_LEVELS)),
        ],
        "pixels_mask",
    )
    means = build.constant("pixels_mean", codes.reshape(-1, 1, 1))
    level = build.add(
        "Expand", [means, build.constant("pixels_map_shape", whole)], "pixels_mean_map"
    )
    border = build.add("Min", [level, mask], "pixels_border")
    outer = np.asarray([0, 0, top, left, 0, 0, bottom, right], np.int64)
    padded = build.add("Pad", [pixels, build.constant("pixels_pads", outer)], "pixels_padded")
    return build.add("Max", [padded, border], "pixels_framed")
