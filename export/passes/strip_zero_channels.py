"""Remove channels that carry nothing: physically, from the operators that make and read them.

Along a chain producer -> steps -> consumer (see channel_chain.py), channel i is dead

1. where it is a constant c, as behind a filter of zeros with bias B: the activations between give
   c = f(B), and the consumer W adds the same W c everywhere, which goes into its bias:

       Conv    B' = B + sum over taps of W[:, i] c, exact without padding, or with c = 0
       Gemm    C' = beta C + alpha * sum over the channel's features of W c, beta' = 1

2. where no weight of the consumer reads it: W[:, i] = 0.

Its filter and bias leave the producer, its parameters leave the steps (normalizations, depthwise
convolutions), its weights leave the consumer. What remains is computed as before, so results
differ by the order of a sum at most. Runs until nothing is dead, as a consumer's lost inputs may
leave a filter before it unread. Refused are:

1. a chain with a value that other nodes read, subgraphs included, or that is a graph output, and
   one that ends in an operator that is neither Conv nor Gemm nor among the steps: Concat and Add
   join several chains, whose channels must go together;
2. a weight that another input reads too, that is a graph input or that is computed (quantized
   graphs, therefore, pass unchanged); likewise biases and statistics that are not stored;
3. a channel with c != 0 before a convolution that pads: at the border it sees zeros instead of c;
4. the last channel, and in grouped convolutions more channels than every group can spare: groups
   must stay equal;
5. channels of a graph input, which callers supply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.passes.base import GraphPass, NotExactError, is_op, node_label
from edgekit.export.passes.channel_chain import Chain, constants_after, is_depthwise, trace
from edgekit.export.passes.fold_batch_norm import gemm_bias, output_channels
from edgekit.export.passes.fold_batch_norm_into_next import is_padded
from edgekit.export.passes.shrink_channels import shrink_chain
from edgekit.export.passes.values import (
    FLOATS,
    bias_stem,
    cast_like,
    read_bias,
    read_own_floats,
    stored,
    write_constant,
)

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Reader:
    """A consumer's weights as [groups, inputs of a group, outputs of a group, taps]."""

    node: ir.Node
    weights: Floats

    @property
    def unused(self) -> Mask:
        """The input channels that no weight reads [channels]."""
        unread: Mask = (self.weights == 0).all(axis=(2, 3)).reshape(-1)
        return unread

    @property
    def pads(self) -> bool:
        """Whether it sees zeros around its input."""
        weight = stored(self.node.inputs[1])
        if self.node.op_type == "Gemm" or weight is None:
            return False
        return is_padded(self.node, weight.shape.numpy()[2:])

    def shift(self, constants: Floats) -> Floats:
        """What constant input channels, zero for the others, add to each output [outputs]."""
        groups = self.weights.shape[0]
        by_group = constants.reshape(groups, -1)
        total: Floats = np.einsum("giot,gi->go", self.weights, by_group).reshape(-1)
        return total


class StripZeroChannels(GraphPass):
    """Remove channels that are constant or unread; a change is one channel."""

    def __init__(self) -> None:
        super().__init__()
        self._reached: set[ir.Node] = set()

    def rewrite(self, model: ir.Model) -> None:
        """Strip until nothing is dead, then report what stays."""
        before = -1
        while self.changes != before:
            before = self.changes
            self.refusals.clear()
            self._reached.clear()
            super().rewrite(model)
        self._report_unread(model)

    def rewrite_node(self, model: ir.Model, node: ir.Node) -> int:
        """Strip the channels that this node makes."""
        weight = _stored_weight(node)
        if weight is None or is_depthwise(node):
            return 0
        constants = _constant_outputs(node, weight)
        zero_filters = int((~np.isnan(constants)).sum())
        try:
            chain = trace(node)
            constants = constants_after(model, chain, constants)
            reader = _read(chain.consumer, len(constants))
        except NotExactError as reason:
            if not zero_filters:
                return 0
            raise NotExactError(f"{zero_filters} zero filter(s) stay: {reason}") from reason
        self._reached.add(chain.consumer)
        return self._strip(model, chain, reader, constants)

    def _strip(self, model: ir.Model, chain: Chain, reader: _Reader, constants: Floats) -> int:
        known = ~np.isnan(constants)
        blocked = known & (constants != 0) & ~reader.unused if reader.pads else np.zeros_like(known)
        dead = (known | reader.unused) & ~blocked
        removed = _balance(dead, _groups(chain.producer), reader.weights.shape[0])
        if removed.any():
            folded = np.where(removed & known & ~reader.unused, constants, 0.0)
            _remove(model, chain, reader, removed, folded)
        if blocked.any():
            self.refuse(
                chain.producer,
                f"{blocked.sum()} constant channel(s) stay: {node_label(chain.consumer)} pads, and "
                "sees zeros at the border",
            )
        if (dead & ~removed).any():
            self.refuse(
                chain.producer,
                f"{(dead & ~removed).sum()} dead channel(s) stay: one must be left, and as many in "
                "one group as in another",
            )
        return int(removed.sum())

    def _report_unread(self, model: ir.Model) -> None:
        for node in model.graph.all_nodes():
            weight, source = _stored_weight(node), node.inputs[0] if node.inputs else None
            if weight is None or source is None or node in self._reached:
                continue
            channels = weight.shape[1] * _groups(node)
            if node.op_type == "Gemm":
                channels = weight.size // output_channels(node, weight)
            try:
                unread = int(_read(node, channels).unused.sum())
            except NotExactError:
                continue
            if unread:
                maker = source.producer()
                origin = "the graph's input" if maker is None else node_label(maker)
                self.refuse(
                    node,
                    f"{unread} input(s) that it does not read stay: no chain of single readers "
                    f"leads from a Conv or Gemm to it (its input comes from {origin})",
                )


def _stored_weight(node: ir.Node) -> Floats | None:
    tensor = stored(node.inputs[1]) if is_op(node, "Conv", "Gemm") else None
    if tensor is None or tensor.dtype not in FLOATS:
        return None
    return np.asarray(tensor.numpy(), np.float64)


def _groups(node: ir.Node) -> int:
    return node.attributes.get_int("group", 1)


def _constant_outputs(node: ir.Node, weight: Floats) -> Floats:
    """The constant output channels of a Conv or Gemm: its bias where the filter is zero."""
    channels = output_channels(node, weight)
    by_column = node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)
    by_output = weight.T if by_column else weight
    try:
        bias = gemm_bias(node, channels) if node.op_type == "Gemm" else read_bias(node, 2, channels)
    except NotExactError:
        return np.full(channels, np.nan)
    return np.where((by_output.reshape(channels, -1) == 0).all(axis=1), bias, np.nan)


def _read(node: ir.Node, channels: int) -> _Reader:
    weight = read_own_floats(node.inputs[1], "weight")
    if node.op_type == "Conv":
        groups = _groups(node)
        by_group = weight.reshape(groups, -1, weight.shape[1], int(np.prod(weight.shape[2:])))
        if groups * weight.shape[1] != channels:
            raise NotExactError(f"{node_label(node)} does not read {channels} channels")
        return _Reader(node, by_group.transpose(0, 2, 1, 3))
    if node.attributes.get_int("transA", 0):
        raise NotExactError(f"{node_label(node)} (Gemm) reads it transposed")
    by_input = weight.T if node.attributes.get_int("transB", 0) else weight
    if by_input.shape[0] % channels:
        raise NotExactError(f"{node_label(node)} does not read {channels} channels")
    by_channel = by_input.reshape(1, channels, -1, by_input.shape[1])
    return _Reader(node, by_channel.transpose(0, 1, 3, 2))


def _balance(dead: Mask, *group_counts: int) -> Mask:
    """The dead channels that may go, so that equally many stay in every group, and one at least."""
    removable = dead
    while True:
        before = removable
        for groups in group_counts:
            by_group = removable.reshape(groups, -1)
            quota = min(int(by_group.sum(axis=1).min()), by_group.shape[1] - 1)
            removable = (by_group & (by_group.cumsum(axis=1) <= quota)).reshape(-1)
        if np.array_equal(before, removable):
            return removable


def _remove(
    model: ir.Model, chain: Chain, reader: _Reader, removed: Mask, constants: Floats
) -> None:
    """Take channels out of a chain, and put what they added into the consumer's bias.

    Raises:
        NotExactError: a weight may not be changed. Nothing has been.
    """
    read_own_floats(chain.producer.inputs[1], "weight")
    read_bias(chain.producer, 2, len(removed))
    bias = _new_bias(reader, constants) if constants.any() else None
    shrink_chain(model, chain, ~removed)
    if bias is not None:
        write_constant(model, chain.consumer, 2, bias, bias_stem(chain.consumer))
        if chain.consumer.op_type == "Gemm":
            chain.consumer.attributes.pop("beta", None)


def _new_bias(reader: _Reader, constants: Floats) -> NDArray[Any]:
    node, shift = reader.node, reader.shift(constants)
    if node.op_type == "Gemm":
        bias = gemm_bias(node, len(shift)) + node.attributes.get_float("alpha", 1.0) * shift
    else:
        bias = read_bias(node, 2, len(shift)) + shift
    return cast_like(bias, node.inputs[1], "bias")
