"""Operators that combine values channel by channel: Add, Mul, Max and their like.

Channels of all operands and of the result stay or go together: of a sum, a channel goes where no
addend must stay. The result is constant where all operands are, and where a factor of a Mul is
zero, whose other factor is not needed then. Operands may be stored, with a number for each channel
or one for all, and may have one channel for all (which stays) or one position for all.

An operand that is constant in all its channels is replaced by stored numbers [1, C, 1, 1], which
makes what computed it unread; where they change nothing (add 0, multiply by 1) the node goes, and
stored numbers that are added to what a Conv or Gemm makes for this node alone go into its bias.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgekit.export.liveness.mixers import Mixer
from edgekit.export.liveness.rule import Rule, Writer
from edgekit.export.liveness.state import NOT_NEEDED, Channels, Floats, Liveness, Mask
from edgekit.export.passes.base import NotExactError, is_op, node_label
from edgekit.export.passes.values import FLOATS, bypass, stored

_COMPUTE: dict[str, Callable[[Floats, Floats], Floats]] = {
    "Add": np.add,
    "Div": np.divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "Mul": np.multiply,
    "PRelu": lambda x, slope: np.where(x < 0, x * slope, x + 0 * slope),
    "Sub": np.subtract,
    "Sum": np.add,
}
OPERATORS = tuple(_COMPUTE)
# The stored operand that changes nothing, by operator and place.
_NEUTRAL = {
    ("Add", 0): 0,
    ("Add", 1): 0,
    ("Sub", 1): 0,
    ("Mul", 0): 1,
    ("Mul", 1): 1,
    ("Div", 1): 1,
}


class Elementwise(Rule):
    """One such node of any number of operands."""

    def __init__(self, live: Liveness, node: ir.Node) -> None:
        super().__init__(live, node)
        dims = live.dims(self.output)
        if dims is None or len(dims) < 2 or not isinstance(dims[1], int):
            raise NotExactError("the shape of its result is not known")
        self.width, self.rank = dims[1], len(dims)
        numbers = [self._operand(live, value) for value in node.inputs]
        wide = [each for each in map(live.of, node.inputs) if each and len(each) == self.width]
        if not wide:
            raise NotExactError("none of its operands has the channels of its result")
        for other in wide[1:]:
            live.join(wide[0].classes, other.classes)
        live.follow(self.output, wide[0].classes, self._compute(live, numbers))

    def backward(self, live: Liveness) -> None:
        """Need of each operand what is needed of the result, unless zero multiplies it."""
        needs = live.channels[self.output].needs
        for index, value in enumerate(self.node.inputs):
            channels = live.of(value)
            if channels is None:
                continue
            why = np.where(self._erased(live, index), NOT_NEEDED, needs)
            live.need(value, why if len(channels) == self.width else int(why.max(initial=0)))

    def revive(self, live: Liveness) -> bool:
        """Keep an operand that has one channel for all."""
        if not live.kept(self.output).any():
            return False
        changed = False
        for value in self.node.inputs:
            channels = live.of(value)
            if channels is not None and not live.stays(channels.classes).any():
                live.revive(channels.classes)
                changed = True
        return changed

    def shrink(self, live: Liveness, writer: Writer) -> int:
        """Take channels out of stored operands."""
        keep = live.kept(self.output)
        for index, value in enumerate(self.node.inputs):
            tensor = stored(value)
            axis = None if tensor is None else self._axis(tuple(tensor.shape.numpy()))
            if axis is not None:
                writer.take(self.node, index, keep, axis=axis)
        return 0

    def replace_constants(self, live: Liveness, writer: Writer) -> int:
        """Replace an operand that is constant by stored numbers.

        What a PRelu activates is not replaced: its slope may be no larger, which numbers for each
        channel would make it.

        Returns:
            The number of its channels; 0 where there is none.
        """
        for index, value in enumerate(self.node.inputs):
            if is_op(self.node, "PRelu") and index == 0:
                continue
            channels = live.of(value)
            if channels is not None and channels.known.all() and self._is_spare(live, index):
                self._store(live, writer, index, channels)
                return len(channels)
        return 0

    def fold_into_bias(self, live: Liveness, rules: dict[ir.Value, Rule], writer: Writer) -> int:
        """Add stored numbers to the bias of the Conv or Gemm before, which nothing else reads.

        Returns:
            The number of channels; 0 where this cannot be done.
        """
        node = self.node
        if not is_op(node, "Add") or len(node.inputs) != 2 or self.output.is_graph_output():
            return 0
        for index in (0, 1):
            source, tensor = node.inputs[index], stored(node.inputs[1 - index])
            if source is None or tensor is None or not self._is_per_channel(tensor):
                continue
            rule = rules.get(source)
            if not isinstance(rule, Mixer) or len(source.uses()) != 1 or source.is_graph_output():
                continue
            if len(live.channels[source]) != self.width:
                continue
            if rule.add_to_bias(writer, self._numbers(tensor)):
                live.channels[source] = live.channels[self.output]  # later rules read it here
                bypass(node, source)
                return self.width
        return 0

    def _operand(self, live: Liveness, value: ir.Value | None) -> Floats:
        """Check one operand; its constants [channels], or [1] for all."""
        tensor = stored(value)
        if tensor is not None:
            if tensor.dtype not in FLOATS or len(tensor.shape) > self.rank:
                raise NotExactError("a stored operand has another rank or type than its result")
            return self._numbers(tensor)
        channels, dims = live.of(value), live.dims(value)
        if channels is None or dims is None or len(dims) != self.rank:
            raise NotExactError("an operand is not followed, or has another rank than its result")
        if len(channels) not in (1, self.width):
            raise NotExactError("an operand has another number of channels than its result")
        return channels.constants

    def _numbers(self, tensor: ir.TensorProtocol) -> Floats:
        """A stored operand as numbers [channels] or [1], NaN where positions differ."""
        array = tensor.numpy().astype(np.float64)
        array = array.reshape((1,) * (self.rank - array.ndim) + array.shape)
        rows = np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)
        return np.where((rows == rows[:, :1]).all(axis=1), rows[:, 0], np.nan)

    def _compute(self, live: Liveness, operands: list[Floats]) -> Floats:
        with np.errstate(all="ignore"):
            result = np.broadcast_to(operands[0], (self.width,))
            for operand in operands[1:]:
                result = _COMPUTE[self.node.op_type](result, operand)
        erased = np.zeros(self.width, np.bool_)
        for index in range(len(operands)):
            erased |= self._erased(live, index)
        return np.where(erased, 0.0, result)

    def _erased(self, live: Liveness, index: int) -> Mask:
        """The channels of an operand that the other one, which is zero, multiplies [channels].

        Of two that are zero the first must stay zero, and so stays needed.
        """
        if not is_op(self.node, "Mul"):
            return np.zeros(self.width, np.bool_)
        own, other = (
            np.broadcast_to(np.equal(self._constants(live, value), 0), (self.width,))
            for value in (self.node.inputs[index], self.node.inputs[1 - index])
        )
        return other & ~own if index == 0 else other

    def _constants(self, live: Liveness, value: ir.Value | None) -> Floats:
        """The constants of an operand [channels], or [1] for all."""
        tensor, channels = stored(value), live.of(value)
        if channels is not None:
            return channels.constants
        assert tensor is not None
        return self._numbers(tensor)

    def _axis(self, shape: tuple[int, ...]) -> int | None:
        """The axis of the channels in a stored operand; None where it has one number for all."""
        axis = 1 - (self.rank - len(shape))
        return axis if axis >= 0 and shape[axis] == self.width and self.width > 1 else None

    def _is_per_channel(self, tensor: ir.TensorProtocol) -> bool:
        shape = tensor.shape.numpy()
        axis = 1 - (self.rank - len(shape))
        return all(size == 1 for place, size in enumerate(shape) if place != axis)

    def _is_spare(self, live: Liveness, index: int) -> bool:
        """Whether another operand alone gives the result its shape."""
        own = live.dims(self.node.inputs[index])
        for place, other in enumerate(self.node.inputs):
            dims = live.dims(other)
            if place == index or own is None or dims is None or live.of(other) is None:
                continue
            if all(a == 1 or (a is not None and a == b) for a, b in zip(own, dims, strict=True)):
                return True
        return False

    def _store(self, live: Liveness, writer: Writer, index: int, channels: Channels) -> None:
        node = self.node
        other = node.inputs[1 - index] if len(node.inputs) == 2 else None
        neutral = _NEUTRAL.get((node.op_type, index))
        if neutral is not None and other is not None and not self.output.is_graph_output():
            dims = live.dims(other)
            same = dims is not None and None not in dims and dims == live.dims(self.output)
            if same and (channels.constants == neutral).all():
                bypass(node, other)
                return
        dtype = live.dtype(node.inputs[index]) or ir.DataType.FLOAT
        shape = (1, len(channels), *(1,) * (self.rank - 2))
        array = channels.constants.astype(dtype.numpy()).reshape(shape)
        writer.write(node, index, array, f"{node_label(node)}_constant")
