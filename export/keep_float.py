"""Keep float32 what is meant to stay float32, from onnxruntime's own optimizer.

onnxruntime (from 1.21 on) quantizes the constant float weights of a Conv, ConvTranspose or Gemm
that reads a DequantizeLinear and leads to a QuantizeLinear: to int8 with one scale for the whole
tensor, when it loads the model. A layer left out of quantization because it does not survive that
would be quantized all the same, and worse. So what such a node reads goes through a Max with the
lowest float32 first, which changes no value and is no DequantizeLinear. An AveragePool is treated
alike, since some forms of it have no right integer kernel (see unquantizable.py).

Fixed cost: one pass over the tensor. Verified by tests that compare sessions with and without
optimizations.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

_REQUANTIZED = ("Conv", "ConvTranspose", "Gemm", "AveragePool")
_SUFFIX = "/kept_float"
_BOUND = "edgekit/lowest_float"


def keep_float(model: ir.Model, names: Collection[str]) -> int:
    """Protect the nodes of these names, in place.

    Returns:
        How many nodes needed it.
    """
    protected: dict[ir.Value, ir.Value] = {}
    changed = 0
    for node in list(model.graph):
        source = node.inputs[0] if node.inputs else None
        if node.name not in names or node.op_type not in _REQUANTIZED or source is None:
            continue
        producer = source.producer()
        if producer is None or producer.op_type != "DequantizeLinear":
            continue
        if source not in protected:
            protected[source] = _through_max(model.graph, source, before=node)
        node.replace_input_with(0, protected[source])
        changed += 1
    return changed


def _through_max(graph: ir.Graph, source: ir.Value, before: ir.Node) -> ir.Value:
    bound = graph.initializers.get(_BOUND)
    if bound is None:
        lowest = ir.tensor(np.array(np.finfo(np.float32).min), name=_BOUND)
        bound = ir.Value(name=_BOUND, const_value=lowest)
        bound.type, bound.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(())
        graph.register_initializer(bound)
    node = ir.node("Max", [source, bound], name=f"{source.name}{_SUFFIX}")
    output = node.outputs[0]
    output.name, output.type, output.shape = node.name, source.type, source.shape
    graph.insert_before(before, node)
    return output
