"""Weights and biases that may be changed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.export.liveness.state import Floats
from edgekit.export.passes.base import NotExactError
from edgekit.export.passes.fold_batch_norm import gemm_bias
from edgekit.export.passes.values import FLOATS, read_bias, stored


def own_weight(node: ir.Node) -> ir.TensorProtocol:
    """The weight of a node that alone reads it.

    Raises:
        NotExactError: others read it, or it is not stored in floating point.
    """
    value = node.inputs[1]
    tensor = stored(value)
    if value is None or tensor is None:
        raise NotExactError("its weight is not stored in the graph")
    if tensor.dtype not in FLOATS:
        raise NotExactError(f"its weight {value.name} is not floating point")
    others = len(value.uses()) - 1
    if others:
        raise NotExactError(f"its weight {value.name} is shared with {others} other input(s)")
    if value.is_graph_output():
        raise NotExactError(f"its weight {value.name} is a graph output")
    return tensor


def own_bias(node: ir.Node, channels: int) -> Floats:
    """What a Conv, ConvTranspose, Gemm or MatMul adds to each output [channels].

    Raises:
        NotExactError: it is not stored, or differs from row to row.
    """
    if node.op_type == "Gemm":
        return gemm_bias(node, channels)
    return np.zeros(channels) if node.op_type == "MatMul" else read_bias(node, 2, channels)
