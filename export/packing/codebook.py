"""Give each weight tensor few distinct values: one-dimensional k-means, a codebook a tensor.

The centers are optimal for a histogram of the tensor, by dynamic programming over its sorted points
(Wang and Song 2011, Ckmeans.1d.dp; here in O(k n^2) numpy), then moved to the means of the values
that are nearest to them until they rest. The histogram holds every distinct value of an int8
tensor, so that its codebook is optimal.

Zeros stay zero and take no part. A weight that counts for more, because its channel has a larger
scale, weighs more; but behind ConvInteger and MatMulInteger, whose sums are scaled only later, all
weigh the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.graph import graph_nodes
from edgekit.export.passes.base import is_op
from edgekit.export.passes.values import stored
from edgekit.runtime.errors import InputError, ModelFileError

MIN_BITS, MAX_BITS = 2, 6

_WEIGHT_INPUTS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "ConvInteger": (1,),
    "MatMulInteger": (1,),
}
_HISTOGRAM = 512
_ROUNDS = 100
_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8)


def check_bits(bits: int) -> None:
    """Refuse a width of codes that there is not.

    Raises:
        InputError: it is out of range.
    """
    if not MIN_BITS <= bits <= MAX_BITS:
        raise InputError(
            f"a codebook of {bits}-bit codes is out of range: choose {MIN_BITS} to {MAX_BITS} bits"
        )


def share_values(model: ir.Model, bits: int) -> int:
    """Replace each weight by the nearest entry of its tensor's codebook, in place.

    A tensor gets as many non-zero values as `bits` bits tell apart, one less where storing its
    zeros as a code is smaller than storing a mask.

    Returns:
        Number of tensors changed.

    Raises:
        ModelFileError: there are no weights to round.
    """
    weights = _weights(model)
    if not weights:
        raise ModelFileError(
            "no layer has stored weights that a codebook can round: leave out --codebook"
        )
    changed = 0
    for value, scale in weights.items():
        assert value.const_value is not None
        array = value.const_value.numpy()
        rounded = _shared(array, scale, bits)
        if rounded is not None:
            value.const_value = ir.tensor(rounded, name=value.name)
            changed += 1
    return changed


def _weights(model: ir.Model) -> dict[ir.Value, NDArray[Any] | None]:
    """Stored weights of more than one axis, with the scales that they are multiplied with."""
    found: dict[ir.Value, NDArray[Any] | None] = {}
    for node in graph_nodes(model.graph):
        for index in _WEIGHT_INPUTS.get(node.op_type, ()) if not node.domain else ():
            value, scale = _source(node.inputs[index])
            tensor = stored(value)
            if (
                value is not None
                and value.is_initializer()
                and tensor is not None
                and tensor.dtype in _TYPES
                and len(tensor.shape) > 1
            ):
                found.setdefault(value, scale)
    return found


def _source(operand: ir.Value | None) -> tuple[ir.Value | None, NDArray[Any] | None]:
    """What an operand is converted from, and the scales that it is multiplied with on the way."""
    producer = operand.producer() if operand is not None else None
    if producer is not None and is_op(producer, "DequantizeLinear"):
        return producer.inputs[0], _scale(producer)
    if producer is not None and is_op(producer, "Cast"):
        return producer.inputs[0], None
    return operand, None


def _scale(dequantize: ir.Node) -> NDArray[Any] | None:
    """Scales in a shape that broadcasts over the weight; None where all are equal."""
    scale, source = stored(dequantize.inputs[1]), stored(dequantize.inputs[0])
    if scale is None or source is None or len(scale.shape) != 1:
        return None
    shape = [1] * len(source.shape)
    shape[dequantize.attributes.get_int("axis", 1)] = -1
    return scale.numpy().reshape(shape)


def _shared(array: NDArray[Any], scale: NDArray[Any] | None, bits: int) -> NDArray[Any] | None:
    nonzero = array != 0
    values = array[nonzero].astype(np.float64)
    entries = 1 << bits
    if len(values) < array.size and len(values) > array.size * (bits - 1) / bits:
        entries -= 1
    if len(np.unique(values)) <= entries or not np.isfinite(values).all():
        return None
    weights = np.ones_like(values)
    if scale is not None:
        weights = np.broadcast_to(scale.astype(np.float64) ** 2, array.shape)[nonzero]
    centers = fit_codebook(values, weights, entries)
    if array.dtype.kind in "iu":
        centers = np.unique(np.rint(centers))
    result = array.copy()
    result[nonzero] = centers[_nearest(values, centers)].astype(array.dtype)
    return result


def fit_codebook(
    values: NDArray[np.float64], weights: NDArray[np.float64], entries: int
) -> NDArray[np.float64]:
    """The centers, sorted, that make the weighted squared distance of values to them least.

    Args:
        values: [n], at least `entries` of them different.
        weights: [n], positive.
        entries: How many.
    """
    order = np.argsort(values)
    values, weights = values[order], weights[order]
    points, mass = _histogram(values, weights)
    centers = _optimal(points, mass, min(entries, len(points)))
    sums = np.concatenate([[0.0], np.cumsum(weights)])
    moments = np.concatenate([[0.0], np.cumsum(weights * values)])
    for _ in range(_ROUNDS):  # Lloyd: the values nearest to each center, then their mean
        edges = np.searchsorted(values, (centers[1:] + centers[:-1]) / 2)
        edges = np.concatenate([[0], edges, [len(values)]])
        total = np.diff(sums[edges])
        means = np.where(total > 0, np.diff(moments[edges]) / np.maximum(total, 1e-300), centers)
        if np.array_equal(means, centers):
            break
        centers = means
    return centers


def _histogram(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and their weights: the distinct values, or means of runs of the same length."""
    points, index = np.unique(values, return_inverse=True)
    if len(points) > _HISTOGRAM:
        index = np.arange(len(values)) * _HISTOGRAM // len(values)
    mass = np.bincount(index, weights).astype(np.float64)
    return np.bincount(index, weights * values) / mass, mass


def _optimal(
    points: NDArray[np.float64], mass: NDArray[np.float64], entries: int
) -> NDArray[np.float64]:
    """Means of the best partition of sorted points into `entries` runs."""
    count = len(points)
    shifted = points - points.mean()  # else squares cancel
    sums = [np.concatenate([[0.0], np.cumsum(mass * shifted**k)]) for k in range(3)]
    first, last = np.arange(count)[:, None], np.arange(1, count + 1)[None, :]
    n, s, q = (total[last] - total[first] for total in sums)
    spread = np.where(last > first, q - s**2 / np.where(n > 0, n, 1), np.inf)
    best, starts = spread[0], []
    for _ in range(entries - 1):
        before = np.concatenate([[np.inf], best[:-1]])  # cost of the runs that end before `first`
        costs = before[:, None] + spread
        start = costs.argmin(axis=0)
        starts.append(start)
        best = costs[start, np.arange(count)]
    edges = [count]
    for start in reversed(starts):
        edges.append(int(start[edges[-1] - 1]))
    bounds = np.array([0, *reversed(edges)])
    means: NDArray[np.float64] = np.diff(sums[1][bounds]) / np.diff(sums[0][bounds]) + points.mean()
    return means


def _nearest(values: NDArray[np.float64], centers: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.searchsorted((centers[1:] + centers[:-1]) / 2, values)
