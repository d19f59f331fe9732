"""The one door through which .onnx files come in and go out."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from edgekit.runtime import wire
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


_MAPPED_TYPES: dict[int, np.dtype[Any]] = {
    int(number): np.dtype(name).newbyteorder("<")
    for number, name in (
        (onnx.TensorProto.FLOAT, "f4"),
        (onnx.TensorProto.FLOAT16, "f2"),
        (onnx.TensorProto.DOUBLE, "f8"),
        (onnx.TensorProto.INT8, "i1"),
        (onnx.TensorProto.UINT8, "u1"),
        (onnx.TensorProto.INT16, "i2"),
        (onnx.TensorProto.UINT16, "u2"),
        (onnx.TensorProto.INT32, "i4"),
        (onnx.TensorProto.INT64, "i8"),
    )
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
    _check(model, path)
    return model


def map_model(path: Path) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """Read and validate an ONNX file as `read_model` does, but leave its large tensors in it.

    Returns:
        The model, whose large initializers hold no data, and their data by name: read-only arrays
        on the mapped file, which may be replaced meanwhile.

    Raises:
        ModelFileError: as `read_model`.
    """
    parted = _part(path)
    if parted is None:
        return read_model(path), {}
    data, skeleton, places = parted
    model = onnx.ModelProto()
    try:
        model.ParseFromString(skeleton)
    except DecodeError:
        return read_model(path), {}
    initializers = model.graph.initializer
    if any(initializers[index].data_location for index in places):
        return read_model(path), {}
    arrays = {}
    for index, (start, stop) in places.items():
        tensor = initializers[index]
        _check_dims(tensor, path)
        if stop - start != _byte_count(tensor):
            raise _wrong_size(tensor, stop - start, path)
        dtype = _MAPPED_TYPES[tensor.data_type]
        array: NDArray[Any] = np.frombuffer(data, dtype, (stop - start) // dtype.itemsize, start)
        arrays[tensor.name] = array.reshape(tuple(tensor.dims))
    _check(model, path, absent=places)
    return model, arrays


def _part(path: Path) -> tuple[mmap.mmap, bytes, dict[int, tuple[int, int]]] | None:
    """A mapped file, its message without large tensors, and their places; None if it has none."""
    if not path.is_file() or not wire.SMALLEST_PLACED < path.stat().st_size < PROTOBUF_LIMIT_BYTES:
        return None
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with memoryview(data) as view:
            parted = wire.part(view, _MAPPED_TYPES)
    except (OSError, wire.UnusualMessageError):
        return None
    return (data, parted.skeleton, parted.places) if parted.places else None


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, with all tensors in it, whole or not at all; an existing file is replaced.

    Raises:
        OutputError: the target cannot be written.
    """
    with replace_atomically(path) as staged:
        staged.write_bytes(model.SerializeToString(deterministic=True))


def write_parted(model: onnx.ModelProto, tensors: Mapping[int, wire.Writable], path: Path) -> None:
    """Write a model as `write_model` does, with tensors that are not in it.

    Args:
        model: The model; its initializers are gone afterwards.
        tensors: The data of those of its initializers that hold none, by their index.
        path: The file to write.

    Raises:
        OutputError: the target cannot be written.
    """
    with replace_atomically(path) as staged, staged.open("wb") as file:
        wire.write(file, model, tensors)


def model_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """The files that a model consists of: itself first, then its external data."""
    locations = {
        _external(tensor).get("location", "")
        for tensor in _all_tensors(model)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    return [path, *(path.parent / location for location in sorted(locations))]


def own_files(path: Path) -> list[Path]:
    """The files that must stay while a model is read: itself, then external data that it names.

    Large tensors are not read and nothing is checked: what is no model has no other files.
    """
    parted = _part(path)
    try:
        model = onnx.ModelProto.FromString(parted[1]) if parted else _parse(path)
    except (DecodeError, ModelFileError):
        return [path]
    return [path, *(file for file in model_files(model, path)[1:] if os.path.isfile(file))]


def disk_bytes(path: Path) -> int:
    """Size of a model on disk, external data included."""
    return sum(file.stat().st_size for file in own_files(path))


def _check(model: onnx.ModelProto, path: Path, absent: Iterable[int] = ()) -> None:
    """Check a model against its file and the ONNX rules.

    Args:
        model: The model.
        path: Its file.
        absent: Initializers whose data has been left out of the message, and checked.
    """
    if not model.HasField("graph") or not model.graph.output:
        raise ModelFileError(f"{path}: not an ONNX model (no graph with outputs in it)")
    for tensor in _all_tensors(model):
        _check_size(tensor, path)
    subject: onnx.ModelProto | str = str(path)
    if absent and not _has_external(model):
        subject = _emptied(model, absent)
    try:
        onnx.checker.check_model(subject)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{path}: breaks the ONNX rules: {reason}") from error


def _has_external(model: onnx.ModelProto) -> bool:
    return any(t.data_location == onnx.TensorProto.EXTERNAL for t in _all_tensors(model))


def _emptied(model: onnx.ModelProto, absent: Iterable[int]) -> onnx.ModelProto:
    """A copy in which tensors without data have no elements, as the rules want it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for index in absent:
        copy.graph.initializer[index].dims[:] = [0]
    return copy


def _parse(path: Path) -> onnx.ModelProto:
    if not path.exists():
        raise ModelFileError(f"{path}: no such file; check the path")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise ModelFileError(f"{path}: is {kind}; give an .onnx file")
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
    _check_dims(tensor, path)
    expected = _byte_count(tensor)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, path, expected)
    elif tensor.HasField("raw_data") and expected is not None and len(tensor.raw_data) != expected:
        raise _wrong_size(tensor, len(tensor.raw_data), path)


def _check_dims(tensor: onnx.TensorProto, path: Path) -> None:
    if any(dim < 0 for dim in tensor.dims):
        raise ModelFileError(f"{path}: tensor {tensor.name!r} has a negative dimension")


def _wrong_size(tensor: onnx.TensorProto, size: int, path: Path) -> ModelFileError:
    return ModelFileError(
        f"{path}: tensor {tensor.name!r} holds {size} bytes where its shape "
        f"{list(tensor.dims)} needs {_byte_count(tensor)}; the file is damaged"
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
    named = bool(location) and "\0" not in location
    target = (folder / location).resolve() if named else folder
    if not named or not target.is_relative_to(folder):
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
