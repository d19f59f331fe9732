"""Write a mean over the map as the pooling that it is.

Exporters spell global average pooling as a ReduceMean over the axes behind batch and channels, for
which onnxruntime has no integer kernel. It becomes a GlobalAveragePool, with a Flatten behind it
where the axes are dropped. A ReduceMean stays

1. over other axes: that is no global pooling;
2. over axes that are computed, or a graph input, which a caller may replace: they are not known;
3. of a value of unknown rank: which axes are all behind the channels is not known;
4. of integers, of bfloat16, which GlobalAveragePool takes from opset 22 on only, and of double, for
   which onnxruntime has no kernel of it: the result would not run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.export.passes.base import GraphPass, is_op

_POOLED = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


class PoolSpatialMeans(GraphPass):
    """ReduceMean over axes 2, 3, ... becomes GlobalAveragePool, and Flatten."""

    def rewrite_node(self, model: ir.Model, node: ir.Node) -> int:  # noqa: ARG002
        """Rewrite one node."""
        data = node.inputs[0] if is_op(node, "ReduceMean") else None
        if data is None or data.shape is None or not 3 <= len(data.shape) <= 5:
            return 0
        if data.dtype not in _POOLED:
            return 0
        rank, axes = len(data.shape), _axes(node)
        if axes is None or sorted(axis % rank for axis in axes) != list(range(2, rank)):
            return 0
        pool = ir.node("GlobalAveragePool", [data], name=node.name)
        made = [pool]
        if not node.attributes.get_int("keepdims", 1):
            name = f"{node.name}/flatten" if node.name else None
            made.append(ir.node("Flatten", [pool.outputs[0]], name=name))
            pool.outputs[0].name = f"{node.outputs[0].name}/map"
            pool.outputs[0].type = data.type
            pool.outputs[0].shape = ir.Shape([*data.shape[:2], *[1] * (rank - 2)])
        pool.metadata_props.update(node.metadata_props)
        graph = node.graph
        assert graph is not None
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], made, node.outputs, made[-1].outputs
        )
        return 1


def _axes(node: ir.Node) -> Sequence[int] | None:
    """The axes, an attribute before opset 18 and an input from then on; None if not stored."""
    if "axes" in node.attributes:
        return list(node.attributes.get_ints("axes"))
    value = node.inputs[1] if len(node.inputs) > 1 else None
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else [int(axis) for axis in np.atleast_1d(tensor.numpy())]
