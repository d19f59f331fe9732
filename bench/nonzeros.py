"""Which elements of a constant are zero, as the operator that uses it sees them.

A weight may reach its operator through DequantizeLinear, QuantizeLinear, Cast and operators that
reshape, cut, join or repeat. `constant_codes` follows that path; what it returns is zero exactly
where the weight is. A quantized weight is zero where it equals its zero point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.bench import n_bits
from edgekit.bench.parts import LARGEST_ELEMENTS, PARTS, part
from edgekit.bench.shapes import operator, static_shape
from edgekit.bench.uses import Use
from edgekit.bench.weights import (
    CASTS,
    NONZERO,
    RESHAPES,
    StoredTensor,
    input_at,
    is_n_bits,
    stored_tensor,
)
from edgekit.bench.zero_points import zero_point
from edgekit.runtime.errors import ModelFileError

_QUANTIZERS = ("DequantizeLinear", "QuantizeLinear")
_Known = Mapping[ir.Value, NDArray[Any] | None]
_Make = Callable[[ir.Value, _Known], NDArray[Any] | None]


def constant_codes(value: ir.Value | None) -> NDArray[Any] | None:
    """A constant that is zero exactly where `value` is, of its shape; None if it is no constant.

    Raises:
        ModelFileError: scales or zero points do not fit what they are for.
    """
    return _followed(value, _codes)


def _followed(value: ir.Value | None, make: _Make) -> NDArray[Any] | None:
    """What `make` makes of a value, from what it makes of the value's sources."""
    known: dict[ir.Value, NDArray[Any] | None] = {}
    waiting = [] if value is None else [value]
    while waiting:
        current = waiting[-1]
        missing = {source for source in _sources(current) if source not in known}
        if missing:
            waiting += missing
        else:
            waiting.pop()
            known[current] = make(current, known)
    return None if value is None else known[value]


def _sources(value: ir.Value) -> list[ir.Value]:
    """What the codes of a value are made of: none for a stored tensor and for what is computed."""
    node = value.producer()
    if node is None or not node.inputs or stored_tensor(value) is not None:
        return []
    name = operator(node)
    if name == "Concat":
        return [source for source in node.inputs if source is not None]
    passes = name in RESHAPES or name in CASTS or name in PARTS or name in _QUANTIZERS
    return [source for source in node.inputs[:1] if passes and source is not None]


def _codes(value: ir.Value, known: _Known) -> NDArray[Any] | None:
    stored = stored_tensor(value)
    mask = None if stored is None else stored.tensor.meta.get(NONZERO)
    if stored is not None and mask is not None:
        return np.unpackbits(mask, count=stored.elements).reshape(stored.shape).view(np.bool_)
    if stored is not None:
        return None if stored.dtype == ir.DataType.STRING else stored.array()
    node, moved = value.producer(), _moved(value, known)
    if node is None or moved is None:
        return None
    if operator(node) == "DequantizeLinear":
        return _differs(moved, input_at(node, 2), _axis(node), _block_size(node))
    return _quantized(moved, node) if operator(node) == "QuantizeLinear" else moved


def _moved(value: ir.Value, known: _Known) -> NDArray[Any] | None:
    """What an operator makes of its sources if it only moves elements."""
    node, found = value.producer(), [known[source] for source in _sources(value)]
    arrays = [array for array in found if array is not None]
    if node is None or not arrays or len(arrays) < len(found):
        return None
    name = operator(node)
    if name in PARTS:
        return part(value, arrays)
    return arrays[0] if name in CASTS or name in _QUANTIZERS else _reshaped(arrays[0], node, value)


def operand_codes(node: ir.Node, index: int) -> NDArray[Any] | None:
    """A node's constant input, zero where its elements are; None if it is not constant.

    An integer weight is zero where it equals its zero point, of its channel if there are many.

    Raises:
        ModelFileError: scales or zero points do not fit what they are for.
    """
    codes = constant_codes(input_at(node, index))
    point = zero_point(node, index)
    return codes if codes is None or point is None else _differs(codes, *point)


def count_nonzero(node: ir.Node, index: int) -> int | None:
    """Non-zero elements of a node's constant input; None if it is not constant.

    Raises:
        ModelFileError: scales or zero points do not fit what they are for.
    """
    codes = operand_codes(node, index)
    if codes is None:
        return None
    if is_n_bits(node, index):
        points = constant_codes(input_at(node, n_bits.ZERO_POINTS))
        return n_bits.count_nonzero_codes(node, codes, points)
    return _count(codes)


def count_live(codes: NDArray[Any], summed: tuple[int, ...]) -> tuple[int, int]:
    """Of the sums over some axes of a constant, those with a non-zero element, and all."""
    compact = _compact(codes)
    with np.errstate(invalid="ignore"):  # NaN is not zero
        live = np.any(compact if compact.dtype.kind in "biuf" else compact != 0, axis=summed)
    total = prod(size for axis, size in enumerate(codes.shape) if axis not in summed)
    return int(np.count_nonzero(live)) * (total // max(live.size, 1)), total


def count_stored_nonzero(stored: StoredTensor, uses: Sequence[Use]) -> int:
    """Non-zero elements of a stored tensor, as the operators that use it see them.

    Args:
        stored: The tensor.
        uses: Its uses. The first decides, unless it reads codes that were cut before they are
            decoded: then each decides on what it reads.

    Raises:
        ModelFileError: scales or zero points do not fit what they are for.
    """
    if not uses:
        return _count(stored.array())
    use = uses[0]
    if use.node.inputs[use.index] is use.whole:
        nonzero = count_nonzero(use.node, use.index)
        return _count(stored.array()) if nonzero is None else nonzero
    codes = constant_codes(use.whole)
    if codes is None:
        return _count(stored.array())
    points = constant_codes(use.zero_point)
    if points is None:
        own = zero_point(use.node, use.index)
        points = None if own is None else constant_codes(own[0])
    if points is None or codes.dtype.kind not in "iu":
        return _count(codes)
    live = codes if points.size > 1 or not points.any() else codes != points.reshape(())
    if stored.elements > LARGEST_ELEMENTS:
        return _count(live)
    return _count_by_use(stored, use.whole, live, uses)


def _count_by_use(
    stored: StoredTensor, whole: ir.Value, live: NDArray[Any], uses: Sequence[Use]
) -> int:
    """Elements that are not zero where they are read; `live` tells of those that nothing reads."""
    read, nonzero = np.zeros((2, stored.elements + 1), np.bool_)
    for use in uses:
        found = _places(input_at(use.node, use.index), stored)
        codes = operand_codes(use.node, use.index)
        if found is not None and codes is not None and found.shape == codes.shape:
            read[found] = True
            nonzero[found[codes != 0]] = True
    found = _places(whole, stored)
    if found is not None and found.shape == live.shape:
        nonzero[found[(live != 0) & ~read[found]]] = True
    return int(np.count_nonzero(nonzero[1:]))  # the first stands for all other tensors


def _places(value: ir.Value | None, stored: StoredTensor) -> NDArray[np.int32] | None:
    """Where each element of a value lies in a stored tensor, from 1 on; 0 if it lies elsewhere."""

    def place(current: ir.Value, known: _Known) -> NDArray[Any] | None:
        tensor = stored_tensor(current)
        if tensor is None:
            return _moved(current, known)
        if tensor.key != stored.key:
            return np.broadcast_to(np.int32(0), tensor.shape)
        return np.arange(1, stored.elements + 1, dtype=np.int32).reshape(stored.shape)

    return _followed(value, place)


def _count(codes: NDArray[Any]) -> int:
    """Non-zeros, those of a broadcast array without reading an element twice."""
    compact = _compact(codes)
    return int(np.count_nonzero(compact)) * (codes.size // max(compact.size, 1))


def _compact(codes: NDArray[Any]) -> NDArray[Any]:
    """The array without the repetitions of a broadcast, which have one element an axis instead."""
    if 0 not in codes.strides:
        return codes
    return codes[tuple(slice(None if stride else 1) for stride in codes.strides)]


def _differs(
    codes: NDArray[Any], zero_points: ir.Value | None, axis: int, block_size: int = 0
) -> NDArray[Any] | None:
    """Where codes differ from their zero point; the codes themselves where that is zero."""
    zeros = constant_codes(zero_points)
    if zeros is None or not zeros.any():
        return codes
    return _combined(np.not_equal, codes, _fitting(zeros, codes.shape, axis, block_size))


def _quantized(values: NDArray[Any], node: ir.Node) -> NDArray[Any] | None:
    """The codes that a QuantizeLinear makes: the zero point where the values are zero."""
    layout = values.shape, _axis(node), _block_size(node)
    scales = constant_codes(node.inputs[1])
    codes: NDArray[Any] | None = values
    if scales is None:
        codes = values != 0  # a zero alone is known to stay one
    elif values.dtype != np.bool_:
        fitting = _fitting(scales, *layout)
        codes = _combined(lambda value, scale: np.rint(value / scale), values, fitting)
    zeros = constant_codes(input_at(node, 2))
    if codes is None or zeros is None or zeros.dtype.kind not in "iu" or not zeros.any():
        return codes
    return _combined(_around, codes, _fitting(zeros, *layout))


def _around(codes: NDArray[Any], zeros: NDArray[Any]) -> NDArray[Any]:
    """Codes around a zero point, in its type; a mask becomes codes that differ from it."""
    shifted: NDArray[Any] = codes + zeros
    if codes.dtype == np.bool_:
        return shifted
    limits = np.iinfo(zeros.dtype)
    with np.errstate(invalid="ignore"):  # NaN has no code
        return np.asarray(np.clip(shifted, limits.min, limits.max).astype(zeros.dtype))


def _combined(
    operation: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]],
    codes: NDArray[Any],
    factors: NDArray[Any],
) -> NDArray[Any] | None:
    """An elementwise operation that repeats nothing; None where it makes too much of a little."""
    compact = _compact(codes)
    elements = prod(np.broadcast_shapes(compact.shape, factors.shape))
    if elements > max(compact.size, LARGEST_ELEMENTS):
        return None
    return np.broadcast_to(operation(compact, factors), codes.shape)


def _fitting(
    factors: NDArray[Any], shape: tuple[int, ...], axis: int, block_size: int
) -> NDArray[Any]:
    """Scales or zero points so that they broadcast to the shape of what they are for.

    There is one in all, one for each place along the axis, or one for each block of the axis; a
    DynamicQuantizeLSTM has one for each direction and gate.
    """
    rank = len(shape)
    fitting = factors
    if factors.size == 1:
        return factors.reshape(())
    if block_size > 0 and factors.ndim == rank and -rank <= axis < rank:
        longest = min(block_size, shape[axis])
        fitting = np.repeat(factors, longest, axis)[tuple(map(slice, shape))]
    elif factors.ndim == 1 and -rank <= axis < rank:
        fitting = factors.reshape([-1 if i == axis % rank else 1 for i in range(rank)])
    elif factors.ndim == rank - 1:
        fitting = np.expand_dims(factors, -2)
    try:
        np.broadcast_to(fitting, shape)
    except ValueError as error:
        raise ModelFileError(
            f"scales or zero points of shape {list(factors.shape)} do not fit a tensor of shape "
            f"{list(shape)}"
        ) from error
    return fitting


def _reshaped(codes: NDArray[Any], node: ir.Node, value: ir.Value) -> NDArray[Any] | None:
    """None where the operator and its input do not fit."""
    try:
        if operator(node) == "Transpose":
            permutation = node.attributes.get("perm")
            return codes.transpose(permutation.as_ints() if permutation is not None else None)
        shape = static_shape(value)
        if shape is None or shape == codes.shape:
            return codes
        copies = _compact(codes).size not in (1, codes.size)
        return None if copies and codes.size > LARGEST_ELEMENTS else codes.reshape(shape)
    except ValueError:
        return None


def _axis(node: ir.Node) -> int:
    attribute = node.attributes.get("axis")
    return 1 if attribute is None else attribute.as_int()


def _block_size(node: ir.Node) -> int:
    attribute = node.attributes.get("block_size")
    return 0 if attribute is None else attribute.as_int()
