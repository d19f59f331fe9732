"""What onnxruntime makes of a quantized model when it loads it: the graph that it runs.

onnxruntime fuses each operator and the DequantizeLinear and QuantizeLinear around it into one
integer operator, puts maps in the layout of its kernels, and drops what cancels. What it cannot
fuse runs in float32 between conversions. `executed` asks it for that graph and gives a reason for
each node that computes floats and each that only converts.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from edgekit.export.graph import from_proto, session_source
from edgekit.runtime.session import open_session

_CONVERSIONS = (
    "QuantizeLinear",
    "DequantizeLinear",
    "Cast",
    "Transpose",
    "ReorderInput",
    "ReorderOutput",
)
_WITH_SUMS = ("QLinearConv", "QLinearMatMul", "QGemm")


@dataclass(frozen=True)
class ExecutedNode:
    """A node of the graph that runs, of those that an integer graph would do without.

    Attributes:
        node: Its name.
        op_type: Its operator.
        reads: What makes its input: an operator, or "input".
        feeds: What reads its output: operators, or "output".
        reason: Why it is there.
    """

    node: str
    op_type: str
    reads: str
    feeds: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Executed:
    """The graph that onnxruntime runs.

    Attributes:
        nodes: Its nodes by operator.
        in_float: Those that compute floats.
        conversions: Those that change type or layout and compute nothing.
    """

    nodes: Mapping[str, int]
    in_float: tuple[ExecutedNode, ...]
    conversions: tuple[ExecutedNode, ...]


def executed(model: ir.Model, excluded: Collection[str] = ()) -> Executed:
    """Load a quantized model with all of onnxruntime's optimizations and look at the result.

    Args:
        model: The model.
        excluded: Names of nodes that were to stay float32.

    Raises:
        ModelFileError: onnxruntime cannot run it.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder, session_source(model) as source:
        path = Path(folder) / "optimized.onnx"
        open_session(source, optimized_path=path, validate=False)
        graph = from_proto(onnx.load(path)).graph
    # A fused node is called after one that it holds, or after its output.
    marks = set(excluded) | {
        str(output.name) for n in model.graph if n.name in excluded for output in n.outputs
    }
    floats = _float_values(graph)
    in_float, conversions = [], []
    for node in graph:
        if node.op_type in _CONVERSIONS:
            conversions.append(_told(node, _why_converted(node, floats)))
        elif any(value in floats for value in (*node.inputs, *node.outputs)) and not _sums(node):
            in_float.append(_told(node, _why_float(node, marks)))
    counts = Counter(node.op_type for node in graph)
    return Executed(dict(counts.most_common()), tuple(in_float), tuple(conversions))


def _float_values(graph: ir.Graph) -> set[ir.Value]:
    """Tensors of floats that are computed or given, not stored; types follow the operators."""
    floats = {value for value in graph.inputs if value.dtype == ir.DataType.FLOAT}
    for node in graph:
        if _is_float_output(node, floats):
            floats.update(node.outputs)
    return floats


def _is_float_output(node: ir.Node, floats: set[ir.Value]) -> bool:
    if node.op_type == "DequantizeLinear":
        return True
    if node.op_type == "QuantizeLinear":
        return False
    if node.op_type == "Cast":
        return node.attributes["to"].as_int() == ir.DataType.FLOAT
    if node.op_type == "QGemm":  # without a scale of its output it leaves floats
        return len(node.inputs) < 8 or node.inputs[7] is None
    return any(value in floats for value in node.inputs)


def _sums(node: ir.Node) -> bool:
    return node.op_type in _WITH_SUMS


def _told(node: ir.Node, reason: str) -> ExecutedNode:
    producer = _producer(node)
    reads = "input" if producer is None else producer.op_type
    feeds = (*_readers(node), *(["output"] if node.outputs[0].is_graph_output() else []))
    return ExecutedNode(str(node.name), node.op_type, reads, feeds, reason)


def _why_converted(node: ir.Node, floats: set[ir.Value]) -> str:
    if node.op_type in ("ReorderInput", "ReorderOutput"):
        return "float32 kernels hold channels in blocks"
    if node.op_type == "Transpose":
        return _why_transposed(node)
    if node.op_type == "QuantizeLinear":
        return _why_quantized(node)
    if node.op_type == "DequantizeLinear":
        return _why_dequantized(node)
    return "its reader takes another type" if node.inputs[0] in floats else "types differ"


def _why_transposed(node: ir.Node) -> str:
    producer = _producer(node)
    if producer is None or producer.op_type in ("QuantizeLinear", "Cast"):
        return "kernels want channels in another place than the input has them"
    readers = ", ".join(_readers(node)) or "the output"
    return f"{producer.op_type} and {readers} have channels in different places"


def _why_quantized(node: ir.Node) -> str:
    producer = _producer(node)
    if producer is None:
        return "the input is float32, and quantized once; --uint8-input takes pixels"
    if producer.op_type == "DequantizeLinear":
        return "one scale is changed for another"
    return f"{producer.op_type} computes float32"


def _why_dequantized(node: ir.Node) -> str:
    if node.outputs[0].is_graph_output():
        return "the output is float32"
    return f"{', '.join(_readers(node))} computes float32"


def _producer(node: ir.Node) -> ir.Node | None:
    return node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None


def _readers(node: ir.Node) -> list[str]:
    return sorted({reader.op_type for reader in node.outputs[0].consumers()})


def _why_float(node: ir.Node, excluded: Collection[str]) -> str:
    if any(f"{node.name}_".startswith(f"{name}_") for name in excluded):  # fused ones get a suffix
        return "excluded"
    if any(output.is_graph_output() for output in node.outputs):
        return "it computes the output, which is float32"
    return "onnxruntime has no integer kernel for it, or not in this place"
