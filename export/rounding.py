"""Adaptive rounding: each weight up or down, whichever leaves a layer's outputs the closest.

Rounding every weight to the nearest code is not what keeps the outputs closest: the errors of a row
add up, and can be made to cancel. The problem is AdaRound's (Nagel et al. 2020, arXiv:2004.10568,
equation 13): with the inputs x of a layer and H = E[x x'], choose for each weight of a row w the
code below or above it so that

    (codes * scale - w)' H (codes * scale - w)

is least. It is solved without AdaRound's relaxation and without torch: rows start from the nearest
codes and from codes chosen one after the other, each making up for those before it (Frantar et al.
2022, arXiv:2210.17323); then single codes are moved as long as that helps; of the two results each
row keeps the better, which is never worse than nearest on the samples it was made from.

H is that of the inputs which the quantized layers before give, and of their deviations from the
mean, which the layer's bias takes care of; where a layer has none, of the inputs themselves. A
weight of zero has one code, zero: what is sparse stays sparse.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.calibration import Feed
from edgekit.export.correct_biases import (
    add_missing_biases,
    correct_layer,
    find_bias,
    mean_outputs,
)
from edgekit.export.graph import from_proto, to_proto
from edgekit.export.layerwise import Layer, walk_layers
from edgekit.export.weight_rows import WeightGrid, input_rows, stored_codes, write_codes
from edgekit.runtime.progress import Progress

DEFAULT_SECONDS = 60.0
# Rows of inputs that H is made from: so many for each weight of a row, and at least so many.
_INPUTS_A_WEIGHT, _LEAST_INPUTS = 4, 4096
_SWEEPS = 8
_DAMPING = 0.01

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rounded:
    """A model whose weights were rounded anew.

    Attributes:
        model: The model.
        layers: How many layers were.
        left: Names of the quantized layers that keep the nearest codes: the time was up, or their
            form is not one that this knows.
        error_share: What is left of the nearest codes' squared error in the outputs of the layers,
            on the samples used, 0 to 1.
    """

    model: ir.Model
    layers: int
    left: tuple[str, ...]
    error_share: float


def round_adaptively(
    model: ir.Model,
    quantized: ir.Model,
    feeds: Sequence[Feed],
    *,
    seconds: float = DEFAULT_SECONDS,
    progress: Progress | None = None,
) -> Rounded:
    """Choose the codes of each layer's weights anew, and correct its bias to match.

    Args:
        model: The float32 model that was quantized, with the same names of nodes.
        quantized: What quantization made of it, with QuantizeLinear and DequantizeLinear; it is
            not changed. Scales and zero points stay.
        feeds: Calibration data, as much as `layerwise.affordable` gives.
        seconds: When they are over, the layers that are left keep their codes.
        progress: Called with layers done and their total.

    Raises:
        ModelFileError: onnxruntime cannot run a model.
    """
    result = from_proto(to_proto(quantized))
    add_missing_biases(result)
    targets = mean_outputs(model, feeds)
    floats = {str(node.name): node for node in model.graph}
    total = sum(stored_codes(node) is not None for node in result.graph)
    deadline = time.monotonic() + seconds
    generator = np.random.default_rng(0)
    left, errors, done = [], np.zeros(2), 0
    for layer in walk_layers(result, feeds):
        name = str(layer.node.name)
        bias, target = find_bias(layer.node), targets.get(name)
        corrected = bias is not None and target is not None
        if stored_codes(layer.node) is not None:
            done += 1
            grid = WeightGrid.of(layer.node, floats.get(name))
            if grid is None or time.monotonic() > deadline:
                left.append(name)
            else:
                errors += _round_layer(layer, grid, corrected, deadline, generator)
            if progress is not None:
                progress(done, total)
        if bias is not None and target is not None:
            correct_layer(layer, bias, target)
    share = float(errors[1] / errors[0]) if errors[0] else 1.0
    return Rounded(result, done - len(left), tuple(left), share)


def _round_layer(
    layer: Layer, grid: WeightGrid, centered: bool, deadline: float, generator: np.random.Generator
) -> Array:
    """Give a layer new codes; returns its squared error before and after."""
    moments = _moments(layer, grid, centered, generator)
    codes, errors = grid.codes.copy(), np.zeros(2)
    for (at, part), moment in zip(grid.parts(), moments, strict=True):
        codes[at] = choose_codes(part.weights, part.codes, part.low, part.high, moment, deadline)
        for index, chosen in enumerate((part.codes, codes[at])):
            rows = _row_errors(chosen - part.weights, moment)
            errors[index] += (rows * part.steps**2).sum()
    write_codes(layer.node, codes)
    return errors


def choose_codes(
    weights: Array,
    nearest: Array,
    low: Array,
    high: Array,
    moment: Array,
    deadline: float = math.inf,
) -> Array:
    """Choose between two codes for each weight.

    Args:
        weights: Weights [rows, n] in steps of the codes.
        nearest: The codes to start from [rows, n]; each row of the result is as good or better.
        low: The lower choice [rows, n].
        high: The upper choice [rows, n].
        moment: H, the second moment of the inputs [n, n].
        deadline: On time.monotonic's clock; after it, codes stay as they are.

    Returns:
        Codes [rows, n].
    """
    best = _descend(weights, nearest, low, high, moment, deadline)
    try:
        start = _in_turn(weights, low, high, moment, deadline)
    except np.linalg.LinAlgError:  # the inputs are all zero, or as good as
        return best
    if start is None:
        return best
    other = _descend(weights, start, low, high, moment, deadline)
    better = _row_errors(other - weights, moment) < _row_errors(best - weights, moment)
    best[better] = other[better]
    return best


def _row_errors(difference: Array, moment: Array) -> Array:
    errors: Array = ((difference @ moment) * difference).sum(1)
    return errors


def _descend(
    weights: Array, start: Array, low: Array, high: Array, moment: Array, deadline: float
) -> Array:
    """Move single codes to their other choice as long as that lessens the error of their row."""
    codes = start.copy()
    slope = (codes - weights) @ moment
    for _ in range(_SWEEPS):
        moved = 0
        for index in range(weights.shape[1]):
            if time.monotonic() > deadline:
                return codes
            step = np.where(codes[:, index] == low[:, index], high[:, index], low[:, index])
            step -= codes[:, index]
            gain = step * (2 * slope[:, index] + step * moment[index, index])
            rows = np.flatnonzero(gain < 0)
            codes[rows, index] += step[rows]
            slope[rows] += step[rows, None] * moment[index]
            moved += len(rows)
        if not moved:
            break
    return codes


def _in_turn(
    weights: Array, low: Array, high: Array, moment: Array, deadline: float
) -> Array | None:
    """Choose code by code, most active input first, each making up for those before it.

    Returns:
        Codes [rows, n]; None where the deadline came first.
    """
    if time.monotonic() > deadline:
        return None
    order = np.argsort(-np.diag(moment), kind="stable")
    damped = moment[np.ix_(order, order)] + _DAMPING * np.diag(moment).mean() * np.eye(len(order))
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    rest, codes = weights[:, order], np.empty_like(weights)
    for index, column in enumerate(order):
        if time.monotonic() > deadline:
            return None
        codes[:, column] = np.clip(np.rint(rest[:, index]), low[:, column], high[:, column])
        error = (rest[:, index] - codes[:, column]) / factor[index, index]
        rest[:, index + 1 :] -= error[:, None] * factor[index, index + 1 :]
    return codes


def _moments(
    layer: Layer, grid: WeightGrid, centered: bool, generator: np.random.Generator
) -> list[Array]:
    """H of each group's inputs, from positions drawn at random."""
    length = grid.weights.shape[1]
    wanted = max(_LEAST_INPUTS, _INPUTS_A_WEIGHT * length)
    sums = np.zeros((grid.groups, length))
    squares = np.zeros((grid.groups, length, length))
    count = 0
    for array in layer.inputs:
        rows = input_rows(layer.node, array, -(-wanted // len(layer.inputs)), generator)
        rows = rows.reshape(len(rows), grid.groups, length).astype(np.float64)
        count += len(rows)
        for group in range(grid.groups):
            part = rows[:, group]
            sums[group] += part.sum(0)
            squares[group] += part.T @ part
    if not centered:
        sums[:] = 0
    return [
        square / count - np.outer(total, total) / count**2
        for square, total in zip(squares, sums, strict=True)
    ]
