"""Whether passes keep what a model computes: one of them, the same again, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from edgekit.export.graph import to_proto
from edgekit.export.passes.table import PASSES
from edgekit.export.passes.turn_batch_norm_into_threshold import TurnBatchNormIntoThreshold
from edgekit.export.quiet import quiet
from edgekit.export.verify import largest_difference, random_inputs
from edgekit.runtime.session import open_session

Factory = Callable[[], ir.passes.PassBase]
Arrays = dict[str, NDArray[Any]]

LARGEST_ERROR = 1e-4
# The roundings of float32 move an output by less than this in a network worth comparing.
_WELL_CONDITIONED = 2e-6

ALL: dict[str, Factory] = {name: entry.factory for name, entry in PASSES.items()} | {
    "turn-batch-norm-into-threshold (all)": lambda: TurnBatchNormIntoThreshold("threshold"),
}


class BrokenError(AssertionError):
    """A pass did what it must not; the message says what."""


@dataclass
class Trial:
    """A model, and what it computes on some inputs.

    Attributes:
        data: The model.
        feeds: Inputs of a few runs; where a caller may replace an initializer, one run does.
        reference: The outputs of all runs.
    """

    data: bytes
    feeds: list[Arrays]
    reference: Arrays
    _loaded: tuple[bytes, ir.Model, list[object]] | None = None
    _errors: dict[bytes, float] = field(default_factory=dict)

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> Trial | None:
        """A trial of a network; None where its outputs mean nothing: zeros, or rounding alone."""
        model = ir.from_proto(proto)
        feeds = list(_feeds(model))
        data = proto.SerializeToString(deterministic=True)
        reference = _outputs(data, feeds)
        if not all(1e-3 < np.abs(output).max() < 1e6 for output in reference.values()):
            return None
        moved = _outputs(_rounded(proto).SerializeToString(), feeds)
        if largest_difference(reference, moved) > _WELL_CONDITIONED:
            return None
        return cls(data, feeds, reference)

    def after(self, data: bytes, name: str, factory: Factory) -> bytes:
        """A model after a pass: the same bytes where the pass changed nothing.

        Raises:
            BrokenError: the pass fails, or changed the model and does not say so.
        """
        model, before = self._model(data)
        try:
            with quiet():
                modified = factory()(model).modified
        except Exception as error:
            raise BrokenError(f"{name} fails: {error.__cause__ or error}") from error
        if modified:
            self._loaded = None
            return to_proto(model).SerializeToString(deterministic=True)
        if content(model) != before:
            raise BrokenError(f"{name} changed the model and does not say so")
        return data

    def error(self, data: bytes, names: str) -> float:
        """The largest error of the outputs of a model that was made of the first one.

        Raises:
            BrokenError: it is not valid, or has other inputs, defaults or outputs.
        """
        if data not in self._errors:
            self._errors[data] = self._measured(data, names)
        return self._errors[data]

    def _model(self, data: bytes) -> tuple[ir.Model, list[object]]:
        """The model in memory and its content; a pass that changes nothing leaves both."""
        if self._loaded is None or self._loaded[0] is not data:
            model = ir.from_proto(onnx.load_from_string(data))
            self._loaded = data, model, content(model)
        return self._loaded[1:]

    def _measured(self, data: bytes, names: str) -> float:
        before, after = onnx.load_from_string(self.data), onnx.load_from_string(data)
        try:
            onnx.checker.check_model(after, full_check=True)
            outputs = _outputs(data, self.feeds)
        except Exception as error:
            raise BrokenError(f"{names}: the model is not valid: {error}") from error
        if _signature(before) != _signature(after):
            raise BrokenError(f"{names}: the signature changed")
        return largest_difference(self.reference, outputs)


def content(model: ir.Model) -> list[object]:
    """The nodes and initializers of a model, without the shapes that are noted beside them."""
    # serialize_node, since ir.to_proto first asks a node for every protocol there is, at length.
    serialize = ir.serde.serialize_node
    nodes = [serialize(node).SerializeToString(deterministic=True) for node in model.graph]
    stored = [(name, id(value.const_value)) for name, value in model.graph.initializers.items()]
    return [*nodes, *stored]


def _signature(proto: onnx.ModelProto) -> list[bytes]:
    graph = proto.graph
    entries = {value.name for value in graph.input}
    defaults = [tensor for tensor in graph.initializer if tensor.name in entries]
    values = (*graph.input, *graph.output, *sorted(defaults, key=lambda tensor: tensor.name))
    return [value.SerializeToString(deterministic=True) for value in values]


def _feeds(model: ir.Model) -> Iterator[Arrays]:
    """Random inputs with the defaults, and once with other numbers in the place of defaults."""
    inputs = random_inputs(model)
    yield inputs
    random = np.random.default_rng(1)
    defaults = {
        str(value.name): value.const_value.numpy()
        for value in model.graph.inputs
        if value.const_value is not None
    }
    if defaults:
        yield inputs | {
            name: (array * random.uniform(0.5, 2, array.shape)).astype(array.dtype)
            for name, array in defaults.items()
        }


def _outputs(data: bytes, feeds: list[Arrays]) -> Arrays:
    session: ort.InferenceSession = open_session(data, optimize=False)
    names = [output.name for output in session.get_outputs()]
    return {
        f"{name} of run {number}": output
        for number, feed in enumerate(feeds)
        for name, output in zip(names, session.run(names, feed), strict=True)
    }


def _rounded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with each weight moved by one rounding."""
    moved = onnx.ModelProto()
    moved.CopyFrom(proto)
    random = np.random.default_rng(2)
    for tensor in moved.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor)
            sign = random.choice(np.array([-1, 1], np.float32), array.shape) * np.float32(np.inf)
            next_to = np.where(array == 0, array, np.nextafter(array, sign))
            tensor.CopyFrom(onnx.numpy_helper.from_array(next_to, tensor.name))
    return moved
