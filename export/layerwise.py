"""Run a quantized model one weighted layer at a time, all samples of each before the next.

Whoever walks it can change a layer's constants on the way: the layers behind see what the changed
layer gives. Every node runs once on every sample; in memory are the values that are still read,
for all samples at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from edgekit.export.calibration import Feed
from edgekit.runtime.session import open_session

LAYER_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# What the samples of a walk may take, all values that are alive at once.
MOST_BYTES = 256 * 1024**2

Batches = list[NDArray[Any]]


@dataclass
class Layer:
    """A weighted layer on all samples; its constants may be changed until the next is asked for.

    Attributes:
        node: The node in the model that is walked.
        inputs: Its data, batch by batch.
    """

    node: ir.Node
    inputs: Batches
    _walk: _Walk
    _outputs: Batches | None = field(default=None, init=False)

    @property
    def outputs(self) -> Batches:
        """What it gives with its constants as they are when first asked."""
        if self._outputs is None:
            self._outputs = self._walk.run_layer(self.node)
        return self._outputs

    def shift(self, delta: NDArray[np.float64]) -> None:
        """Add to the outputs what a change of the bias by `delta` [channels] adds."""
        for array in self.outputs:
            array += delta.astype(array.dtype).reshape(-1, *(1,) * (array.ndim - 2))


def walk_layers(model: ir.Model, feeds: Iterable[Feed]) -> Iterator[Layer]:
    """Each layer of `LAYER_OPS` whose weight is stored or dequantized from what is stored.

    Args:
        model: A model without subgraphs, in topological order; only constants of the current layer
            may be changed on the way.
        feeds: Samples; all of them are kept in memory.

    Raises:
        ModelFileError: onnxruntime cannot run the model.
    """
    walk = _Walk(model, [dict(feed) for feed in feeds])
    for node in walk.layers:
        data = node.inputs[0]
        assert data is not None
        walk.advance(node)
        layer = Layer(node, walk.values(str(data.name)), walk)
        yield layer
        walk.keep(str(node.outputs[0].name), layer.outputs)


def affordable(model: ir.Model, feeds: Sequence[Feed], most_bytes: int = MOST_BYTES) -> list[Feed]:
    """As many of the batches, from the first, as `walk_layers` can keep within `most_bytes`.

    A model of an open batch axis gets a part of the first batch where even that is too much.
    """
    first = feeds[0]
    samples = len(next(iter(first.values())))
    fixed = isinstance(_batch_axis(model), int)
    probe = first if fixed else {name: array[:1] for name, array in first.items()}
    walk = _Walk(model, [dict(probe)])
    for node in walk.layers:
        walk.advance(node)
        walk.keep(str(node.outputs[0].name), walk.run_layer(node))
    probed = samples if fixed else 1
    count = max(1, int(most_bytes // max(walk.peak_bytes, 1)) * probed)
    if count < samples and not fixed:
        return [{name: array[:count] for name, array in first.items()}]
    return list(feeds[: max(1, count // samples)])


def _batch_axis(model: ir.Model) -> object:
    entry = next(value for value in model.graph.inputs if not value.is_initializer())
    return entry.shape[0] if entry.shape is not None and len(entry.shape) else None


class _Walk:
    """The values that are alive between two layers, batch by batch."""

    def __init__(self, model: ir.Model, feeds: list[dict[str, NDArray[Any]]]) -> None:
        self._model = model
        self._nodes = list(model.graph)
        self._fixed = _fixed_nodes(self._nodes)
        self._alive = {name: [feed[name] for feed in feeds] for name in feeds[0]}
        self._position = 0
        self._last_read = {
            value: index
            for index, node in enumerate(self._nodes)
            for value in node.inputs
            if value is not None
        }
        self.peak_bytes = 0
        self.layers = [node for node in self._nodes if self._is_layer(node)]

    def _is_layer(self, node: ir.Node) -> bool:
        if node.op_type not in LAYER_OPS or node in self._fixed or len(node.inputs) < 2:
            return False
        weight = node.inputs[1]
        return weight is not None and (weight.is_initializer() or weight.producer() in self._fixed)

    def values(self, name: str) -> Batches:
        """A value that is alive."""
        return self._alive[name]

    def keep(self, name: str, batches: Batches) -> None:
        """Put a layer's outputs among the values that are alive, and forget what is done with."""
        self._alive[name] = batches
        self._position += 1
        self._forget()

    def advance(self, layer: ir.Node) -> None:
        """Run what stands before a layer."""
        end = self._nodes.index(layer, self._position)
        part = [n for n in self._nodes[self._position : end] if n not in self._fixed]
        self._position = end
        if part:
            results = [
                value
                for node in part
                for value in node.outputs
                if self._last_read.get(value, -1) >= end
            ]
            self._run(part, results)
        self._forget()

    def run_layer(self, node: ir.Node) -> Batches:
        """What a layer gives, with its constants as they are now."""
        session, names = self._session([node], [node.outputs[0]])
        count = len(next(iter(self._alive.values())))
        return [
            session.run(None, {name: self._alive[name][batch] for name in names})[0]
            for batch in range(count)
        ]

    def _run(self, part: Sequence[ir.Node], results: Sequence[ir.Value]) -> None:
        if not results:
            return
        session, names = self._session(part, results)
        made: list[Batches] = [[] for _ in results]
        for batch in range(len(next(iter(self._alive.values())))):
            arrays = session.run(None, {name: self._alive[name][batch] for name in names})
            for kept, array in zip(made, arrays, strict=True):
                kept.append(array)
        for value, batches in zip(results, made, strict=True):
            self._alive[str(value.name)] = batches

    def _forget(self) -> None:
        self.peak_bytes = max(
            self.peak_bytes, sum(array.nbytes for kept in self._alive.values() for array in kept)
        )
        read = {
            str(value.name) for value, index in self._last_read.items() if index >= self._position
        }
        self._alive = {name: kept for name, kept in self._alive.items() if name in read}

    def _session(
        self, part: Sequence[ir.Node], results: Sequence[ir.Value]
    ) -> tuple[ort.InferenceSession, list[str]]:
        """A session for some nodes and the constants that they read, and its inputs' names."""
        needed = [*self._behind(part), *part]
        made = {value for node in needed for value in node.outputs}
        read = dict.fromkeys(
            value
            for node in needed
            for value in node.inputs
            if value is not None and value not in made
        )
        stored = [value for value in read if value.is_initializer() and not value.is_graph_input()]
        names = [str(value.name) for value in read if str(value.name) in self._alive]
        inputs = [
            onnx.helper.make_tensor_value_info(
                name,
                onnx.helper.np_dtype_to_tensor_dtype(self._alive[name][0].dtype),
                [None] * self._alive[name][0].ndim,
            )
            for name in names
        ]
        graph = onnx.helper.make_graph(
            [ir.serde.serialize_node(node) for node in needed],
            "part",
            inputs,
            [onnx.ValueInfoProto(name=str(value.name)) for value in results],
            [_tensor(value) for value in stored],
        )
        proto = onnx.helper.make_model(
            graph,
            opset_imports=[
                onnx.helper.make_opsetid(domain, version)
                for domain, version in self._model.opset_imports.items()
            ],
            ir_version=self._model.ir_version,
        )
        return open_session(proto, optimize=False), names

    def _behind(self, part: Sequence[ir.Node]) -> list[ir.Node]:
        """The nodes that compute what the part reads from constants alone, in order."""
        found: dict[ir.Node, None] = {}

        def visit(node: ir.Node) -> None:
            for value in node.inputs:
                producer = None if value is None else value.producer()
                if producer is not None and producer in self._fixed and producer not in found:
                    visit(producer)
                    found[producer] = None

        for node in part:
            visit(node)
        return list(found)


def _fixed_nodes(nodes: Iterable[ir.Node]) -> set[ir.Node]:
    """Nodes that compute from constants alone."""
    fixed: set[ir.Node] = set()
    for node in nodes:
        sources = [value for value in node.inputs if value is not None]
        if all(
            (value.is_initializer() and not value.is_graph_input()) or value.producer() in fixed
            for value in sources
        ):
            fixed.add(node)
    return fixed


def _tensor(value: ir.Value) -> onnx.TensorProto:
    assert value.const_value is not None
    proto = ir.serde.serialize_tensor(value.const_value)
    proto.name = str(value.name)
    return proto
