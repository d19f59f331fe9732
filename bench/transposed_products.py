"""Shapes of onnxruntime's matrix products that transpose their operands.

No standard operator has these shapes without knowing its operands' ranks beforehand, so that none
can stand in (see `stand_ins`): they are computed here, once the operands' shapes are known.

`transA` swaps the last two axes of A; `transBatchA` moves the first axis behind the batch axes
before that: [rows, batch..., columns] is read as [batch..., rows, columns]. B likewise.
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.FusedMatMul)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

PRODUCTS = ("FusedMatMul", "FusedMatMulActivation", "TransposeMatMul")
_FLAGS = ("transA", "transB", "transBatchA", "transBatchB")
_GIVEN = "edgekit.shape"

Shape = tuple[int, ...]


def transposes(node: ir.Node) -> bool:
    """Whether a node is a product that transposes an operand."""
    named = node.domain == "com.microsoft" and node.op_type in PRODUCTS
    return named and any(_is_set(node, name) for name in _FLAGS)


def fill_products(model: ir.Model) -> bool:
    """Give the results of such products their shapes and types where the operands' are known.

    Args:
        model: A model as far as its shapes are inferred; it is changed.

    Returns:
        Whether a shape is new.
    """
    found = False
    for node in model.graph.all_nodes():
        shape = _output_shape(node) if transposes(node) and node.outputs else None
        if shape is None or shape in (node.outputs[0].shape, node.meta.get(_GIVEN)):
            continue
        node.outputs[0].shape, found = ir.Shape(shape), True
        node.meta[_GIVEN] = shape  # once, whatever the inference makes of it
        if node.outputs[0].type is None and node.inputs[0] is not None:
            node.outputs[0].type = node.inputs[0].type
    return found


def _output_shape(node: ir.Node) -> Shape | None:
    if len(node.inputs) < 2:
        return None
    a, b = (_operand(node, index, name) for index, name in enumerate("AB"))
    if a is None or b is None or a[-1] != b[-2]:
        return None
    try:
        return (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])
    except ValueError:
        return None


def _operand(node: ir.Node, index: int, name: str) -> Shape | None:
    """Shape of an operand as it is multiplied; None where it is not known."""
    value = node.inputs[index]
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    shape = tuple(value.shape.numpy())
    if len(shape) < 2:
        return None
    if _is_set(node, f"transBatch{name}"):
        shape = (*shape[1:-1], shape[0], shape[-1])
    return (*shape[:-2], shape[-1], shape[-2]) if _is_set(node, f"trans{name}") else shape


def _is_set(node: ir.Node, name: str) -> bool:
    attribute = node.attributes.get(name)
    return attribute is not None and attribute.as_int() != 0
