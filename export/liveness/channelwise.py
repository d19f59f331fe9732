"""Operators that compute each channel of their output from the same channel of their input.

What they make of a channel that is constant, c:

    activation f         f(c), as onnxruntime computes it
    BatchNormalization   a c + b; b where a = 0, for any input, which is not needed then
    depthwise Conv       B + c * sum of the taps; padded, B where c = 0; B where the filter is zero,
                         for any input, which is not needed then. m filters a channel: m channels
    pools, means         c; an AveragePool that counts its padding keeps zero alone
    sums over space      0 for c = 0
    Pad over space       c where the mode repeats the input, or fills with c

Padding with another number than c makes a channel that is not constant. Values are taken to be
finite: 0 times an infinite value would be none.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.export.liveness.rule import Rule, Writer, followed
from edgekit.export.liveness.state import NOT_NEEDED, Floats, Liveness, Mask
from edgekit.export.passes.base import NotExactError, is_op, opset
from edgekit.export.passes.batch_norm import affine
from edgekit.export.passes.fold_batch_norm import check_channels
from edgekit.export.passes.fold_batch_norm_into_next import is_padded
from edgekit.export.passes.remove_identities import is_idle_dropout
from edgekit.export.passes.values import FLOATS, read_bias, read_own_floats, stored

ACTIVATIONS = (
    "Abs",
    "Celu",
    "Clip",
    "Elu",
    "Erf",
    "Exp",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Mish",
    "Neg",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Tanh",
    "ThresholdedRelu",
)


class Channelwise(Rule):
    """A node whose output has the channels of its input, each for itself."""

    def __init__(self, live: Liveness, node: ir.Node) -> None:
        super().__init__(live, node)
        source = followed(live, node.inputs[0])
        constants = self.through(live, source.constants)
        live.follow(self.output, source.classes, constants)

    def through(self, live: Liveness, constants: Floats) -> Floats:
        """The constants of the output [channels], from those of the input."""
        del live
        return constants

    def backward(self, live: Liveness) -> None:
        """Need what is needed of the output."""
        live.need(self.node.inputs[0], live.channels[self.output].needs)


class Activation(Channelwise):
    """An activation; its settings are stored numbers."""

    def through(self, live: Liveness, constants: Floats) -> Floats:
        """Apply it to what is constant."""
        settings = [stored(value) for value in self.node.inputs[1:]]
        for value, tensor in zip(self.node.inputs[1:], settings, strict=True):
            if value is not None and (tensor is None or tensor.size != 1):
                raise NotExactError("its settings are not stored numbers")
        types = {live.dtype(self.node.inputs[0]), live.dtype(self.output)}
        if is_op(self.node, "Cast") and not types <= {*FLOATS}:
            raise NotExactError("it casts to another kind of number")
        known = ~np.isnan(constants)
        if not known.any():
            return constants
        dtype = live.dtype(self.node.inputs[0]) or ir.DataType.FLOAT
        result = np.full_like(constants, np.nan)
        result[known] = live.evaluate(self.node, constants[known], dtype, settings)
        return result


class Dropout(Channelwise):
    """A Dropout at inference."""

    def through(self, live: Liveness, constants: Floats) -> Floats:
        """Pass."""
        is_idle_dropout(live.model, self.node)
        return constants


class Scaled(Channelwise):
    """What multiplies each channel by stored numbers: where they are zero, it is not needed."""

    def __init__(self, live: Liveness, node: ir.Node) -> None:
        self.ignored: Mask = np.zeros(0, np.bool_)
        super().__init__(live, node)

    def backward(self, live: Liveness) -> None:
        """Need what is needed of the output, and not multiplied by zero."""
        needs = live.channels[self.output].needs
        live.need(self.node.inputs[0], np.where(self.ignored, NOT_NEEDED, needs))


class BatchNorm(Scaled):
    """A BatchNormalization with stored statistics."""

    def through(self, live: Liveness, constants: Floats) -> Floats:
        """Scale and shift."""
        factor, shift = affine(live.model, self.node)
        check_channels(len(constants), factor)
        self.ignored = factor == 0
        return np.where(self.ignored, shift, factor * constants + shift)

    def shrink(self, live: Liveness, writer: Writer) -> int:
        """Take channels out of its four parameters."""
        keep = live.kept(self.output)
        for index in range(1, 5):
            writer.take(self.node, index, keep, axis=0)
        return 0


class Depthwise(Rule):
    """A convolution with its own filters, one or more, for each channel."""

    def __init__(self, live: Liveness, node: ir.Node) -> None:
        super().__init__(live, node)
        source = followed(live, node.inputs[0])
        weight = read_own_floats(node.inputs[1], "weight")
        if len(weight) % len(source):
            raise NotExactError(f"it does not read {len(source)} channels")
        self.multiple = len(weight) // len(source)
        taps = weight.reshape(len(weight), -1)
        self.zero: Mask = (taps == 0).all(axis=1)
        bias = read_bias(node, 2, len(weight))
        numbers = np.repeat(source.constants, self.multiple)
        spread = numbers
        if is_padded(node, weight.shape[2:]):
            spread = np.where(numbers == 0, numbers, np.nan)
        constants = np.where(self.zero, bias, spread * taps.sum(axis=1) + bias)
        live.follow(self.output, np.repeat(source.classes, self.multiple), constants)

    def backward(self, live: Liveness) -> None:
        """Need the channels that a needed filter reads."""
        needs = np.where(self.zero, NOT_NEEDED, live.channels[self.output].needs)
        live.need(self.node.inputs[0], needs.reshape(-1, self.multiple).max(axis=1))

    def shrink(self, live: Liveness, writer: Writer) -> int:
        """Take filters out."""
        keep = live.kept(self.output)
        writer.take(self.node, 1, keep, axis=0)
        writer.take(self.node, 2, keep, axis=0)
        self.node.attributes.add(ir.AttrInt64("group", int(keep.sum()) // self.multiple))
        return 0


class MaxPool(Channelwise):
    """A MaxPool whose indices nobody reads."""

    def through(self, live: Liveness, constants: Floats) -> Floats:
        """A dilated window may lie in the padding with all its taps."""
        del live
        if any(output.uses() or output.is_graph_output() for output in self.node.outputs[1:]):
            raise NotExactError("its indices are read")
        dilated = any(size > 1 for size in self.node.attributes.get_ints("dilations", ()))
        return np.full_like(constants, np.nan) if dilated else constants


class AveragePool(Channelwise):
    """An AveragePool; see the module on padding."""

    def through(self, live: Liveness, constants: Floats) -> Floats:
        """Keep constants where the window sees nothing else."""
        del live
        node = self.node
        kernel = tuple(node.attributes.get_ints("kernel_shape", ()))
        reaches_out = is_padded(node, kernel) or node.attributes.get_int("ceil_mode", 0) != 0
        if reaches_out and node.attributes.get_int("count_include_pad", 0) != 0:
            return np.where(constants == 0, constants, np.nan)
        return constants


class Spatial(Channelwise):
    """What works on axes behind the channels: ReduceMean, Squeeze and their like."""

    def through(self, live: Liveness, constants: Floats) -> Floats:
        """Check the axes."""
        dims = live.dims(self.node.inputs[0])
        axes = tuple(self.node.attributes.get_ints("axes", ()))
        if len(self.node.inputs) > 1:
            tensor = stored(self.node.inputs[1])
            axes = () if tensor is None else tuple(tensor.numpy().reshape(-1).tolist())
        rank = 0 if dims is None else len(dims)
        if is_op(self.node, "Unsqueeze"):
            rank += len(axes) if rank else 0
        if not axes or any(axis < 2 and (axis >= 0 or axis + rank < 2) for axis in axes):
            raise NotExactError("its axes are not known to be behind the channels")
        if is_op(self.node, "ReduceSum", "ReduceL1", "ReduceL2"):
            return np.where(constants == 0, constants, np.nan)
        return constants


class Pad(Channelwise):
    """A Pad over space."""

    def through(self, live: Liveness, constants: Floats) -> Floats:
        """A constant channel stays constant where the padding is that constant too."""
        node, dims = self.node, live.dims(self.node.inputs[0])
        if opset(live.model) < 11 or dims is None:
            raise NotExactError("its input's rank is not known, or its pads are in the old form")
        settings = [stored(value) for value in node.inputs[1:]]
        for value, tensor in zip(node.inputs[1:], settings, strict=True):
            if value is not None and tensor is None:
                raise NotExactError("its pads are not stored")
        pads, fill, axes = (*settings, None, None)[:3]
        assert pads is not None
        rank = len(dims)
        ends = [bool(begin or end) for begin, end in pads.numpy().reshape(2, -1).T]
        chosen = range(rank) if axes is None else (int(axis) % rank for axis in axes.numpy())
        if any(moved and axis < 2 for moved, axis in zip(ends, chosen, strict=True)):
            raise NotExactError("it pads the batch or the channels")
        if node.attributes.get_string("mode", "constant") != "constant":
            return constants
        number = 0.0 if fill is None else float(fill.numpy().reshape(()))
        return np.where(constants == number, constants, np.nan)
