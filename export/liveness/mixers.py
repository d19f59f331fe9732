"""Operators that mix channels: Conv, ConvTranspose, Gemm and MatMul.

    y_o = B_o + sum over inputs i and taps t of W[o, i, t] x_i

1. Output o is constant where every input with a non-zero weight is: B_o + sum of W[o, i, t] x_i.
2. Input i is needed where an output that is needed, and is not constant, has a non-zero weight for
   it, and x_i is not a constant that can go into B.
3. A constant c goes into B_o as the sum of W[o, i, t] c over taps. That holds where every tap sees
   the channel: not beside padding, where it is 0 at the border, nor in a ConvTranspose. There c = 0
   alone goes; of other constants in a group, the largest carries all, at the border too:
   W[o, r, t] + sum of W[o, i, t] c_i / c_r, and the others are not needed.
4. The filter of an output that is not needed, or is constant, is cleared, for what it read is gone.
5. Every group keeps as many inputs, and as many outputs, as any other, and one at least.

A weight that others read too, or that is not stored in floating point, and a bias that is not
stored make the node one that is not followed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.liveness.operands import own_bias, own_weight
from edgekit.export.liveness.rule import Rule, Writer
from edgekit.export.liveness.state import NOT_NEEDED, READ, Floats, Ints, Liveness, Mask
from edgekit.export.passes.base import NotExactError, node_label
from edgekit.export.passes.fold_batch_norm_into_next import is_padded
from edgekit.export.passes.values import bias_stem, cast_like

Array = NDArray[Any]


class Mixer(Rule):
    """One such node; `groups`, `outs` and `ins` are its groups and channels in each."""

    def __init__(self, live: Liveness, node: ir.Node) -> None:
        super().__init__(live, node)
        self.weight = own_weight(node)
        self.is_matrix = node.op_type in ("Gemm", "MatMul")
        self._check_matrix(live)
        weights = self.by_group()
        self.groups, self.outs, self.ins, taps = weights.shape
        self.bias = own_bias(node, self.groups * self.outs)
        self.nonzero: Mask = (weights != 0).any(axis=3)
        self.sees_borders = node.op_type == "ConvTranspose" or (
            node.op_type == "Conv" and is_padded(node, self.shape[2:])
        )
        channels = live.of(node.inputs[0])
        if channels is not None and len(channels) != self.groups * self.ins:
            raise NotExactError(f"it does not read {len(channels)} channels")
        self.foldable = self._foldable(live)
        self.carried: Mask = np.zeros(self.groups * self.ins, np.bool_)
        self._merged: list[tuple[int, int, Array]] = []
        if channels is not None:
            live.add_work(channels.classes, self.outs * taps * self._positions(live))
        live.follow(self.output, live.new_classes(len(self.bias)), self._constants(live))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stored weight."""
        return tuple(self.weight.shape.numpy())

    def by_group(self) -> Array:
        """The weights as [groups, outputs, inputs, taps]."""
        array = self.weight.numpy()
        if self.is_matrix:
            by_output = array if self._is_transposed() else array.T
            return by_output[None, :, :, None]
        groups = self.node.attributes.get_int("group", 1)
        by_group = array.reshape(groups, -1, array.shape[1], int(np.prod(array.shape[2:])))
        return by_group.transpose(0, 2, 1, 3) if self.node.op_type == "ConvTranspose" else by_group

    def backward(self, live: Liveness) -> None:
        """See the module's cases 2 and 3."""
        live_rows = self._live_rows(live)
        read = self._read(live_rows)
        channels = live.of(self.node.inputs[0])
        if channels is None:
            return
        folded = self.foldable & read
        if folded.any() and not self._fits(live, live_rows):
            self.foldable = np.zeros_like(folded)
            folded = self.foldable
        blocked = read & ~folded & channels.known
        self.carried = self._merge(channels.constants, blocked)
        why = np.where(read & ~folded & ~self.carried, READ, NOT_NEEDED)
        if blocked.any():
            text = f"{node_label(self.node)} pads, and sees zeros at the border"
            why[blocked & ~self.carried] = live.reason(text)
        live.need(self.node.inputs[0], why)

    def revive(self, live: Liveness) -> bool:
        """See the module's case 5."""
        outputs = live.channels[self.output].classes
        if not live.stays(outputs).any():
            return False
        changed = _even(live, outputs.reshape(self.groups, -1))
        channels = live.of(self.node.inputs[0])
        if channels is not None:
            changed |= _even(live, channels.classes.reshape(self.groups, -1))
        return changed

    def shrink(self, live: Liveness, writer: Writer) -> int:
        """Clear what is not read, fold constants, and take out channels that are gone."""
        live_rows = self._live_rows(live)
        source = live.of(self.node.inputs[0])
        width = self.groups * self.ins
        keep_in = np.ones(width, np.bool_) if source is None else live.stays(source.classes)
        keep_out = live.kept(self.output)
        columns = self._folded(live_rows) | self.carried
        rows = ~live_rows & self.nonzero.any(axis=2)
        cleared = int((columns & keep_in).sum() + (rows.reshape(-1) & keep_out).sum())
        if not cleared and not columns.any() and keep_in.all() and keep_out.all():
            return 0
        bias = self._new_bias(live, live_rows)
        weights = self.by_group().copy()
        weights.transpose(0, 2, 1, 3)[columns.reshape(self.groups, -1)] = 0
        for group, carrier, column in self._merged:
            weights[group, :, carrier] = column
        weights[rows] = 0
        self._write_weights(writer, weights, keep_in, keep_out)
        self._write_bias(writer, bias, keep_out)
        return cleared

    def add_to_bias(self, writer: Writer, numbers: Floats) -> bool:
        """Add numbers [outputs] or [1] to the bias, if its type holds the result."""
        bias = self.bias + numbers
        try:
            cast_like(bias, self.node.inputs[1], "bias")
        except NotExactError:
            return False
        self.bias = bias  # a second Add in a row adds to it
        self._write_bias(writer, bias, np.ones(len(bias), np.bool_))
        return True

    def zero_filters(self) -> Mask:
        """The outputs whose weights are all zero [outputs]."""
        return ~self.nonzero.any(axis=2).reshape(-1)

    def unread(self) -> Mask:
        """The inputs whose weights are all zero [inputs]."""
        return ~self.nonzero.any(axis=1).reshape(-1)

    def _check_matrix(self, live: Liveness) -> None:
        if not self.is_matrix:
            return
        if self.node.attributes.get_int("transA", 0):
            raise NotExactError("it reads its input transposed")
        dims = live.dims(self.node.inputs[0])
        if self.node.op_type == "MatMul" and (dims is None or len(dims) != 2):
            raise NotExactError("its input is not known to be a matrix")
        if len(self.shape) != 2:
            raise NotExactError("its weight is no matrix")

    def _positions(self, live: Liveness) -> int:
        """How often a weight is used for one sample; 0 where that is not known."""
        is_backward = self.node.op_type == "ConvTranspose"
        return live.positions(self.node.inputs[0] if is_backward else self.output)

    def _is_transposed(self) -> bool:
        return self.node.attributes.get_int("transB", 0) != 0

    def _foldable(self, live: Liveness) -> Mask:
        channels = live.of(self.node.inputs[0])
        if channels is None:
            return np.zeros(self.groups * self.ins, np.bool_)
        if self.sees_borders:
            return np.equal(channels.constants, 0)
        return channels.known

    def _sums(self, live: Liveness, chosen: Mask) -> Floats:
        """What chosen constant inputs add to each output [groups, outputs]."""
        channels = live.of(self.node.inputs[0])
        if channels is None or not (chosen & (channels.constants != 0)).any():
            return np.zeros((self.groups, self.outs))
        numbers = np.where(chosen, channels.constants, 0.0).reshape(self.groups, -1)
        columns = numbers.any(axis=0)
        weights = self.by_group()[:, :, columns].astype(np.float64)
        alpha = self.node.attributes.get_float("alpha", 1.0)
        sums: Floats = alpha * np.einsum("goit,gi->go", weights, numbers[:, columns])
        return sums

    def _constants(self, live: Liveness) -> Floats:
        unknown = ~self.foldable.reshape(self.groups, 1, -1)
        constant = ~(self.nonzero & unknown).any(axis=2).reshape(-1)
        if not constant.any():
            return np.full(len(constant), np.nan)
        numbers = self.bias + self._sums(live, self.foldable).reshape(-1)
        return np.where(constant, numbers, np.nan)

    def _merge(self, constants: Floats, blocked: Mask) -> Mask:
        """See the module's case 3: let one constant of each group carry the others.

        Returns:
            The inputs that another carries [inputs].
        """
        carried = np.zeros((self.groups, self.ins), np.bool_)
        members, numbers = blocked.reshape(carried.shape), constants.reshape(carried.shape)
        for group in np.flatnonzero(members.sum(axis=1) > 1):
            places = np.flatnonzero(members[group])
            shares = numbers[group, places]
            largest = int(np.abs(shares).argmax())
            weights = self.by_group()[group][:, places].astype(np.float64)
            column = np.einsum("oit,i->ot", weights, shares / shares[largest])
            try:
                cast = cast_like(column, self.node.inputs[1], "weight")
            except NotExactError:
                continue
            carried[group, places] = True
            carried[group, places[largest]] = False
            self._merged.append((int(group), int(places[largest]), cast))
        return carried.reshape(-1)

    def _live_rows(self, live: Liveness) -> Mask:
        """The outputs that must be computed [groups, outputs]."""
        channels = live.channels[self.output]
        rows: Mask = (channels.needs != NOT_NEEDED) & ~channels.known
        return rows.reshape(self.groups, self.outs)

    def _folded(self, live_rows: Mask) -> Mask:
        """The inputs that go into the bias of an output that is computed [inputs]."""
        return self.foldable & self._read(live_rows)

    def _read(self, live_rows: Mask) -> Mask:
        """The inputs that outputs which are computed read [inputs]."""
        read: Mask = (self.nonzero & live_rows[:, :, None]).any(axis=1).reshape(-1)
        return read

    def _new_bias(self, live: Liveness, live_rows: Mask) -> Floats:
        channels = live.channels[self.output]
        folded = self.bias + self._sums(live, self._folded(live_rows)).reshape(-1)
        kept = np.where(live_rows.reshape(-1), folded, self.bias)
        return np.where(channels.known, channels.constants, kept)

    def _fits(self, live: Liveness, live_rows: Mask) -> bool:
        try:
            cast_like(self._new_bias(live, live_rows), self.node.inputs[1], "bias")
        except NotExactError:
            return False
        return True

    def _write_weights(self, writer: Writer, weights: Array, ins: Mask, outs: Mask) -> None:
        rows, columns = outs.reshape(self.groups, -1), ins.reshape(self.groups, -1)
        parts = [
            part[row][:, column] for part, row, column in zip(weights, rows, columns, strict=True)
        ]
        kept = np.stack(parts)
        if self.is_matrix:
            array = kept[0, :, :, 0] if self._is_transposed() else kept[0, :, :, 0].T
        elif self.node.op_type == "ConvTranspose":
            inner = kept.transpose(0, 2, 1, 3)
            array = inner.reshape(-1, kept.shape[1], *self.shape[2:])
        else:
            array = kept.reshape(-1, kept.shape[2], *self.shape[2:])
        writer.write(self.node, 1, np.ascontiguousarray(array), "weight")

    def _write_bias(self, writer: Writer, bias: Floats, keep: Mask) -> None:
        node = self.node
        has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
        if not bias.any() and not has_bias:
            return
        if node.op_type == "MatMul":
            node.op_type = "Gemm"
        array = cast_like(bias[keep], node.inputs[1], "bias")
        writer.write(node, 2, array, bias_stem(node))
        node.attributes.pop("beta", None)


def _even(live: Liveness, classes: Ints) -> bool:
    """Let as many channels stay in every group [groups, channels] as in the fullest, and one."""
    changed = False
    while True:
        stays = live.stays(classes)
        counts = stays.sum(axis=1)
        wanted = max(1, int(counts.max()))
        short = np.flatnonzero(counts < wanted)
        if not len(short):
            return changed
        changed = True
        group = short[0]
        gone = classes[group][~stays[group]]
        live.revive(gone[len(gone) - (wanted - counts[group]) :])
