"""Quantizers in front of what multiplies by weights, and nowhere else: OpenVINO's fastest form.

onnxruntime computes an operator in integers where its inputs and its output are quantized. OpenVINO
needs the inputs alone: of what else there is between two integer convolutions it makes one kernel,
normalization, activation and the next quantizer included, in float32 within. A pair of quantizers
on anything else is work that it cannot take out, and thresholds on codes it computes in float32.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from edgekit.export.passes.base import is_op

# Operators that hold weights: a model without any has nothing to quantize.
WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def leave_others_float(model: ir.Model) -> None:
    """Remove in place each pair of quantizers that none of `WEIGHTED_OPS` reads.

    Args:
        model: A model of pairs of QuantizeLinear and DequantizeLinear; its outputs are float.
    """
    for node in model.graph:
        if not is_op(node, "DequantizeLinear") or node.outputs[0].is_graph_output():
            continue
        quantize = node.inputs[0].producer() if node.inputs[0] is not None else None
        readers = [use.node for use in node.outputs[0].uses()]
        if quantize is None or not is_op(quantize, "QuantizeLinear"):
            continue
        if any(is_op(reader, *WEIGHTED_OPS) for reader in readers):
            continue
        source = quantize.inputs[0]
        assert source is not None
        node.outputs[0].replace_all_uses_with(source)
    common.RemoveUnusedNodesPass()(model)
