"""The one door through which .onnx files come in and go out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.files import replace_atomically

PROTOBUF_LIMIT_BYTES = 2**31

_SUB_BYTE_BITS: dict[int, int] = {
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.FLOAT4E2M1: 4,
    onnx.TensorProto.INT2: 2,
    onnx.TensorProto.UINT2: 2,
}


def read_model(path: Path) -> onnx.ModelProto:
    """Read and validate an ONNX file; external tensors are checked but not loaded.

    Args:
        path: An .onnx file; external data must lie in its folder or below.

    Raises:
        ModelFileError: the file is missing, empty, too large, not ONNX, breaks the ONNX rules, or
            its external data is missing, too short or outside the model's folder.
    """
    model = _parse(path)
    if not model.HasField("graph") or not model.graph.output:
        raise ModelFileError(f"{path}: not an ONNX model (no graph with outputs in it)")
    for tensor in _all_tensors(model):
        _check_size(tensor, path)
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{path}: breaks the ONNX rules: {reason}") from error
    return model


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, with all tensors in it, whole or not at all; an existing file is replaced.

    Raises:
        OutputError: the target cannot be written.
    """
    with replace_atomically(path) as staged:
        staged.write_bytes(model.SerializeToString(deterministic=True))


def model_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """The files that a model consists of: itself first, then its external data."""
    locations = {
        _external(tensor)["location"]
        for tensor in _all_tensors(model)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    return [path, *(path.parent / location for location in sorted(locations))]


def _parse(path: Path) -> onnx.ModelProto:
    if not path.exists():
        raise ModelFileError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise ModelFileError(f"{path}: is a folder, not an .onnx file")
    size = path.stat().st_size
    if size == 0:
        raise ModelFileError(f"{path}: the file is empty; write the model again")
    if size >= PROTOBUF_LIMIT_BYTES:
        raise ModelFileError(
            f"{path}: {size / 2**30:.1f} GiB in one file; ONNX holds at most 2 GiB, save the model "
            "with external data"
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelFileError(f"{path}: not an ONNX file, or cut short; write it again") from error
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
    return model


def _all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a model's graph and functions."""
    yield from _tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            for subgraph in attribute.graphs:
                yield from _tensors(subgraph)


def _check_size(tensor: onnx.TensorProto, path: Path) -> None:
    if any(dim < 0 for dim in tensor.dims):
        raise ModelFileError(f"{path}: tensor {tensor.name!r} has a negative dimension")
    expected = _byte_count(tensor)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, path, expected)
    elif tensor.HasField("raw_data") and expected is not None and len(tensor.raw_data) != expected:
        raise ModelFileError(
            f"{path}: tensor {tensor.name!r} holds {len(tensor.raw_data)} bytes where its shape "
            f"{list(tensor.dims)} needs {expected}; the file is damaged"
        )


def _byte_count(tensor: onnx.TensorProto) -> int | None:
    """Bytes of a tensor's raw data; None for strings and for types this release does not know."""
    elements = math.prod(int(dim) for dim in tensor.dims)
    if bits := _SUB_BYTE_BITS.get(tensor.data_type):
        return (elements * bits + 7) // 8
    if tensor.data_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
        return None
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError:
        return None
    return elements * int(dtype.itemsize)


def _external(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _check_external(tensor: onnx.TensorProto, path: Path, expected: int | None) -> None:
    entries = _external(tensor)
    location = entries.get("location", "")
    folder = path.parent.resolve()
    target = (folder / location).resolve()
    if not location or not target.is_relative_to(folder):
        raise ModelFileError(
            f"{path}: tensor {tensor.name!r} keeps its data at {location!r}, outside the model's "
            "folder; edgekit reads external data from that folder alone"
        )
    if not target.is_file():
        raise ModelFileError(
            f"{path}: its external data file {location!r} is missing; put it beside the model"
        )
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", expected or 0))
    except ValueError as error:
        raise ModelFileError(f"{path}: tensor {tensor.name!r} has a damaged data entry") from error
    fits = offset >= 0 and length >= 0 and offset + length <= target.stat().st_size
    if not fits or (expected is not None and length != expected):
        raise ModelFileError(
            f"{path}: external data {location!r} is too short for tensor {tensor.name!r}; copy the "
            "file again"
        )
