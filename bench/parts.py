"""What operators make of constants that they cut, join or repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.bench.shapes import Shape, operator, static_shape
from edgekit.bench.weights import input_at, stored_tensor

# Elements beyond which no array is built that the file does not hold.
LARGEST_ELEMENTS = 2**26

Arrays = Sequence[NDArray[Any]]


def part(value: ir.Value, arrays: Arrays) -> NDArray[Any] | None:
    """What an operator of `PARTS` makes of arrays, or of stand-ins that are zero where these are.

    Args:
        value: An output of the operator.
        arrays: Its first input; all of them for a Concat.

    Returns:
        An array of the value's shape, floats as whether they differ from zero where they had to be
        copied; None where the shape is not known, does not fit or is larger than
        `LARGEST_ELEMENTS` for a copy.
    """
    node, shape = value.producer(), static_shape(value)
    if node is None or shape is None:
        return None
    try:
        made = PARTS[operator(node)](node, value, shape, arrays)
    except (IndexError, ValueError):
        return None
    return made if made is not None and made.shape == shape else None


def _concat(node: ir.Node, _: ir.Value, shape: Shape, arrays: Arrays) -> NDArray[Any] | None:
    if prod(shape) > LARGEST_ELEMENTS:
        return None
    if any(array.dtype != arrays[0].dtype or array.dtype.kind not in "iu" for array in arrays):
        arrays = [array != 0 for array in arrays]
    return np.concatenate(arrays, _axis(node, 1))


def _expand(_: ir.Node, __: ir.Value, shape: Shape, arrays: Arrays) -> NDArray[Any]:
    return np.broadcast_to(arrays[0], shape)


def _slice(node: ir.Node, _: ir.Value, __: Shape, arrays: Arrays) -> NDArray[Any] | None:
    starts, ends, axes, steps = (
        _integers(node, index, name)
        for index, name in enumerate(("starts", "ends", "axes", "steps"), 1)
    )
    if starts is None or ends is None:
        return None
    places = [slice(None)] * arrays[0].ndim
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = index if axes is None else axes[index]
        places[axis] = slice(start, end, 1 if steps is None else steps[index])
    return arrays[0][tuple(places)]


def _split(node: ir.Node, value: ir.Value, shape: Shape, arrays: Arrays) -> NDArray[Any] | None:
    axis, start = _axis(node, 0), 0
    for output in node.outputs[: value.index()]:
        before = static_shape(output)
        if before is None:
            return None
        start += before[axis]
    places = [slice(None)] * arrays[0].ndim
    places[axis] = slice(start, start + shape[axis])
    return arrays[0][tuple(places)]


def _tile(_: ir.Node, __: ir.Value, shape: Shape, arrays: Arrays) -> NDArray[Any] | None:
    sizes = arrays[0].shape
    if prod(shape) > LARGEST_ELEMENTS or 0 in sizes:
        return None
    return np.tile(arrays[0], [new // old for new, old in zip(shape, sizes, strict=True)])


# Operators that hand on some of a tensor, some of it several times, or a join of several.
PARTS: dict[str, Callable[[ir.Node, ir.Value, Shape, Arrays], NDArray[Any] | None]] = {
    "Concat": _concat,
    "Expand": _expand,
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
}


def _axis(node: ir.Node, default: int) -> int:
    attribute = node.attributes.get("axis")
    return default if attribute is None else attribute.as_int()


def _integers(node: ir.Node, index: int, name: str) -> list[int] | None:
    """A list that is an input, or in the first opsets an attribute; None where it is not known."""
    if name in node.attributes:
        return list(node.attributes[name].as_ints())
    value = input_at(node, index)
    stored = None if value is None else stored_tensor(value)
    return None if stored is None else [int(number) for number in stored.array().reshape(-1)]
