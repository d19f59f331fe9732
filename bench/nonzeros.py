"""Which elements of a constant are zero, as the operator that uses it sees them.

A weight may reach its operator through DequantizeLinear, QuantizeLinear, Cast and operators that
only reshape. `constant_codes` follows that path; what it returns is zero exactly where the weight
is. A quantized weight is zero where it equals its zero point.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.bench import n_bits
from edgekit.bench.shapes import operator, static_shape
from edgekit.bench.weights import (
    CASTS,
    NONZERO,
    RESHAPES,
    StoredTensor,
    input_at,
    is_n_bits,
    stored_tensor,
)

# Zero points of operators that take integer weights: weight input -> (zero point input, axis).
ZERO_POINTS: dict[str, dict[int, tuple[int, int]]] = {
    "ConvInteger": {1: (3, 0)},
    "MatMulInteger": {0: (2, -2), 1: (3, -1)},
    "QLinearConv": {3: (5, 0)},
    "QLinearMatMul": {0: (2, -2), 3: (5, -1)},
    "com.microsoft.DynamicQuantizeMatMul": {1: (3, -1)},
    "com.microsoft.MatMulIntegerToFloat": {1: (5, -1)},
    "com.microsoft.QLinearAdd": {0: (2, -1), 3: (5, -1)},
    "com.microsoft.QLinearConv": {3: (5, 0)},
    "com.microsoft.QLinearMul": {0: (2, -1), 3: (5, -1)},
}


def constant_codes(value: ir.Value | None) -> NDArray[Any] | None:
    """A constant that is zero exactly where `value` is, of its shape; None if it is no constant."""
    if value is None:
        return None
    stored = stored_tensor(value)
    if stored is not None:
        return None if stored.dtype == ir.DataType.STRING else stored.array()
    node = value.producer()
    if node is None or not node.inputs:
        return None
    name = operator(node)
    if name not in RESHAPES | CASTS and name not in ("DequantizeLinear", "QuantizeLinear"):
        return None
    codes = constant_codes(node.inputs[0])
    if codes is None or name in CASTS:
        return codes
    if name == "DequantizeLinear":
        return _differs(codes, input_at(node, 2), _axis(node), _block_size(node))
    if name == "QuantizeLinear":
        return _quantized(codes, node)
    return _reshaped(codes, node, value)


def count_nonzero(node: ir.Node, index: int) -> int | None:
    """Non-zero elements of a node's constant input; None if it is not constant.

    An integer weight is zero where it equals its zero point, of its channel if there are many.
    """
    value = node.inputs[index]
    if value is None:
        return None
    zero_point = ZERO_POINTS.get(operator(node), {}).get(index)
    if zero_point is None and value.const_value is not None:
        known = value.const_value.meta.get(NONZERO)
        if known is not None:
            return int(known)
    codes = constant_codes(value)
    if codes is None:
        return None
    if is_n_bits(node, index):
        points = constant_codes(input_at(node, n_bits.ZERO_POINTS))
        return n_bits.count_nonzero_codes(node, codes, points)
    if zero_point is not None:
        codes = _differs(codes, input_at(node, zero_point[0]), zero_point[1], 0)
    if codes.size and 0 in codes.strides and codes.strides == (0,) * codes.ndim:
        return codes.size if codes.flat[0] != 0 else 0
    return int(np.count_nonzero(codes))


def count_stored_nonzero(stored: StoredTensor, node: ir.Node | None, index: int) -> int:
    """Non-zero elements of a stored tensor, as a node that uses it sees them; None for no node."""
    if stored.filled:
        return stored.elements if stored.tensor.numpy().any() else 0
    if node is not None:
        used = node.inputs[index]
        nonzero = count_nonzero(node, index)
        whole = used is not None and nonzero is not None and _is_whole(stored, used)
        if whole and nonzero is not None:
            return nonzero
    return int(np.count_nonzero(stored.array()))


def _is_whole(stored: StoredTensor, used: ir.Value) -> bool:
    """Whether the value used is the stored tensor itself, not a part or a join of several."""
    value: ir.Value | None = used
    while value is not None:
        behind = stored_tensor(value)
        if behind is not None:
            return behind.key == stored.key
        node = value.producer()
        value = node.inputs[0] if node is not None and node.inputs else None
    return False


def _differs(
    codes: NDArray[Any], zero_point: ir.Value | None, axis: int, block_size: int
) -> NDArray[Any]:
    """Where codes differ from their zero point; the codes themselves where that is zero."""
    zeros = constant_codes(zero_point)
    if zeros is None or not zeros.any():
        return codes
    if zeros.size == 1:
        return np.asarray(codes != zeros.reshape(()))
    if block_size:
        zeros = np.repeat(zeros, block_size, axis)
        kept = tuple(slice(0, size) for size in codes.shape)
        return np.asarray(codes != zeros[kept])
    return np.asarray(codes != _along(zeros, codes.ndim, axis))


def _quantized(values: NDArray[Any], node: ir.Node) -> NDArray[Any]:
    scale = constant_codes(node.inputs[1])
    if scale is None:
        return values
    if scale.size > 1 and _block_size(node):
        scale = np.repeat(scale, _block_size(node), _axis(node))
        scale = scale[tuple(slice(0, size) for size in values.shape)]
    elif scale.size > 1:
        scale = _along(scale, values.ndim, _axis(node))
    return np.asarray(np.rint(values / scale))


def _along(vector: NDArray[Any], rank: int, axis: int) -> NDArray[Any]:
    if vector.ndim > 1:
        return vector
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)


def _reshaped(codes: NDArray[Any], node: ir.Node, value: ir.Value) -> NDArray[Any]:
    if operator(node) == "Transpose":
        permutation = node.attributes.get("perm")
        return codes.transpose(permutation.as_ints() if permutation is not None else None)
    shape = static_shape(value)
    return codes if shape is None else codes.reshape(shape)


def _axis(node: ir.Node) -> int:
    attribute = node.attributes.get("axis")
    return 1 if attribute is None else attribute.as_int()


def _block_size(node: ir.Node) -> int:
    attribute = node.attributes.get("block_size")
    return 0 if attribute is None else attribute.as_int()
