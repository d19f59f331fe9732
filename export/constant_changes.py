"""A model as another one with some constants changed, in the little room that takes in JSON."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.graph import from_proto, to_proto

Bytes = NDArray[np.uint8]


def constant_changes(before: ir.Model, after: ir.Model) -> dict[str, str]:
    """What `with_changes` makes `after` from: text for each constant that differs, by its name.

    Args:
        before: A model.
        after: The same nodes and constants, of the same types and shapes; values may differ.
    """
    changes = {}
    for name, value in after.graph.initializers.items():
        old, new = _bytes(before.graph.initializers[name]), _bytes(value)
        if not np.array_equal(old, new):
            changes[name] = to_text((old ^ new).tobytes())  # mostly zeros where little moved
    return changes


def with_changes(model: ir.Model, changes: Mapping[str, str]) -> ir.Model:
    """A copy of a model with constants changed.

    Raises:
        KeyError, ValueError: the changes are of another model.
    """
    result = from_proto(to_proto(model))
    for name, text in changes.items():
        value = result.graph.initializers[name]
        assert value.const_value is not None
        old = value.const_value.numpy()
        new = _bytes(value) ^ np.frombuffer(from_text(text, old.nbytes), np.uint8)
        value.const_value = ir.tensor(new.view(old.dtype).reshape(old.shape), name=name)
    return result


def to_text(content: bytes) -> str:
    """Bytes, compressed, in ASCII."""
    return base64.b64encode(zlib.compress(content)).decode("ascii")


def from_text(text: str, most: int) -> bytes:
    """The bytes that `to_text` was given, `most` at the most.

    Raises:
        ValueError: it was not given so many, or none.
    """
    reader = zlib.decompressobj()
    try:
        content = reader.decompress(base64.b64decode(text, validate=True), most + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(content) > most or not reader.eof:
        raise ValueError(f"not {most:,} bytes or fewer, compressed")
    return content


def _bytes(value: ir.Value) -> Bytes:
    assert value.const_value is not None
    return np.frombuffer(value.const_value.numpy().tobytes(), np.uint8)
