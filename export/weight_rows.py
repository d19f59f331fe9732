"""The codes of a layer's weight in rows, one for each output channel, and the inputs they read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edgekit.export.passes.base import is_op

# The second moments of longer rows take more memory and time than they are worth.
LONGEST_ROW = 4608
_ON_GRID = 1e-4  # steps that a weight may be off a code and count as being on it

Array = NDArray[np.float64]


@dataclass(frozen=True)
class WeightGrid:
    """A weight in units of its codes' steps.

    Attributes:
        weights: Float weights [rows, row], divided by the row's scale.
        codes: The codes now, less the zero point.
        low: The code below each weight, or its own where it has one.
        high: The code above.
        steps: The scale of each row.
        groups: Parts of the rows that read parts of the inputs.
    """

    weights: Array
    codes: Array
    low: Array
    high: Array
    steps: Array
    groups: int

    @classmethod
    def of(cls, node: ir.Node, original: ir.Node | None) -> WeightGrid | None:
        """Read a layer's codes and float weights; None where it is not of a known form."""
        stored = stored_codes(node)
        source = None if original is None else original.inputs[1]
        if stored is None or source is None or source.const_value is None:
            return None
        codes, scale, zero = stored
        floats = source.const_value.numpy()
        if not _is_known(node) or floats.shape != codes.shape:
            return None
        rows = _rows(node, codes.astype(np.float64) - zero)
        was = _rows(node, floats.astype(np.float64))
        steps = np.broadcast_to(scale.ravel(), len(rows))
        if rows.shape[1] > LONGEST_ROW or not (steps > 0).all():
            return None
        weights = was / steps[:, None]
        reach = np.abs(rows).max()
        if np.abs(np.clip(weights, -reach, reach) - rows).max() > 0.5 + _ON_GRID:
            return None  # these codes do not come of these weights
        low = np.clip(np.floor(weights + _ON_GRID), -reach, reach)
        high = np.clip(np.ceil(weights - _ON_GRID), -reach, reach)
        return cls(weights, rows, low, high, steps, _group_count(node))

    def parts(self) -> Iterator[tuple[slice, WeightGrid]]:
        """The rows of each group, and a grid of them alone."""
        size = len(self.codes) // self.groups
        for start in range(0, len(self.codes), size):
            at = slice(start, start + size)
            yield (
                at,
                replace(
                    self,
                    weights=self.weights[at],
                    codes=self.codes[at],
                    low=self.low[at],
                    high=self.high[at],
                    steps=self.steps[at],
                    groups=1,
                ),
            )


def input_rows(
    node: ir.Node, array: NDArray[np.float32], most: int, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Up to `most` of the rows that a layer multiplies by its weight, each [groups * row].

    Args:
        node: The layer.
        array: Its data.
        most: How many.
        generator: Draws their positions.
    """
    if not is_op(node, "Conv"):
        rows = array.reshape(-1, array.shape[-1])
        return rows[_draw(len(rows), most, generator)]
    rank = array.ndim - 2
    weight = node.inputs[1]
    assert weight is not None
    stored = stored_codes(node)
    assert stored is not None
    kernel = stored[0].shape[2:]
    pads = _ints(node, "pads", (0,) * (2 * rank))
    strides, gaps = _ints(node, "strides", (1,) * rank), _ints(node, "dilations", (1,) * rank)
    spread = [(pads[axis], pads[rank + axis]) for axis in range(rank)]
    padded = np.pad(array, ((0, 0), (0, 0), *spread))
    reach = tuple((size - 1) * gap + 1 for size, gap in zip(kernel, gaps, strict=True))
    windows = sliding_window_view(padded, reach, axis=tuple(range(2, 2 + rank)))
    every = (1, 1, *strides, *gaps)
    windows = windows[tuple(slice(None, None, step) for step in every)]
    places = (windows.shape[0], *windows.shape[2 : 2 + rank])
    drawn = np.unravel_index(_draw(math.prod(places), most, generator), places)
    rows = np.moveaxis(windows, 1, 1 + rank)[drawn]  # [drawn, channels, *kernel]
    return rows.reshape(len(rows), -1)


def _draw(count: int, most: int, generator: np.random.Generator) -> NDArray[np.int64]:
    if count <= most:
        return np.arange(count)
    return np.sort(generator.choice(count, most, replace=False))


def _is_known(node: ir.Node) -> bool:
    if is_op(node, "Conv"):
        padding = node.attributes.get("auto_pad")
        return padding is None or padding.as_string() == "NOTSET"
    if is_op(node, "Gemm"):
        return "transA" not in node.attributes or not node.attributes["transA"].as_int()
    return is_op(node, "MatMul")


def _group_count(node: ir.Node) -> int:
    return node.attributes["group"].as_int() if "group" in node.attributes else 1


def _ints(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(node.attributes[name].as_ints()) if name in node.attributes else default


def _is_turned(node: ir.Node) -> bool:
    """Whether a matrix is stored [row, rows]."""
    if is_op(node, "Gemm"):
        return "transB" not in node.attributes or not node.attributes["transB"].as_int()
    return is_op(node, "MatMul")


def _rows(node: ir.Node, array: Array) -> Array:
    """A weight as [rows, row], one row for each output channel."""
    return array.T if _is_turned(node) else array.reshape(len(array), -1)


def stored_codes(node: ir.Node) -> tuple[NDArray[np.integer], Array, int] | None:
    """Codes, scale for each row and zero point of a layer's weight; None where it has none such."""
    if not is_op(node, "Conv", "Gemm", "MatMul"):
        return None
    producer = node.inputs[1].producer() if node.inputs[1] is not None else None
    if not is_op(producer, "DequantizeLinear"):
        return None
    assert producer is not None
    value, scale, zero = (*producer.inputs, None)[:3]
    if value is None or scale is None or value.const_value is None or scale.const_value is None:
        return None
    codes, steps = value.const_value.numpy(), scale.const_value.numpy().astype(np.float64)
    zeros = np.zeros(1) if zero is None or zero.const_value is None else zero.const_value.numpy()
    rows = codes.shape[-1 if _is_turned(node) else 0]
    if codes.ndim < 2 or len(value.uses()) != 1 or len(np.unique(zeros)) != 1:
        return None
    if steps.size not in (1, rows) or steps.ndim > 1:
        return None
    return codes, steps, int(zeros.ravel()[0])


def write_codes(node: ir.Node, rows: Array) -> None:
    """Give a layer other codes [rows, row], less the zero point."""
    stored = stored_codes(node)
    producer = node.inputs[1].producer() if node.inputs[1] is not None else None
    assert stored is not None
    assert producer is not None
    value = producer.inputs[0]
    assert value is not None
    assert value.const_value is not None
    codes, _, zero = stored
    array = rows.T if _is_turned(node) else rows.reshape(codes.shape)
    written = np.ascontiguousarray((array + zero).astype(codes.dtype))
    value.const_value = ir.tensor(written, dtype=value.const_value.dtype, name=value.name)
