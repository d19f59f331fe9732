"""Let a convolution or a pool pad its input itself, in place of a Pad before it.

Exporters write a Pad of its own where the padding is uneven ("same" at stride 2) or where padding
was a layer. Its sizes go to the `pads` of the node behind it, which pads

1. a Conv with zeros;
2. a MaxPool with the lowest number: a Pad of that or of minus infinity goes, and one of zeros where
   what it pads is not negative, as each window holds a number of the map;
3. an AveragePool with zeros, with count_include_pad.

Refused are:

1. a Pad that is read elsewhere too, whose sizes are computed or negative, or that pads the batch or
   the channels;
2. other values, and modes that repeat the map;
3. a node with auto_pad, and a pool with ceil_mode, dilations, or a padding as wide as its kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekit.export.passes.base import GraphPass, NotExactError, is_op, node_label, opset
from edgekit.export.passes.values import bypass, only_reader, stored

_FOLDING_OPS = ("Conv", "MaxPool", "AveragePool")
_NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs")


@dataclass(frozen=True)
class _Padding:
    """What a Pad adds: in front of and behind each axis [rank], and of which value."""

    before: tuple[int, ...]
    behind: tuple[int, ...]
    value: float


class FoldPad(GraphPass):
    """Pad becomes the pads of the Conv, MaxPool or AveragePool that alone reads it."""

    def rewrite_node(self, model: ir.Model, node: ir.Node) -> int:
        """Fold this node if it is a Pad."""
        source = node.inputs[0] if is_op(node, "Pad") else None
        uses = node.outputs[0].uses()
        if source is None or not any(is_op(user, *_FOLDING_OPS) for user, _ in uses):
            return 0
        reader = only_reader(node.outputs[0])
        padding = _padding(node)
        _check_axes(padding)
        if not is_op(reader, "Conv"):
            _check_windows(reader, padding)
        _check_value(reader, source, padding.value)
        own = _own_pads(reader, len(padding.before) - 2)
        if is_op(reader, "AveragePool"):
            _check_counts(model, reader, own)
            reader.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
        added = (*padding.before[2:], *padding.behind[2:])
        pads = [one + other for one, other in zip(own, added, strict=True)]
        reader.attributes["pads"] = ir.AttrInt64s("pads", pads)
        reader.attributes.pop("auto_pad", None)
        bypass(node, source)
        return 1


def _padding(node: ir.Node) -> _Padding:
    if node.attributes.get_string("mode", "constant") != "constant":
        raise NotExactError("it repeats the map")
    source = node.inputs[0]
    rank = None if source is None or source.shape is None else len(source.shape)
    if "pads" in node.attributes:  # before opset 11
        sizes, value = list(node.attributes.get_ints("pads")), node.attributes.get_float("value", 0)
        return _Padding(*_halves(sizes), value)
    _, given, constant, chosen = (*node.inputs, None, None, None)[:4]
    tensor = stored(given)
    if tensor is None:
        raise NotExactError("its sizes are not stored")
    sizes = [int(size) for size in tensor.numpy()]
    if chosen is not None:
        sizes = _on_all_axes(sizes, chosen, rank)
    return _Padding(*_halves(sizes), _value(constant))


def _halves(sizes: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rank = len(sizes) // 2
    return tuple(sizes[:rank]), tuple(sizes[rank:])


def _on_all_axes(sizes: list[int], chosen: ir.Value, rank: int | None) -> list[int]:
    axes = stored(chosen)
    if axes is None or rank is None:
        raise NotExactError("its axes, or the rank of what it pads, are not known")
    whole = np.zeros((2, rank), np.int64)
    whole[:, axes.numpy()] = np.reshape(sizes, (2, -1))
    return [int(size) for size in whole.reshape(-1)]


def _value(constant: ir.Value | None) -> float:
    if constant is None:
        return 0.0
    tensor = stored(constant)
    if tensor is None:
        raise NotExactError("its value is not stored")
    return float(tensor.numpy().item())


def _check_axes(padding: _Padding) -> None:
    if min((*padding.before, *padding.behind)) < 0:
        raise NotExactError("it cuts the map")
    if any((*padding.before[:2], *padding.behind[:2])):
        raise NotExactError("it pads the batch or the channels")


def _check_windows(pool: ir.Node, padding: _Padding) -> None:
    """Each window must lie on the map in part, and be as large with padding of its own."""
    kernel = pool.attributes.get_ints("kernel_shape", [])
    if pool.attributes.get_int("ceil_mode", 0):
        raise NotExactError(f"{node_label(pool)} rounds its size up")
    if any(step != 1 for step in pool.attributes.get_ints("dilations", [1])):
        raise NotExactError(f"{node_label(pool)} has dilations")
    own = _own_pads(pool, len(kernel))
    added = (*padding.before[2:], *padding.behind[2:])
    if any(one + other >= size for one, other, size in zip(own, added, [*kernel] * 2, strict=True)):
        raise NotExactError(f"it pads by the kernel of {node_label(pool)} or more")
    if len(pool.outputs) > 1 and (pool.outputs[1].uses() or pool.outputs[1].is_graph_output()):
        raise NotExactError(f"the indices of {node_label(pool)} count its padding")


def _check_value(reader: ir.Node, source: ir.Value, value: float) -> None:
    if is_op(reader, "MaxPool"):
        dtype = source.dtype or ir.DataType.FLOAT
        lowest = float(dtype.min)
        if not value <= lowest and not (value == 0 and is_op(source.producer(), *_NOT_NEGATIVE)):
            raise NotExactError(f"{node_label(reader)} may take its {value:g} for a maximum")
    elif value != 0:
        raise NotExactError(f"{node_label(reader)} would pad with zeros, not with {value:g}")


def _check_counts(model: ir.Model, pool: ir.Node, own: list[int]) -> None:
    if opset(model) < 7:
        raise NotExactError(f"{node_label(pool)} cannot count its padding before opset 7")
    if any(own) and not pool.attributes.get_int("count_include_pad", 0):
        raise NotExactError(f"{node_label(pool)} has padding of its own that it does not count")


def _own_pads(node: ir.Node, rank: int) -> list[int]:
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise NotExactError(f"{node_label(node)} has auto_pad")
    return list(node.attributes.get_ints("pads", [0] * 2 * rank))
