"""Sparse tensors of a file, which `onnx_ir` does not know.

They are read as ordinary tensors that remember how few values they store, so that every step can
use them and none loses them. What edgekit writes holds them dense.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper

from edgekit.runtime.errors import ModelFileError

# A few stored values can claim any shape; what is larger does not fit in a file of edgekit's.
LARGEST_DENSE_BYTES = 2_000_000_000


class SparseTensor(ir.LazyTensor):
    """A tensor whose file stores only some values; dense as soon as its values are read.

    Attributes:
        stored_bits: Bits of the values and indices in the file.
    """

    __slots__ = ("stored_bits",)

    def __init__(self, proto: onnx.SparseTensorProto, name: str) -> None:
        shape = tuple(int(dim) for dim in proto.dims)
        dtype = ir.DataType(proto.values.data_type)
        if any(dim < 0 for dim in shape):
            raise ModelFileError(f"sparse tensor {name!r} has a negative dimension")
        if prod(shape) * dtype.bitwidth > 8 * LARGEST_DENSE_BYTES:
            raise ModelFileError(
                f"sparse tensor {name!r} of shape {list(shape)} is larger than "
                f"{LARGEST_DENSE_BYTES:,} bytes when dense, more than edgekit reads"
            )
        for part in (proto.values, proto.indices):
            if part.data_location == onnx.TensorProto.EXTERNAL:
                raise ModelFileError(
                    f"sparse tensor {name!r} keeps its values in an external file, which edgekit "
                    "does not read: store them in the model"
                )
        try:
            values = numpy_helper.to_array(proto.values)
            indices = numpy_helper.to_array(proto.indices)
        except (TypeError, ValueError) as error:
            raise ModelFileError(f"sparse tensor {name!r} is damaged: {error}") from error
        places = _flat(indices, shape, name)
        if values.ndim != 1 or len(places) != len(values):
            raise ModelFileError(f"sparse tensor {name!r}: its indices do not fit its values")
        self.stored_bits = len(values) * dtype.bitwidth + indices.size * 64

        def dense() -> ir.TensorProtocol:
            array = np.zeros(prod(shape), values.dtype)
            array[places] = values
            return ir.tensor(array.reshape(shape), dtype, name=name)

        super().__init__(dense, dtype, ir.Shape(shape), name=name)


def take_sparse_tensors(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, SparseTensor]]:
    """Replace the sparse tensors of a graph by names that the graph does not define.

    Args:
        proto: A model; it is left as it is.

    Returns:
        A copy in which each sparse initializer, and each Constant with a sparse value, is an
        empty initializer of its name; and what belongs there. The model itself where it has none.

    Raises:
        ModelFileError: a sparse tensor is damaged, too large, in a function, or an attribute of
            another operator.
    """
    if not any(_has_sparse(graph) for graph in _graphs(proto)):
        return proto, {}
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    found: dict[str, SparseTensor] = {}
    for graph in _graphs(copy):
        _take(graph, found)
    return copy, found


def _take(graph: onnx.GraphProto | onnx.FunctionProto, found: dict[str, SparseTensor]) -> None:
    sparse = [(s.values.name, s) for s in getattr(graph, "sparse_initializer", ())]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                if node.op_type != "Constant" or isinstance(graph, onnx.FunctionProto):
                    raise ModelFileError(
                        f"node {node.name or node.output[0]!r} holds a sparse tensor where edgekit "
                        "does not read one: store it as a sparse initializer"
                    )
                sparse.append((node.output[0], attribute.sparse_tensor))
    taken = {name for name, _ in sparse}
    for name, tensor in sparse:
        if name in found:
            raise ModelFileError(f"two sparse tensors have the name {name!r}: rename one")
        found[name] = SparseTensor(tensor, name)
    if isinstance(graph, onnx.GraphProto):
        types = {name: tensor.values.data_type for name, tensor in sparse}
        graph.initializer.extend(
            onnx.TensorProto(name=name, data_type=types[name], dims=[0]) for name in types
        )
        del graph.sparse_initializer[:]
    kept = [n for n in graph.node if not (n.op_type == "Constant" and n.output[0] in taken)]
    if len(kept) < len(graph.node):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)


def put_sparse_tensors(model: ir.Model, found: dict[str, SparseTensor]) -> None:
    """Give the initializers that `take_sparse_tensors` emptied their values."""
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if name in found:
                value.const_value = found[name]
                value.shape, value.type = found[name].shape, ir.TensorType(found[name].dtype)


def _flat(indices: NDArray[Any], shape: tuple[int, ...], name: str) -> NDArray[np.int64]:
    """Positions in the flattened tensor, from [n] of the same or [n, rank] of coordinates."""
    try:
        if indices.ndim == 1:
            places = indices.astype(np.int64)
            if places.size and not (places.min() >= 0 and places.max() < prod(shape)):
                raise ValueError
            return places
        return np.asarray(np.ravel_multi_index(tuple(indices.T), shape), np.int64)
    except ValueError:
        raise ModelFileError(f"sparse tensor {name!r} has an index outside its shape") from None


def _has_sparse(graph: onnx.GraphProto | onnx.FunctionProto) -> bool:
    return bool(getattr(graph, "sparse_initializer", ())) or any(
        attribute.type == onnx.AttributeProto.SPARSE_TENSOR
        for node in graph.node
        for attribute in node.attribute
    )


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    yield from _with_bodies(proto.graph)
    for function in proto.functions:
        yield from _with_bodies(function)


def _with_bodies(
    graph: onnx.GraphProto | onnx.FunctionProto,
) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _with_bodies(attribute.g)
            for body in attribute.graphs:
                yield from _with_bodies(body)
