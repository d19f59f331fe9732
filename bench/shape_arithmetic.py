"""Integers that a graph computes from shapes: what exporters write where sizes could vary.

onnx's shape inference follows some of that arithmetic and gives up at a division. Once the shape
of a tensor is known, so is what Shape makes of it and all that is computed from that alone;
onnx's reference evaluator computes it, node by node, on tensors of a few elements.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

LARGEST_ELEMENTS = 64
_STANDARD = ("", "ai.onnx")
_NAMES = """
    Abs Add And Cast Ceil Concat ConstantOfShape Div Equal Expand Flatten Floor Gather Greater
    GreaterOrEqual Identity Less LessOrEqual Max Min Mod Mul Neg Not Or Range ReduceMax ReduceMin
    ReduceProd ReduceSum Reshape Shape Sign Size Slice Split Sqrt Squeeze Sub Tile Transpose
    Unsqueeze Where
"""
_NUMBERS = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
}
_OPERATORS = frozenset(_NAMES.split())


def fold_shapes(model: ir.Model) -> bool:
    """Give every value that follows from known shapes its `const_value`.

    Args:
        model: A model whose inferred shapes are filled in; it is changed.

    Returns:
        Whether there was a new one.
    """
    found = False
    for node in model.graph.all_nodes():
        if node.domain not in _STANDARD or node.op_type not in _OPERATORS or not node.outputs:
            continue
        if all(output.const_value is not None for output in node.outputs):
            continue
        results = _computed(node, model)
        for output, array in zip(node.outputs, results, strict=False):
            output.const_value = ir.tensor(np.asarray(array), name=output.name)
            output.shape = ir.Shape(np.shape(array))
            found = True
    return found


def _computed(node: ir.Node, model: ir.Model) -> list[NDArray[Any]]:
    """The node's results where they follow from shapes, else none."""
    if node.op_type in ("Shape", "Size"):
        shape = node.inputs[0].shape if node.inputs[0] is not None else None
        if shape is None or not shape.is_static():
            return []
        dims = shape.numpy()
        if node.op_type == "Size":
            return [np.array(prod(dims), np.int64)]
        start, end = (node.attributes.get(name) for name in ("start", "end"))
        part = slice(start.as_int() if start else 0, end.as_int() if end else None)
        return [np.array(dims[part], np.int64)]
    feeds = {}
    for value in node.inputs:
        if value is None:
            continue
        array = _small(value)
        if array is None:
            return []
        feeds[str(value.name)] = array
    try:
        evaluator = ReferenceEvaluator(
            ir.serde.serialize_node(node), opsets=dict(model.opset_imports)
        )
        results = evaluator.run(None, feeds)
    except Exception:  # the evaluator raises whatever numpy does; then the shape stays unknown
        return []
    small = all(
        isinstance(r, np.ndarray | np.generic) and r.size <= LARGEST_ELEMENTS for r in results
    )
    return [np.asarray(result) for result in results] if small else []


def _small(value: ir.Value) -> NDArray[Any] | None:
    tensor = value.const_value
    producer = value.producer()
    if tensor is None and producer is not None and producer.op_type == "Constant":
        attribute = producer.attributes.get("value")
        if attribute is not None:
            tensor = attribute.as_tensor()
        else:
            for name, dtype in _NUMBERS.items():
                if name in producer.attributes:
                    return np.array(producer.attributes[name].value, dtype)
    if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.size > LARGEST_ELEMENTS:
        return None
    return tensor.numpy()
