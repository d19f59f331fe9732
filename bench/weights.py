"""Stored tensors, wherever they live, and the types in which they are stored and multiplied.

A weight may be an initializer, a Constant or a ConstantOfShape, and reach its operator through
DequantizeLinear, QuantizeLinear, Cast and operators that only reshape.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
# Attributes of a Constant that list values, and the type of these.
_LISTED = {
    "value_float": ir.DataType.FLOAT,
    "value_floats": ir.DataType.FLOAT,
    "value_int": ir.DataType.INT64,
    "value_ints": ir.DataType.INT64,
}
# Key of a tensor's `meta` with a bit for each element, set if it is not zero, where the tensor is
# dear to compute.
NONZERO = "edgekit.nonzero"


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
        if self.dtype.is_integer() and self.dtype.bitwidth < 8:  # numpy's own are faster
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
        if name in _LISTED:  # the attribute, which copies of the node share, stands for its tensor
            tensor = ir.tensor(attribute.value, _LISTED[name])
            return replace(_stored(tensor), key=id(attribute))
    return None


def stored_elements(node: ir.Node, index: int) -> int:
    """Elements of a node's stored input, as the operator sees them."""
    if is_n_bits(node, index):
        rows, columns, _ = n_bits.n_bits_size(node)
        return rows * columns
    return prod(static_shape(node.inputs[index]) or (0,))


def element_bits(node: ir.Node, index: int) -> int | None:
    """Bits of an element that the operator unpacks itself; None where the tensor's type tells."""
    return n_bits.n_bits_size(node)[2] if is_n_bits(node, index) else None


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
        zero_point = input_at(node, 2)
        return ir.DataType.UINT8 if zero_point is None else value_type(zero_point)
    if dtype is None or dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING):
        return ir.DataType.FLOAT
    return dtype


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """An input of a node, from the end where the index is negative; None where it is left out."""
    count = len(node.inputs)
    return node.inputs[index] if -count <= index < count else None


def is_n_bits(node: ir.Node, index: int) -> bool:
    """Whether an input is a packed weight of MatMulNBits."""
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


def _unsigned(dtype: ir.DataType) -> bool:
    return dtype.name.startswith("UINT")
