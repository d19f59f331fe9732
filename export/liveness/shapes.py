"""Shapes of every value, as ONNX infers them, without leaving notes in the model."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from edgekit.export.graph import tensors_aside
from edgekit.export.quiet import quiet
from edgekit.runtime.errors import ModelFileError

# One entry an axis: its size, the name of a dynamic size, or None where nothing is known.
Dims = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Inferred:
    """What is known of a value before the model runs: its shape and type, None where unknown."""

    dims: Dims | None
    dtype: ir.DataType | None


def infer(model: ir.Model) -> dict[ir.Value, Inferred]:
    """Shapes and types of the main graph's values.

    ONNX is asked only where the model does not tell them all.
    """
    known = {value: Inferred(_dims(value.shape), value.dtype) for value in _values(model.graph)}
    if shapes_known(model.graph):
        return known
    found = _infer(model)
    return {
        value: _merged(inferred, found.get(str(value.name))) for value, inferred in known.items()
    }


def shapes_known(graph: ir.Graph) -> bool:
    """Whether every value has a type, and a shape whose axes are known but for the first's size."""
    return all(
        value.dtype is not None
        and value.shape is not None
        and all(isinstance(dim, int) for dim in value.shape[1:])
        and all(isinstance(dim, int) or dim.value is not None for dim in value.shape[:1])
        for value in _values(graph)
        if value.name
    )


def check_shapes(model: ir.Model) -> None:
    """Refuse a model that declares other shapes or types than its nodes compute.

    Raises:
        ModelFileError: it does.
    """
    try:
        onnx.shape_inference.infer_shapes(_skeleton(model), check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise ModelFileError(
            f"the model is not valid ONNX ({' '.join(str(error).split())}): "
            "declare the shapes and types that its nodes compute"
        ) from error


def _infer(model: ir.Model) -> dict[str, onnx.TypeProto.Tensor]:
    """What ONNX finds, by name; nothing where it fails."""
    try:
        with quiet():
            graph = onnx.shape_inference.infer_shapes(_skeleton(model), data_prop=True).graph
    except Exception:  # onnx raises bare ones, too
        return {}
    infos = (*graph.input, *graph.value_info, *graph.output)
    return {info.name: info.type.tensor_type for info in infos if info.type.HasField("tensor_type")}


def _skeleton(model: ir.Model) -> onnx.ModelProto:
    """The model without its large tensors, which protobuf need not hold."""
    with tensors_aside(model) as aside:
        proto = ir.to_proto(model)
    _declare(proto.graph, aside)
    return proto


def _declare(graph: onnx.GraphProto, absent: Collection[int]) -> None:
    """Turn initializers that hold no data into inputs."""
    inputs = {value.name for value in graph.input}
    tensors = list(graph.initializer)
    for index in absent:
        tensor = tensors[index]
        if tensor.name not in inputs:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    del graph.initializer[:]
    graph.initializer.extend(t for index, t in enumerate(tensors) if index not in absent)


def _merged(known: Inferred, found: onnx.TypeProto.Tensor | None) -> Inferred:
    if found is None:
        return known
    dims = known.dims
    if found.HasField("shape"):
        dims = tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in found.shape.dim
        )
    return Inferred(dims, ir.DataType(found.elem_type) if found.elem_type else known.dtype)


def _dims(shape: ir.Shape | None) -> Dims | None:
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs
