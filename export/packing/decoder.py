"""The nodes that rebuild dense tensors from bits and codes.

An N-bit field of a byte stream `s` uint8 [B], for N = 1, 2, 4, is looked up: row `s[i]` of the
table `[0 ... 255] / [2^(8-N), ..., 2^N, 1] mod 2^N`; wider codes are sums of such fields. With bits
b of the mask, element i is `values[cumsum(b)[i] * b[i]]`, where `values[0]` is zero; a mask of many
zero bytes is itself stored so, with a mask of its own. One Split parts the result of a blob into
its tensors, and each one of more than one axis gets its shape from a Reshape that carries its name.

All operators are standard from opset 13 on, and of a kind that onnxruntime computes once, at load:
forms with NonZero or ScatterND stay in its graph. BitShift would do, but OpenVINO computes it wrong
where it is part of a larger graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
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
# The protobuf of the nodes that rebuild a mask from another one.
_MASK_DECODER_BYTES = 200
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

    @cached_property
    def nonzero(self) -> NDArray[np.bool_]:
        """Where an element of the tensors, one after another, is kept by the mask."""
        return np.concatenate([tensor.nonzero for tensor in self.tensors])

    @cached_property
    def masks_its_mask(self) -> bool:
        """Whether so many bytes of the mask are zero that a mask of them pays."""
        mask = np.packbits(self.nonzero)
        saved = np.count_nonzero(mask == 0) - len(mask) // 8
        return self.storage.masked and bool(saved > _MASK_DECODER_BYTES)

    @property
    def filling(self) -> int:
        """Elements that decoding gives beyond those of the tensors."""
        if not self.storage.masked and not self.storage.code_bits:
            return 0
        count = sum(tensor.array.size for tensor in self.tensors)
        return -count % (64 if self.masks_its_mask else 8)


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
        dense = np.concatenate([np.zeros(1, dense.dtype), dense[blob.nonzero]])
    stored = [b.stored(stream) for stream in _streams(blob, dense)]
    flat = _decoded(b, blob, stored, functions)
    sizes = [tensor.array.size for tensor in blob.tensors]
    pieces = _parted(b, flat, sizes, blob.filling)
    shapes = _reshapes([tensor.shape for tensor in blob.tensors])
    for index, (tensor, piece) in enumerate(zip(blob.tensors, pieces, strict=False)):
        values = b.add("Gather", books[index], piece) if books else piece
        _take_place(b, tensor, values, shapes[index])


def _streams(blob: Blob, dense: NDArray[Any]) -> list[NDArray[Any]]:
    """What the file stores."""
    streams: list[NDArray[Any]] = []
    if blob.storage.masked:
        streams.append(np.packbits(blob.nonzero))
    if blob.masks_its_mask:
        mask = streams.pop()
        mask = np.pad(mask, (0, -len(mask) % 8))
        streams += [np.packbits(mask != 0), np.append(np.uint8(0), mask[mask != 0])]
    if blob.storage.code_bits:
        return streams + pack_codes(dense, blob.storage.code_bits)
    return [*streams, dense]


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
    blob: Blob,
    stored: Sequence[ir.Value],
    functions: dict[str, ir.Function] | None,
) -> ir.Value:
    storage, masks = blob.storage, blob.storage.masked + blob.masks_its_mask
    if not storage.masked and not storage.code_bits:
        return stored[0]
    if functions is None:
        return _body(b, storage, stored, masks)
    name = f"unpack_{storage}".replace("+", "_").replace("mask", "mask" * masks)
    if name not in functions:
        functions[name] = _function(name, storage, len(stored), masks)
    return b.add(name, *stored, domain=FUNCTION_DOMAIN)


def _function(name: str, storage: Storage, inputs: int, masks: int) -> ir.Function:
    b = Builder("", in_function=True)
    names = [*("mask_of_mask", "mask")[2 - masks :], "codes" if storage.code_bits else "values"]
    names += [f"codes_{index}" for index in range(2, inputs - masks + 1)]
    values = [ir.Value(name=name) for name in names]
    output = _body(b, storage, values, masks)
    output.name = "dense"
    graph = ir.Graph(values, [output], nodes=b.nodes, opset_imports={"": MIN_OPSET}, name=name)
    return ir.Function(FUNCTION_DOMAIN, name, graph=graph, attributes={})


def _body(b: Builder, storage: Storage, stored: Sequence[ir.Value], masks: int) -> ir.Value:
    index = None
    if masks:
        table = _table(b, 1)
        mask, *others = stored[:masks]
        for kept in others:
            mask = b.add("GatherElements", kept, _index(b, table, mask))
        stored = stored[masks:]
        index = _index(b, table, mask)
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


def _index(b: Builder, table: ir.Value, mask: ir.Value) -> ir.Value:
    """Where each element is among those that are kept, from 1; 0 for what is not."""
    bits = _fields(b, table, mask)
    ordinal = b.add("CumSum", bits, b.constant(np.array(0, np.int32)))
    return b.add("Mul", ordinal, bits)


def _codes(b: Builder, streams: Sequence[ir.Value], width: int) -> ir.Value:
    if width == 8:
        return b.add("Cast", streams[0], to=_INT32)
    total: ir.Value | None = None
    for bits, stream in zip(_parts(width), streams, strict=True):
        field = _fields(b, _table(b, bits), stream)
        if total is None:
            total = field
        else:
            scaled = b.add("Mul", total, b.constant(np.array([1 << bits], np.int32)))
            total = b.add("Add", scaled, field)
    assert total is not None
    return total


def _table(b: Builder, bits: int) -> ir.Value:
    """The fields of each byte, int32 [256, 8 / bits]."""
    size = b.constant(np.array(256, np.int32))
    first, step = b.constant(np.array(0, np.int32)), b.constant(np.array(1, np.int32))
    rows = b.add("Reshape", b.add("Range", first, size, step), b.constant(np.array([-1, 1])))
    shifted = b.add("Div", rows, b.constant(1 << _shifts(bits)))
    return b.add("Mod", shifted, b.constant(np.array([1 << bits], np.int32)))


def _fields(b: Builder, table: ir.Value, stream: ir.Value) -> ir.Value:
    """The fields of a stream, one after another: a row of the table for each byte."""
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
