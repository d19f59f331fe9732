"""Shapes of every value, as ONNX infers them, without leaving notes in the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

# One entry an axis: its size, the name of a dynamic size, or None where nothing is known.
Dims = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Inferred:
    """What is known of a value before the model runs: its shape and type, None where unknown."""

    dims: Dims | None
    dtype: ir.DataType | None


def infer(model: ir.Model) -> dict[ir.Value, Inferred]:
    """Shapes and types of the main graph's values."""
    with _notes_restored(model.graph):
        ShapeInferencePass(check_type=False, strict_mode=False)(model)
        return {value: Inferred(_dims(value.shape), value.dtype) for value in _values(model.graph)}


def _dims(shape: ir.Shape | None) -> Dims | None:
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)


@contextmanager
def _notes_restored(graph: ir.Graph) -> Iterator[None]:
    """Put back shapes, types and the order of initializers, all of which inference changes."""
    notes = [(value, value.shape, value.type) for value in _values(graph)]
    constants = list(graph.initializers.values())
    try:
        yield
    finally:
        for value, shape, type_ in notes:
            value.shape, value.type = shape, type_
        graph.initializers.clear()
        for value in constants:
            graph.initializers.add(value)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs
