"""Weights that lie on a grid of few levels already, as quantization-aware training leaves them.

A channel of weights lies on a grid of M levels to either side if there is a scale s with
w = s * q, q whole and |q| <= M. Its largest weight is s * M then for the smallest such M, so that
the grid is found by trying M = 1, 2, ...: s = max|w| / M, until every w / s is whole. Unlike the
largest weight over 127, that scale gives every weight its own code with no rounding, and codes of
few bits stay codes of few bits.

The weights are taken as they are in the graph, whatever was folded into them: a factor for each
output channel, as batch normalization has, leaves them on a grid. One for each input channel does
not.

A channel of few weights lies on some grid by chance: always where one of them is not zero, one
time in four where two are. It is believed where most channels of its tensor that have four or more
lie on grids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# How far from a whole number w / s may be: far above what folding in float32 does to codes up to
# 127 (about 5e-5), far below what another grid would do.
_TOLERANCE = 1e-3
# Enough weights of a channel to tell that it lies on no grid; the rest is looked at if it may.
_PROBED = 16
# So many weights other than zero lie on a grid by chance once in a million times.
_TELLING = 4
_OUTPUT_AXIS = {"Conv": 0, "Gemm": 1, "MatMul": 1}


@dataclass(frozen=True)
class WeightGrid:
    """The scales of one weight.

    Attributes:
        axis: Of its output channels.
        scales: float64 [channels]; where a channel lies on no grid, its largest weight over the
            largest code.
        levels: int64 [channels], M; 0 where a channel lies on no grid.
    """

    axis: int
    scales: Floats
    levels: NDArray[np.int64]


def find_grid(weight: NDArray[np.floating], axis: int, largest: int = 127) -> WeightGrid | None:
    """The grid of each output channel, if there are any.

    Args:
        weight: Any shape.
        axis: Of the output channels.
        largest: The largest code that a weight may have.

    Returns:
        None if no channel lies on a grid other than by chance.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    peaks = np.abs(rows).max(axis=1, initial=0.0)
    levels = np.zeros(len(rows), np.int64)
    for level in range(1, largest + 1):
        left = np.flatnonzero((levels == 0) & (peaks > 0))
        if not len(left):
            break
        left = left[_fits(rows[left, :_PROBED], peaks[left], level)]
        levels[left[_fits(rows[left], peaks[left], level)]] = level
    telling = np.count_nonzero(rows, axis=1) >= _TELLING
    if 2 * np.count_nonzero(levels[telling]) <= np.count_nonzero(telling):
        levels[~telling] = 0
    if not levels.any():
        return None
    scales = peaks / np.where(levels > 0, levels, largest)
    # A channel of zeros has no scale of its own; its bias is rounded to multiples of this one.
    scales[peaks == 0] = scales[peaks > 0].min()
    return WeightGrid(axis, scales, levels)


def _fits(rows: Floats, peaks: Floats, level: int) -> NDArray[np.bool_]:
    codes = rows * (level / peaks)[:, None]
    off: Floats = np.abs(codes - np.round(codes)).max(axis=1)
    return off <= _TOLERANCE


def weight_grids(model: ir.Model, largest: int = 127) -> Mapping[str, WeightGrid]:
    """The grids of the weights of Conv, Gemm and MatMul, by the names of the initializers.

    Args:
        model: A float32 model.
        largest: The largest code that a weight may have.
    """
    found: dict[str, WeightGrid] = {}
    for node in model.graph:
        weight = node.inputs[1] if node.op_type in _OUTPUT_AXIS and len(node.inputs) > 1 else None
        if weight is None or weight.const_value is None or not weight.is_initializer():
            continue
        values = weight.const_value.numpy()
        axis = _OUTPUT_AXIS[node.op_type]
        if node.op_type == "Gemm" and node.attributes.get_int("transB", 0) != 0:
            axis = 0
        if values.dtype == np.float32 and (values.ndim == 2 or node.op_type == "Conv"):
            grid = find_grid(values, axis, largest)
            if grid is not None:
                found[str(weight.name)] = grid
    return found
