"""Give layers constants of their own where no codes of a shared one serve all of them.

onnxruntime's quantizer makes codes of a constant once, for the first that reads it. A weight has
one scale for each output channel, so that layers share its codes only if these lie along the same
axis: the kernels take the scales for those of their own outputs, whatever axis the file names. A
bias has the scale of one layer's input times that of its weight. And what is no such layer reads
floats.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable

import onnx_ir as ir

from edgekit.export.passes.base import is_op
from edgekit.export.passes.values import names, store
from edgekit.export.to_qdq import WEIGHTED_OPS

_BIAS = 2


def give_own_constants(model: ir.Model, exclude: Collection[str] = ()) -> None:
    """Copy shared weights and biases of a float32 model in place; exact.

    Args:
        model: Its constants initializers, its nodes named.
        exclude: Names of nodes that stay float.
    """
    taken = names(model)
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            continue
        readers: dict[Hashable, list[tuple[ir.Node, int]]] = {}
        if value.is_graph_output():
            readers[None] = []
        for node, index in value.uses():
            codes = _codes(model.graph, node, index, exclude)
            readers.setdefault(codes, []).append((node, index))
        if len(readers) < 2:
            continue
        # What reads floats keeps the constant, else the first reader.
        keeper = None if None in readers else next(iter(readers))
        for codes, uses in readers.items():
            if codes != keeper:
                copy = store(model, tensor.numpy(), str(value.name), taken=taken)
                for node, index in uses:
                    node.replace_input_with(index, copy)


def _codes(graph: ir.Graph, node: ir.Node, index: int, exclude: Collection[str]) -> Hashable:
    """What readers that can share a constant's codes have in common; None where floats are read."""
    if node.graph is not graph or node.name in exclude or not is_op(node, *WEIGHTED_OPS):
        return None
    if index == _BIAS:
        return node
    if index == 0 and node.op_type != "MatMul":
        return None
    if is_op(node, "ConvTranspose") and node.attributes.get_int("group", 1) > 1:
        return "one scale"
    rows = is_op(node, "Conv") or node.attributes.get_int("transB", 0) != 0
    return 0 if rows else 1
