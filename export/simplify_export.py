"""Write what torch's exporter spells out the way a person would write it.

The exporter translates each aten operator by a general recipe, so that a convolution without bias
comes with a computed bias of zeros, and a pooling over the image as a mean whose axes are computed.
Each rewrite is exact:

1. What depends on constants alone is computed (onnxscript's constant folding).
2. A Reshape whose output has at most one unknown dimension gets a constant shape.
3. A bias of a convolution that is all zeros is left out.
4. A mean over exactly the spatial axes of an image, axes kept, is a GlobalAveragePool.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.optimizer import fold_constants

_CONVOLUTIONS = ("Conv", "ConvTranspose")


def simplify_export(model: ir.Model) -> None:
    """Rewrite a freshly exported model in place; metadata of its nodes is kept."""
    fold_constants(model)
    for node in list(model.graph):
        if node.op_type == "Reshape":
            _fix_reshape(model.graph, node)
        elif node.op_type in _CONVOLUTIONS:
            _drop_zero_bias(node)
        elif node.op_type == "ReduceMean":
            _pool_spatial_mean(model.graph, node)
    ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
    )(model)


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind a value: an initializer's or a Constant node's."""
    return None if value is None else ir.convenience.get_const_tensor(value)


def _fix_reshape(graph: ir.Graph, node: ir.Node) -> None:
    output = node.outputs[0]
    if constant(node.inputs[1]) is not None or output.shape is None:
        return
    dims = [dim if isinstance(dim, int) else -1 for dim in output.shape]
    if dims.count(-1) > 1 or 0 in dims:
        return
    shape = ir.Value(
        name=f"{output.name}_shape", const_value=ir.tensor(dims, dtype=ir.DataType.INT64)
    )
    graph.register_initializer(shape)
    node.replace_input_with(1, shape)


def _drop_zero_bias(node: ir.Node) -> None:
    bias = constant(node.inputs[2]) if len(node.inputs) == 3 else None
    if bias is not None and not bias.numpy().any():
        node.resize_inputs(2)


def _pool_spatial_mean(graph: ir.Graph, node: ir.Node) -> None:
    data, axes = node.inputs[0], constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if data is None or data.shape is None or axes is None or len(data.shape) < 3:
        return
    rank = len(data.shape)
    reduced = sorted(int(axis) % rank for axis in np.atleast_1d(axes.numpy()))
    if reduced != list(range(2, rank)) or node.attributes.get_int("keepdims", 1) != 1:
        return
    pool = ir.node("GlobalAveragePool", [data], name=node.name)
    pool.metadata_props.update(node.metadata_props)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [pool], node.outputs, pool.outputs)
