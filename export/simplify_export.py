"""Write what torch's exporter spells out the way a person would write it.

The exporter translates each aten operator by a general recipe, so that a convolution without bias
comes with a computed bias of zeros. Each rewrite is exact:

1. What depends on constants alone is computed (onnxscript's constant folding).
2. A Reshape whose output has at most one unknown dimension gets a constant shape.
3. A bias of a convolution that is all zeros is left out.
4. A mean over the map is a GlobalAveragePool (passes/pool_spatial_means.py).
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.optimizer import fold_constants

from edgekit.export.passes.pool_spatial_means import PoolSpatialMeans

_CONVOLUTIONS = ("Conv", "ConvTranspose")


def simplify_export(model: ir.Model) -> None:
    """Rewrite a freshly exported model in place; metadata of its nodes is kept."""
    fold_constants(model)
    for node in list(model.graph):
        if node.op_type == "Reshape":
            _fix_reshape(model.graph, node)
        elif node.op_type in _CONVOLUTIONS:
            _drop_zero_bias(node)
    ir.passes.Sequential(
        PoolSpatialMeans(),
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
