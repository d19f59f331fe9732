"""The nodes that rebuild dense tensors from bits and codes.

An N-bit field of a byte stream `s` uint8 [B], for N = 1, 2, 4, is looked up: row `s[i]` of the
table `[0 ... 255] / [2^(8-N), ..., 2^N, 1] mod 2^N`; wider codes are sums of such fields. With bits
b of the mask, element i is `values[cumsum(b)[i] * b[i]]`, where `values[0]` is zero. One Split
parts the result of a blob into its tensors, and each one of more than one axis gets its shape from
a Reshape that carries its name.

All operators are standard from opset 13 on, and of a kind that onnxruntime computes once, at load:
forms with NonZero or ScatterND stay in its graph. BitShift would do, but OpenVINO computes it wrong
where it is part of a larger graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.packing.builder import Builder
from edgekit.export.packing.storage import Packable, Storage

MIN_OPSET = 13
FUNCTION_DOMAIN = "edgekit"

_INT32 = int(ir.DataType.INT32)
_FIELDS = (4, 2, 1)
# So many shapes are replaced by one with an open axis; an open axis takes ten bytes in the file.
_SHARED_SHAPES = 3

# Writes a decoder's nodes: given the streams, returns the flat tensor.
Body = Callable[[Builder, Sequence[ir.Value]], ir.Value]


@dataclass(frozen=True)
class Blob:
    """Tensors of one type that are stored together.

    Attributes:
        storage: How.
        tensors: Them, in order.
    """

    storage: Storage
    tensors: Sequence[Packable]


def write_blob(b: Builder, blob: Blob, functions: dict[str, ir.Function] | None) -> None:
    """Build the decoder of a blob, and let what read its tensors read the decoded ones.

    Args:
        b: Takes nodes and constants.
        blob: The tensors.
        functions: Where given, the bits and codes are decoded in a model-local function, which is
            added here by its name.
    """
    storage, dense = blob.storage, np.concatenate([t.array for t in blob.tensors])
    books: Sequence[ir.Value] = ()
    if storage.code_bits:
        coded = [tensor.codes(storage) for tensor in blob.tensors]
        dense = np.concatenate([codes for codes, _ in coded])
        books = _codebooks(b, storage, [book for _, book in coded])
    elif storage.masked:
        dense = np.concatenate([np.zeros(1, dense.dtype), dense[_nonzero(blob)]])
    streams, length = _streams(blob, dense)
    stored = [b.stored(stream) for stream in streams]
    flat = _decoded(b, storage, stored, functions)
    sizes = [tensor.array.size for tensor in blob.tensors]
    pieces = _parted(b, flat, sizes, length - sum(sizes))
    shapes = _reshapes([tensor.shape for tensor in blob.tensors])
    for index, (tensor, piece) in enumerate(zip(blob.tensors, pieces, strict=False)):
        values = b.add("Gather", books[index], piece) if books else piece
        _take_place(b, tensor, values, shapes[index])


def _nonzero(blob: Blob) -> NDArray[np.bool_]:
    return np.concatenate([tensor.nonzero for tensor in blob.tensors])


def _streams(blob: Blob, dense: NDArray[Any]) -> tuple[list[NDArray[Any]], int]:
    """What the file stores, and the elements that decoding gives, those that fill up included."""
    storage = blob.storage
    count = sum(tensor.array.size for tensor in blob.tensors)
    streams: list[NDArray[Any]] = []
    if storage.masked:
        streams.append(np.packbits(_nonzero(blob)))
    if storage.code_bits:
        streams += pack_codes(dense, storage.code_bits)
    else:
        streams.append(dense)
    padded = storage.masked or storage.code_bits
    return streams, count + (-count % 8 if padded else 0)


def pack_codes(codes: NDArray[np.uint8], width: int) -> list[NDArray[np.uint8]]:
    """Codes as byte streams uint8 [bytes] of fields, the highest bits of the codes first."""
    if width == 8:  # filled up like the others
        return [np.pad(codes, (0, -len(codes) % 8))]
    streams, left = [], width
    for bits in _parts(width):
        left -= bits
        field = (codes >> left) & ((1 << bits) - 1)
        rows = np.pad(field, (0, -len(field) % 8)).reshape(-1, 8 // bits)
        shifted = rows.astype(np.int32) << _shifts(bits)
        streams.append(shifted.sum(axis=1).astype(np.uint8))
    return streams


def _parts(width: int) -> list[int]:
    return [bits for bits in _FIELDS if width & bits]


def _shifts(bits: int) -> NDArray[np.int32]:
    return np.arange(8 - bits, -1, -bits, dtype=np.int32)


def _decoded(
    b: Builder,
    storage: Storage,
    stored: Sequence[ir.Value],
    functions: dict[str, ir.Function] | None,
) -> ir.Value:
    if not storage.masked and not storage.code_bits:
        return stored[0]
    if functions is None:
        return _body(b, storage, stored)
    name = f"unpack_{storage}".replace("+", "_")
    if name not in functions:
        functions[name] = _function(name, storage, len(stored))
    return b.add(name, *stored, domain=FUNCTION_DOMAIN)


def _function(name: str, storage: Storage, inputs: int) -> ir.Function:
    b = Builder("", in_function=True)
    names = ["mask"] * storage.masked + ["values" if not storage.code_bits else "codes"]
    names += [f"codes_{index}" for index in range(2, inputs - storage.masked + 1)]
    values = [ir.Value(name=name) for name in names]
    output = _body(b, storage, values)
    output.name = "dense"
    graph = ir.Graph(values, [output], nodes=b.nodes, opset_imports={"": MIN_OPSET}, name=name)
    return ir.Function(FUNCTION_DOMAIN, name, graph=graph, attributes={})


def _body(b: Builder, storage: Storage, stored: Sequence[ir.Value]) -> ir.Value:
    index = None
    if storage.masked:
        bits = _field(b, stored[0], 1)
        ordinal = b.add("CumSum", bits, b.constant(np.array(0, np.int32)))
        index, stored = b.add("Mul", ordinal, bits), stored[1:]
    if not storage.code_bits:
        assert index is not None  # else there is nothing to decode
        return b.add("GatherElements", stored[0], index)
    codes = _codes(b, stored, storage.code_bits)
    if index is None:
        return codes
    # Entry 0 of a codebook is zero, the code of what the mask leaves out.
    shifted = b.add("Add", codes, b.constant(np.array([1], np.int32)))
    sequence = b.add("Concat", b.constant(np.zeros(1, np.int32)), shifted, axis=0)
    return b.add("GatherElements", sequence, index)


def _codes(b: Builder, streams: Sequence[ir.Value], width: int) -> ir.Value:
    if width == 8:
        return b.add("Cast", streams[0], to=_INT32)
    total: ir.Value | None = None
    for bits, stream in zip(_parts(width), streams, strict=True):
        field = _field(b, stream, bits)
        if total is None:
            total = field
        else:
            scaled = b.add("Mul", total, b.constant(np.array([1 << bits], np.int32)))
            total = b.add("Add", scaled, field)
    assert total is not None
    return total


def _field(b: Builder, stream: ir.Value, bits: int) -> ir.Value:
    """The fields of a stream: a row of a table for each byte."""
    size = b.constant(np.array(256, np.int32))
    first, step = b.constant(np.array(0, np.int32)), b.constant(np.array(1, np.int32))
    rows = b.add("Reshape", b.add("Range", first, size, step), b.constant(np.array([-1, 1])))
    shifted = b.add("Div", rows, b.constant(1 << _shifts(bits)))
    table = b.add("Mod", shifted, b.constant(np.array([1 << bits], np.int32)))
    fields = b.add("Gather", table, b.add("Cast", stream, to=_INT32))
    return b.add("Reshape", fields, b.constant(np.array([-1])))


def _codebooks(b: Builder, storage: Storage, books: Sequence[NDArray[Any]]) -> Sequence[ir.Value]:
    if storage.masked:
        books = [np.concatenate([np.zeros(1, book.dtype), book]) for book in books]
    return _parted(b, b.stored(np.concatenate(books)), [len(book) for book in books], 0)


def _parted(b: Builder, flat: ir.Value, sizes: list[int], filling: int) -> Sequence[ir.Value]:
    sizes = [*sizes, filling] if filling else sizes
    if len(sizes) == 1:
        return [flat]
    return b.split("Split", [flat, b.constant(np.array(sizes))], len(sizes), axis=0)


def _reshapes(shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """What a Reshape needs for each shape: one with input channels left open serves several."""
    opened = [(*shape[:1], -1, *shape[2:]) for shape in shapes]
    served = Counter(open_shape for _, open_shape in set(zip(shapes, opened, strict=True)))
    return [
        open_shape if served[open_shape] >= _SHARED_SHAPES and 0 not in shape else shape
        for shape, open_shape in zip(shapes, opened, strict=True)
    ]


def _take_place(b: Builder, tensor: Packable, values: ir.Value, shape: tuple[int, ...]) -> None:
    if len(tensor.shape) != 1:
        values = b.add("Reshape", values, b.constant(np.array(shape)))
        b.nodes[-1].name = tensor.name
    graph = tensor.value.graph
    assert graph is not None
    tensor.value.replace_all_uses_with(values)
    graph.initializers.pop(tensor.name)
