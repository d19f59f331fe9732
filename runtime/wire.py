"""Large tensors of an ONNX file, told apart from the rest without holding either twice.

An ONNX file is one protobuf message, ModelProto. Read as a whole it is held as bytes, as a message,
and once more by whatever checks it. So tensors are left out: the fields of the message are walked
by their lengths alone (https://protobuf.dev/programming-guides/encoding/), the bytes of large
initializers stay where they are, and what remains is a small message.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, Protocol

import onnx

# Bytes; below, leaving a tensor out costs more than it saves.
SMALLEST_PLACED = 1024

_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5
_TENSOR_TYPE, _TENSOR_RAW_DATA = 2, 9
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


class UnusualMessageError(Exception):
    """The message is damaged, or written in a way that this module does not follow."""


@dataclass(frozen=True)
class Parted:
    """A ModelProto in two.

    Attributes:
        skeleton: The message without the data of its large initializers.
        places: Where that data lies in the file, by the initializer's index: first byte, last + 1.
    """

    skeleton: bytes
    places: dict[int, tuple[int, int]]


class Writable(Protocol):
    """A tensor that can write its bytes."""

    @property
    def nbytes(self) -> int:
        """Bytes that `tofile` writes."""

    def tofile(self, file: BinaryIO) -> None:
        """Write the tensor's bytes, little-endian."""


class _Field(NamedTuple):
    number: int
    wire_type: int
    tag_at: int
    start: int
    stop: int


def part(data: memoryview, types: Collection[int]) -> Parted:
    """Tell the large initializers of the main graph from the rest.

    Args:
        data: A ModelProto.
        types: The ONNX element types that may be left out.

    Raises:
        UnusualMessageError: the message is damaged, or its graph comes in pieces.
    """
    fields = list(_fields(data, 0, len(data)))
    graphs = [field for field in fields if field.number == _MODEL_GRAPH]
    if len(graphs) != 1 or graphs[0].wire_type != _BYTES:
        raise UnusualMessageError
    graph, places = graphs[0], {}
    pieces: list[memoryview | bytes] = []
    copied = graph.start
    initializers = (
        field
        for field in _fields(data, graph.start, graph.stop)
        if field.number == _GRAPH_INITIALIZER
    )
    for index, tensor in enumerate(initializers):
        if tensor.stop - tensor.start < SMALLEST_PLACED:
            continue
        raw = _raw_data(data, tensor, types)
        if raw is None:
            continue
        places[index] = (raw.start, raw.stop)
        rest = tensor.stop - raw.stop + raw.tag_at - tensor.start
        head = _tag(_GRAPH_INITIALIZER) + _varint(rest)
        pieces += [data[copied : tensor.tag_at], head, data[tensor.start : raw.tag_at]]
        copied = raw.stop
    pieces.append(data[copied : graph.stop])
    size = sum(len(piece) for piece in pieces)
    head = _tag(_MODEL_GRAPH) + _varint(size)
    parts = [data[: graph.tag_at], head, *pieces, data[graph.stop :]]
    return Parted(b"".join(parts), places)


def write(file: BinaryIO, model: onnx.ModelProto, tensors: Mapping[int, Writable]) -> None:
    """Write a model, and the data of some of its initializers from where it is.

    Args:
        file: Takes the bytes.
        model: The message; its graph's initializers are gone afterwards.
        tensors: The data of initializers that have none in the message, by their index.
    """
    initializers = []
    size = 0
    for index, tensor in enumerate(model.graph.initializer):
        data = tensors.get(index)
        if data is not None:
            tensor.ClearField("raw_data")
        message = tensor.SerializeToString()
        if data is not None:
            message += _tag(_TENSOR_RAW_DATA) + _varint(data.nbytes)
        length = len(message) + (data.nbytes if data is not None else 0)
        head = _tag(_GRAPH_INITIALIZER) + _varint(length)
        initializers.append((head + message, data))
        size += len(head) + length
    del model.graph.initializer[:]
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    file.write(model.SerializeToString())
    file.write(_tag(_MODEL_GRAPH) + _varint(len(graph) + size) + graph)
    for message, data in initializers:
        file.write(message)
        if data is not None:
            data.tofile(file)


def _raw_data(data: memoryview, tensor: _Field, types: Collection[int]) -> _Field | None:
    """The data of a tensor, where it has one of these types and holds its data as bytes."""
    raw, element_type = None, 0
    for field in _fields(data, tensor.start, tensor.stop):
        if field.number == _TENSOR_RAW_DATA and field.wire_type == _BYTES:
            raw = field
        elif field.number == _TENSOR_TYPE:
            element_type = _read_varint(data, field.start)[0]
    return raw if element_type in types else None


def _fields(data: memoryview, start: int, stop: int) -> Iterator[_Field]:
    at = start
    while at < stop:
        tag_at = at
        key, at = _read_varint(data, at)
        wire_type = key & 7
        if wire_type == _BYTES:
            length, at = _read_varint(data, at)
            end = at + length
        elif wire_type == _VARINT:
            end = _read_varint(data, at)[1]
        elif wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
            end = at + (8 if wire_type == _EIGHT_BYTES else 4)
        else:
            raise UnusualMessageError
        if end > stop:
            raise UnusualMessageError
        yield _Field(key >> 3, wire_type, tag_at, at, end)
        at = end


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """An integer in groups of seven bits, lowest first, and where it ends."""
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise UnusualMessageError


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _tag(number: int) -> bytes:
    return _varint(number << 3 | _BYTES)
