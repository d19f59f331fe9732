"""Gemm without factors: alpha goes into its stored weight, beta into its stored bias.

onnxruntime's quantizer takes a bias for one number a column and drops beta. Whatever is stored is
brought into that form: a bias of one number, or of one row; one of several rows becomes an Add
behind the Gemm. A weight or bias that a node computes stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.passes.base import is_op
from edgekit.export.passes.values import (
    drop_unread,
    fresh_name,
    names,
    store,
    stored,
    write_constant,
)


def fold_gemm_factors(model: ir.Model, exclude: Collection[str] = ()) -> None:
    """Rewrite a float32 model in place; exact but for rounding.

    Args:
        model: Its constants initializers.
        exclude: Names of nodes that are left as they are.
    """
    for node in list(model.graph):
        if is_op(node, "Gemm") and node.name not in exclude:
            _fold_alpha(model, node)
            _fold_beta(model, node)


def _fold_alpha(model: ir.Model, node: ir.Node) -> None:
    alpha, weight = node.attributes.get_float("alpha", 1.0), stored(node.inputs[1])
    if alpha == 1 or weight is None:
        return
    write_constant(model, node, 1, _scaled(weight, alpha), f"{node.name}.weight")
    del node.attributes["alpha"]


def _fold_beta(model: ir.Model, node: ir.Node) -> None:
    weight = node.inputs[1]
    bias = stored(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is None or weight is None or weight.shape is None:
        return
    columns = weight.shape[0 if node.attributes.get_int("transB", 0) else 1]
    beta = node.attributes.get_float("beta", 1.0)
    values = _scaled(bias, beta)
    if not isinstance(columns, int):
        return
    if values.size != 1 and values.shape not in ((columns,), (1, columns)):
        _add_behind(model, node, values)
        return
    row = np.broadcast_to(values.reshape(-1), (columns,))
    if row.shape != values.shape or beta != 1:
        write_constant(model, node, 2, np.ascontiguousarray(row), f"{node.name}.bias")
        node.attributes.pop("beta", None)


def _add_behind(model: ir.Model, node: ir.Node, values: NDArray[np.float32]) -> None:
    output, bias = node.outputs[0], node.inputs[2]
    node.resize_inputs(2)
    node.attributes.pop("beta", None)
    stored_values = store(model, values, f"{node.name}.addend")
    add = ir.node("Add", [output, stored_values], name=f"{node.name}/add")
    added = add.outputs[0]
    added.type, added.shape = output.type, output.shape
    model.graph.insert_after(node, add)
    ir.convenience.replace_all_uses_with(output, added, replace_graph_outputs=True)
    add.replace_input_with(0, output)
    added.name, output.name = output.name, fresh_name(names(model), f"{output.name}_product")
    drop_unread((bias,))


def _scaled(tensor: ir.TensorProtocol, factor: float) -> NDArray[np.float32]:
    values: NDArray[np.float32] = (tensor.numpy().astype(np.float64) * factor).astype(np.float32)
    return values
