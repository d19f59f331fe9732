"""The form of int8 that OpenVINO runs fastest.

onnxruntime computes an operator in integers where its inputs and its output are quantized. OpenVINO
needs the inputs alone: of what else there is between two quantizers it makes one kernel,
normalization and activation included, in float32 within. A pair of quantizers on anything else is
work that it cannot take out, and thresholds on codes it computes in float32. So pairs stand

- in front of what multiplies by weights, which is then integer;
- in front of what reads whole maps and computes little (`MAP_OPS`), so that bytes are moved.

What is below zero and goes to one of the latter gets signed codes around zero: with a zero point,
the kernels behind it read float32.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from edgekit.export.calibrators import Ranges
from edgekit.export.passes.base import is_op
from edgekit.export.threshold_codes import Grid
from edgekit.export.to_qdq import WEIGHTED_OPS

MAP_OPS = ("Concat", "Add", "AveragePool", "MaxPool", "GlobalAveragePool")
OPENVINO_OPS = (*WEIGHTED_OPS, *MAP_OPS)


def signed_tensors(model: ir.Model, ranges: Ranges) -> set[str]:
    """Names of the tensors that need signed codes.

    Args:
        model: The float32 model.
        ranges: Lowest and highest value of its tensors.
    """
    touched = {
        str(value.name)
        for node in model.graph
        if is_op(node, *MAP_OPS)
        for value in (*node.inputs, *node.outputs)
        if value is not None
    }
    return {name for name in touched if name in ranges and ranges[name][0] < 0}


def unweighted_concats(model: ir.Model) -> set[str]:
    """Names of the Concat nodes whose result no weights multiply, at once or behind `MAP_OPS`.

    Scales may differ there.
    """
    weighted: set[ir.Value] = set()  # what weights multiply, from the outputs backwards
    for node in reversed(model.graph):
        if is_op(node, *WEIGHTED_OPS) or (
            is_op(node, *MAP_OPS) and weighted.intersection(node.outputs)
        ):
            weighted.update(value for value in node.inputs if value is not None)
    return {
        str(node.name)
        for node in model.graph
        if is_op(node, "Concat") and not weighted.intersection(node.outputs)
    }


def leave_others_float(model: ir.Model) -> None:
    """Remove in place each pair of quantizers that OpenVINO is slower with.

    Args:
        model: A model of pairs of QuantizeLinear and DequantizeLinear around `OPENVINO_OPS`; its
            outputs are float.
    """
    for node in model.graph:
        if not is_op(node, "DequantizeLinear") or node.outputs[0].is_graph_output():
            continue
        quantize = node.inputs[0].producer() if node.inputs[0] is not None else None
        if quantize is None or not is_op(quantize, "QuantizeLinear"):
            continue
        source = quantize.inputs[0]
        assert source is not None
        if not _is_needed(node, source):
            node.outputs[0].replace_all_uses_with(source)
    common.RemoveUnusedNodesPass()(model)


def _is_needed(dequantize: ir.Node, source: ir.Value) -> bool:
    """Whether something reads these codes of `source` that would be slower without."""
    maker, grid = source.producer(), _grid(source)
    if grid is not None and grid == Grid.of(dequantize):
        return False
    wanted = WEIGHTED_OPS if maker is not None and is_op(maker, "Concat") else OPENVINO_OPS
    return any(is_op(reader, *wanted) for reader in dequantize.outputs[0].consumers())


def _grid(value: ir.Value | None) -> Grid | None:
    """The grid of what is dequantized, or chosen from such; None for anything else."""
    node = value.producer() if value is not None else None
    if node is not None and is_op(node, "Concat", "MaxPool"):
        grids = {_grid(part) for part in node.inputs}
        return grids.pop() if len(grids) == 1 else None
    return Grid.of(node) if node is not None and is_op(node, "DequantizeLinear") else None
