"""Stored tensors, wherever they live, and which of their elements are zero.

A weight may be an initializer, a Constant or a ConstantOfShape, and reach its operator through
DequantizeLinear, QuantizeLinear, Cast and operators that only reshape. `constant_codes` follows
that path; what it returns is zero exactly where the weight is.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.bench import n_bits
from edgekit.bench.shapes import Shape, operator, static_shape, tensor_shape
from edgekit.export.sparse import SparseTensor

# Operators that hand their first input on with the same elements.
RESHAPES = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
CASTS = frozenset({"Cast", "CastLike"})
STORES = ("Constant", "ConstantOfShape")
# Key of a tensor's `meta` under which the number of its non-zeros is kept, if it is dear to count.
NONZERO = "edgekit.nonzero"
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


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that the file holds.

    Attributes:
        key: The same for two values that share one tensor.
        shape: Its shape; for a ConstantOfShape that of the output.
        dtype: Type of an element.
        tensor: The data; for a ConstantOfShape the one stored element.
        filled: It is a ConstantOfShape.
    """

    key: int
    shape: Shape
    dtype: ir.DataType
    tensor: ir.TensorProtocol
    filled: bool = False

    @property
    def elements(self) -> int:
        """Elements that the graph sees."""
        return prod(self.shape)

    @property
    def stored_bits(self) -> int:
        """Bits of the values in the file."""
        if isinstance(self.tensor, SparseTensor):
            return self.tensor.stored_bits
        return (1 if self.filled else self.elements) * self.dtype.bitwidth

    def array(self) -> NDArray[Any]:
        """The values, mapped or borrowed where they can be."""
        values = self.tensor.numpy()
        if self.dtype.bitwidth < 8:  # numpy's own integers compare and count faster
            values = values.astype(np.uint8 if _unsigned(self.dtype) else np.int8)
        return np.broadcast_to(values.reshape(()), self.shape) if self.filled else values


def stored_tensor(value: ir.Value) -> StoredTensor | None:
    """The tensor that stands behind a value, None where it is computed from others."""
    if value.const_value is not None:
        return _stored(value.const_value)
    node = value.producer()
    if node is None or operator(node) not in STORES:
        return None
    if operator(node) == "ConstantOfShape":
        return _filled(node, value)
    for name, attribute in node.attributes.items():
        if name == "value":
            return _stored(attribute.value)
        if name in ("value_float", "value_floats"):
            return _stored(ir.tensor(attribute.value, ir.DataType.FLOAT))
        if name in ("value_int", "value_ints"):
            return _stored(ir.tensor(attribute.value, ir.DataType.INT64))
    return None


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
        return _differs(codes, _input(node, 2), _axis(node), _block_size(node))
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
    if _is_n_bits(node, index):
        points = constant_codes(_input(node, n_bits.ZERO_POINTS))
        return n_bits.count_nonzero_codes(node, codes, points)
    if zero_point is not None:
        codes = _differs(codes, _input(node, zero_point[0]), zero_point[1], 0)
    if codes.size and 0 in codes.strides and codes.strides == (0,) * codes.ndim:
        return codes.size if codes.flat[0] != 0 else 0
    return int(np.count_nonzero(codes))


def stored_elements(node: ir.Node, index: int) -> int:
    """Elements of a node's stored input, as the operator sees them."""
    if _is_n_bits(node, index):
        rows, columns, _ = n_bits.n_bits_size(node)
        return rows * columns
    return prod(static_shape(node.inputs[index]) or (0,))


def element_bits(node: ir.Node, index: int) -> int | None:
    """Bits of an element that the operator unpacks itself; None where the tensor's type tells."""
    return n_bits.n_bits_size(node)[2] if _is_n_bits(node, index) else None


def storage_type(value: ir.Value | None) -> ir.DataType | None:
    """Type in which the file stores a constant operand; None where it is computed."""
    while value is not None:
        stored = stored_tensor(value)
        if stored is not None:
            return stored.dtype
        node = value.producer()
        if node is None or not node.inputs:
            return None
        if operator(node) not in RESHAPES | CASTS | {"DequantizeLinear", "QuantizeLinear"}:
            return None
        value = node.inputs[0]
    return None


def operand_type(value: ir.Value | None) -> ir.DataType:
    """Type in which an operand is multiplied; float32 where it is not known.

    Behind a DequantizeLinear that is the quantized type, since runtimes fuse it; behind a Cast it
    is the type cast to: half-precision storage is multiplied at 32 bits.
    """
    while value is not None:
        node = value.producer()
        name = operator(node) if node is not None else ""
        if node is None or name not in RESHAPES | {"DequantizeLinear"}:
            break
        value = node.inputs[0]
        if name == "DequantizeLinear":
            break
    return value_type(value)


def value_type(value: ir.Value | None) -> ir.DataType:
    """Type of a value; float32 where it is not known."""
    if value is None:
        return ir.DataType.FLOAT
    dtype = value.const_value.dtype if value.const_value is not None else value.dtype
    node = value.producer()
    if dtype is None and node is not None and operator(node) == "QuantizeLinear":
        zero_point = _input(node, 2)
        return ir.DataType.UINT8 if zero_point is None else value_type(zero_point)
    if dtype is None or dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING):
        return ir.DataType.FLOAT
    return dtype


def _is_n_bits(node: ir.Node, index: int) -> bool:
    return operator(node) == "com.microsoft.MatMulNBits" and index % len(node.inputs) == (
        n_bits.WEIGHT
    )


def _stored(tensor: ir.TensorProtocol) -> StoredTensor:
    return StoredTensor(id(tensor), tensor_shape(tensor), tensor.dtype, tensor)


def _filled(node: ir.Node, value: ir.Value) -> StoredTensor | None:
    shape = static_shape(value)
    if shape is None:
        return None
    attribute = node.attributes.get("value")
    tensor = ir.tensor([0.0], ir.DataType.FLOAT) if attribute is None else attribute.value
    key = id(node) if attribute is None else id(tensor)
    return StoredTensor(key, shape, tensor.dtype, tensor, filled=True)


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


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


def _unsigned(dtype: ir.DataType) -> bool:
    return dtype.name.startswith("UINT")
