"""A packed model as it is easiest to look at: its weights unpacked, without the nodes that do so.

What `edgekit optimize --pack` writes holds all weights in a few tensors, from which nodes that
depend on no input rebuild each one; drawn as they are, their edges cover the page. onnxruntime
computes here what these nodes make, and the tensors take their place under their own names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekit.export.pack import METADATA_KEY
from edgekit.runtime.session import open_session

STORES = ("Constant", "ConstantOfShape")
# Not unpacking: what a runtime fuses into the operators around it.
QUANTIZERS = ("DequantizeLinear", "QuantizeLinear")


def unpack(model: onnx.ModelProto) -> dict[str, str]:
    """Replace what unpacks weights by the weights, in place; other models stay as they are.

    Args:
        model: A valid model. One with external data stays as it is too.

    Returns:
        The name of each unpacked tensor, and the value in the file that it is.

    Raises:
        ModelFileError: onnxruntime cannot compute them.
    """
    graph = model.graph
    external = any(t.data_location == onnx.TensorProto.EXTERNAL for t in graph.initializer)
    if external or not any(entry.key == METADATA_KEY for entry in model.metadata_props):
        return {}
    unpacking = _unpacking(graph)
    made = {name for node in unpacking for name in node.output}
    others = [node for node in graph.node if made.isdisjoint(node.output)]
    outputs = {value.name for value in graph.output}
    used = outputs | {name for node in others for name in node.input}
    stores = [node for node in others if node.op_type in STORES]
    weights = _computed(model, [*stores, *unpacking], sorted(made & used))
    kept = onnx.GraphProto(
        node=[node for node in others if node not in stores or not used.isdisjoint(node.output)],
        initializer=[tensor for tensor in graph.initializer if tensor.name in used],
    )
    names = {old: new for old, new in _names(unpacking, used).items() if old not in outputs}
    for node in kept.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    graph.ClearField("node")
    graph.ClearField("initializer")
    graph.MergeFrom(kept)
    unpacked = {names.get(name, name): name for name in weights}
    for new, old in unpacked.items():
        graph.initializer.append(onnx.numpy_helper.from_array(weights[old], new))
    return unpacked


def _unpacking(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes that depend on no input, but for stores and quantizers."""
    known = {"", *(tensor.name for tensor in graph.initializer)}
    found = []
    for node in graph.node:
        if node.op_type in STORES:
            known |= {*node.output}
        elif node.input and node.op_type not in QUANTIZERS and known.issuperset(node.input):
            found.append(node)
            known |= {*node.output}
    return found


def _names(unpacking: list[onnx.NodeProto], used: set[str]) -> dict[str, str]:
    """Names of weights: the node that makes one last is named after it."""
    return {
        node.output[0]: node.name
        for node in unpacking
        if node.name and len(node.output) == 1 and node.name not in used
    }


def _computed(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], names: list[str]
) -> dict[str, NDArray[Any]]:
    """The values of those names, from nodes that need no input."""
    if not names:
        return {}
    graph = onnx.GraphProto(name="unpack", node=nodes, initializer=model.graph.initializer)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    alone = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        graph=graph,
        functions=model.functions,
    )
    arrays = open_session(alone, optimize=False).run(names, {})
    return dict(zip(names, map(np.asarray, arrays), strict=True))
