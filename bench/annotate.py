"""A model with edgekit's figures on its nodes and tensors, for Netron to show.

Two carriers, because Netron reads two:

1. `metadata_props` of nodes and initializers, under keys that begin with `edgekit.`: plain numbers,
   in a copy of the model. Netron's section "Metadata" lists those of a node.
2. An *attachment*, Netron's own JSON form: `{"signature": "netron:attachment", "metadata": [...],
   "metrics": [...]}` with entries `{"kind": "model" | "node" | "tensor", "target": NAME, "name":
   ..., "value": ...}`. Its metrics become the section "Metrics" of the model and of a node, with
   shares of the whole; its metadata repeats what initializers carry, which Netron does not read
   from an ONNX file.

A node without a name gets that of its first output in the copy, so that figures can name it. The
model file is not touched, and external data stays where it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edgekit.bench.count import Counts, NodeCount, count
from edgekit.bench.measured import Measured
from edgekit.bench.params import Parameter
from edgekit.bench.roles import Role
from edgekit.bench.shapes import Shape
from edgekit.bench.unpacked import unpack
from edgekit.export.graph import load_graph
from edgekit.runtime.model_file import PROTOBUF_LIMIT_BYTES, model_files, read_model
from edgekit.runtime.preprocessing import PREFIX

SIGNATURE = "netron:attachment"

Figures = dict[str, str]


@dataclass(frozen=True)
class AnnotatedModel:
    """A model as Netron is to show it.

    Attributes:
        path: The file that it was read from.
        files: All that the model consists of: that file, and its external data.
        content: The copy with figures, as the bytes of an .onnx file.
        attachment: Netron's attachment, for `json.dumps`.
    """

    path: Path
    files: tuple[Path, ...]
    content: bytes
    attachment: dict[str, Any]


def annotate(
    path: Path,
    input_shapes: Mapping[str, Shape] | None = None,
    *,
    measured: Measured | None = None,
    notes: Mapping[str, Figures] | None = None,
    packed: bool = False,
) -> AnnotatedModel:
    """Put figures on a copy of a model.

    Args:
        path: An ONNX file.
        input_shapes: Shapes of inputs by name, for axes that are open in the file.
        measured: What a bench run measured.
        notes: More entries for nodes, by node name, without the prefix `edgekit.`.
        packed: Keep the nodes that unpack the weights of a packed model, instead of the weights.

    Raises:
        ModelFileError: the file is damaged, or an operator's shapes cannot be inferred.
    """
    proto = read_model(path)
    files = tuple(model_files(proto, path))
    counts = count(load_graph(path), input_shapes)
    unpacked = {} if packed else unpack(proto)
    _name_all(proto.graph)
    writer = _Writer(counts, measured or Measured(), notes or {})
    writer.model(len(unpacked))
    writer.nodes(proto.graph)
    writer.tensors(proto.graph, unpacked)
    fits = proto.ByteSize() < PROTOBUF_LIMIT_BYTES
    content = proto.SerializeToString() if fits else path.read_bytes()
    return AnnotatedModel(path, files, content, writer.attachment)


class _Writer:
    """Writes a model's figures to its copy and to the attachment."""

    def __init__(self, counts: Counts, measured: Measured, notes: Mapping[str, Figures]) -> None:
        self._counts = counts
        self._measured = measured
        self._notes = notes
        self._metadata: list[dict[str, str]] = []
        self._metrics: list[dict[str, str]] = []

    @property
    def attachment(self) -> dict[str, Any]:
        return {"signature": SIGNATURE, "metadata": self._metadata, "metrics": self._metrics}

    def model(self, unpacked: int) -> None:
        counts = self._counts
        peak = counts.peak_activation_bytes
        figures = {
            "precision": counts.precision,
            "parameters": f"{counts.params:,}",
            "non-zero parameters": f"{counts.nonzero:,}",
            "stored values": f"{counts.stored_bits:,} bits",
            "MACs": f"{counts.macs:,}",
            "effective MACs": f"{counts.effective_macs:,}",
            "uncounted operators": ", ".join(counts.uncounted_ops) or "none",
            "peak activations": "not known" if peak is None else f"{peak:,} bytes",
        }
        if unpacked:
            figures["shown unpacked"] = f"{unpacked} tensors, packed in the file"
        if self._measured.source:
            figures["measured figures from"] = self._measured.source
        self._attach(self._metrics, "model", "", figures)

    def nodes(self, graph: onnx.GraphProto) -> None:
        protos = list(_all_nodes(graph))
        found = _figures_of(protos, self._counts.nodes)
        names = Counter(proto.name for proto in protos)
        for proto, node in zip(protos, found, strict=True):
            figures = {} if node is None else _node_figures(node)
            figures |= self._measured_figures(proto)
            figures |= self._notes.get(proto.name, {})
            _set_props(proto, figures)
            if node is not None and names[proto.name] == 1:  # the attachment goes by name
                self._attach(self._metrics, "node", proto.name, self._shares(node, proto))

    def tensors(self, graph: onnx.GraphProto, unpacked: Mapping[str, str]) -> None:
        by_name = {parameter.name: parameter for parameter in self._counts.parameters}
        for name, tensor in _stored_tensors(graph):
            parameter = by_name.get(unpacked.get(name, name))
            if parameter is None:
                continue
            figures = _tensor_figures(parameter)
            _set_props(tensor, figures)
            prefixed = {f"{PREFIX}{key}": value for key, value in figures.items()}
            self._attach(self._metadata, "tensor", tensor.name, prefixed)

    def _measured_figures(self, proto: onnx.NodeProto) -> Figures:
        share = self._measured.time_shares.get(proto.name)
        ratio = self._decibels(proto)
        figures = {} if ratio is None else {"signal_to_noise_db": f"{ratio:.2f}"}
        return figures if share is None else {**figures, "time_share": f"{share:.6f}"}

    def _decibels(self, proto: onnx.NodeProto) -> float | None:
        names = (proto.name, *proto.output)
        known = self._measured.decibels
        return next((known[name] for name in names if name in known), None)

    def _shares(self, node: NodeCount, proto: onnx.NodeProto) -> Figures:
        counts, figures = self._counts, {}
        if node.macs:
            figures["MACs"] = f"{node.macs:,} ({node.macs / max(counts.macs, 1):.1%} of the model)"
            figures["effective MACs"] = (
                f"{node.effective_macs:,} ({node.effective_macs / node.macs:.1%} of these)"
            )
            figures["bits"] = f"{node.weight_bits} weights, {node.activation_bits} activations"
        if node.params:
            share = node.params / max(counts.params, 1)
            figures["parameters"] = f"{node.params:,} ({share:.1%} of the model)"
            figures["zeros"] = f"{1 - node.nonzero / node.params:.1%}"
        ratio = self._decibels(proto)
        if ratio is not None:
            figures["signal-to-noise"] = f"{ratio:.1f} dB"
        share_of_time = self._measured.time_shares.get(proto.name)
        if share_of_time is not None:
            figures["time"] = f"{share_of_time:.1%} of a run"
        change = self._notes.get(proto.name, {}).get("change")
        return figures if change is None else {"change": change, **figures}

    @staticmethod
    def _attach(entries: list[dict[str, str]], kind: str, target: str, figures: Figures) -> None:
        entries += [
            {"kind": kind, "target": target, "name": name, "value": value}
            for name, value in figures.items()
        ]


def _node_figures(node: NodeCount) -> Figures:
    figures = {}
    if node.macs:
        figures = {
            "macs": str(node.macs),
            "effective_macs": str(node.effective_macs),
            "weight_bits": str(node.weight_bits),
            "activation_bits": str(node.activation_bits),
        }
    if node.params:
        figures |= {"params": str(node.params), "nonzero": str(node.nonzero)}
    if node.output_shape is not None:
        figures["output_shape"] = "x".join(map(str, node.output_shape))
    return figures


def _tensor_figures(parameter: Parameter) -> Figures:
    figures = {"role": parameter.role.name.lower(), "elements": str(parameter.elements)}
    if parameter.role is Role.LEARNED:
        figures["nonzero"] = str(parameter.nonzero)
    return {
        **figures,
        "bits": str(parameter.bits),
        "stored_bits": str(parameter.stored_bits),
    }


def _set_props(proto: onnx.NodeProto | onnx.TensorProto, figures: Figures) -> None:
    props = {entry.key: entry.value for entry in proto.metadata_props}
    props |= {f"{PREFIX}{key}": value for key, value in figures.items()}
    del proto.metadata_props[:]
    for key, value in props.items():
        proto.metadata_props.add(key=key, value=value)


def _name_all(graph: onnx.GraphProto) -> None:
    for node in _all_nodes(graph):
        if not node.name and node.output:
            node.name = node.output[0]
        for attribute in node.attribute:
            if attribute.HasField("t") and not attribute.t.name and node.op_type == "Constant":
                attribute.t.name = node.output[0]


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node in the order in which nodes are counted: each before those of its bodies."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)
            for body in attribute.graphs:
                yield from _all_nodes(body)


def _stored_tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every stored tensor with the name of the value that it is."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and node.op_type == "Constant":
                yield node.output[0], attribute.t
            if attribute.HasField("g"):
                yield from _stored_tensors(attribute.g)
            for body in attribute.graphs:
                yield from _stored_tensors(body)


def _figures_of(
    protos: list[onnx.NodeProto], nodes: tuple[NodeCount, ...]
) -> list[NodeCount | None]:
    """Each node's figures: by position, or by name where functions were inlined to count them."""
    if [_last(proto.op_type) for proto in protos] == [_last(node.op_type) for node in nodes]:
        return list(nodes)
    names = Counter(node.name for node in nodes)
    by_name = {node.name: node for node in nodes if names[node.name] == 1}
    return [by_name.get(proto.name) for proto in protos]


def _last(operator: str) -> str:
    """An operator's name without a domain in front."""
    return operator.rpartition(".")[2]
