"""What is in one model file: totals, operators, and figures node by node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgekit.bench.count import NodeCount
from edgekit.bench.figures import Figures, read_figures
from edgekit.bench.scores import ScoreConventions
from edgekit.bench.shapes import Shape, graph_inputs
from edgekit.export.graph import load_graph, metadata

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Tensor:
    """An input or output of the model; an open axis has its name, or "?"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Inspection:
    """What is in one model file.

    Attributes:
        figures: Identity, counts and scores.
        producer: The tool that wrote the file, with its version.
        inputs: What a caller feeds.
        outputs: What it returns.
        operators: How many nodes of each operator there are, the most frequent first.
        metadata: The `edgekit.*` entries.
        nodes: Every node, subgraphs included, in the file's order.
    """

    figures: Figures
    producer: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: dict[str, int]
    metadata: dict[str, str]
    nodes: tuple[NodeCount, ...]

    def to_json(self) -> dict[str, Any]:
        """One object for `json.dumps`; its keys are a contract."""
        return {
            "schema_version": SCHEMA_VERSION,
            "edgekit": version("edgekit"),
            **self.figures.identity_json(),
            **self.figures.counts_json(),
            "score": self.figures.score_json(),
            "settings": {"score": asdict(self.figures.conventions)},
            "producer": self.producer,
            "inputs": [_tensor_json(tensor) for tensor in self.inputs],
            "outputs": [_tensor_json(tensor) for tensor in self.outputs],
            "operators": self.operators,
            "metadata": self.metadata,
            "nodes": [node_json(node) for node in self.nodes],
        }


def inspect_model(
    path: Path,
    input_shapes: Mapping[str, Shape] | None = None,
    conventions: ScoreConventions | None = None,
) -> Inspection:
    """Read and count one model file.

    Args:
        path: An ONNX file.
        input_shapes: Shapes of inputs by name, for axes that are open in the file.
        conventions: What the MicroNet rules leave open.

    Raises:
        ModelFileError: the file is damaged, or an operator's shapes cannot be inferred.
    """
    model = load_graph(path)
    figures, counts = read_figures(path, model, input_shapes, conventions)
    return Inspection(
        figures=figures,
        producer=f"{model.producer_name or ''} {model.producer_version or ''}".strip(),
        inputs=tuple(_tensor(value) for value in graph_inputs(model)),
        outputs=tuple(_tensor(value) for value in model.graph.outputs),
        operators=dict(Counter(node.op_type for node in counts.nodes).most_common()),
        metadata=metadata(model),
        nodes=counts.nodes,
    )


def _tensor(value: ir.Value) -> Tensor:
    shape = value.shape if value.shape is not None else ()
    dims = (dim if isinstance(dim, int) else dim.value or "?" for dim in shape)
    return Tensor(value.name or "", str(value.dtype or "?"), tuple(dims))


def _tensor_json(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def node_json(node: NodeCount) -> dict[str, Any]:
    """One entry of the key `nodes`."""
    return {
        "name": node.name,
        "op_type": node.op_type,
        "output_shape": None if node.output_shape is None else list(node.output_shape),
        "params": node.params,
        "nonzero": node.nonzero,
        "macs": node.macs,
        "effective_macs": node.effective_macs,
    }
