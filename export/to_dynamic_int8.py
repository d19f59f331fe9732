"""Dynamic quantization: int8 weights, activations quantized as they come.

Built on onnxruntime.quantization; needs no calibration data. Convolutions become ConvInteger, Gemm
and MatMul with constant weights become MatMulInteger, between DynamicQuantizeLinear and a
multiplication by the scales; all of them standard operators.

Limits: the range of an activation is that of the whole batch, so a sample's result depends on
what shares its batch; and every other operator, the scaling of each result included, runs in
float32. It pays for models made of large matrix products; convolutional ones get slower by it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgekit.export.graph import from_proto, to_proto
from edgekit.export.opset import convert_opset
from edgekit.export.passes.base import is_op
from edgekit.export.passes.values import stored
from edgekit.export.quantizer_names import Aliases
from edgekit.export.quiet import quiet_quantizer

DYNAMIC_OPS = ("Conv", "MatMul", "Gemm")
_MIN_OPSET = 11  # has DynamicQuantizeLinear

# onnxruntime turns a Gemm into a MatMul of this name and an Add before it looks at the exclusions.
_GEMM_SUFFIX = "_MatMul"


def to_dynamic_int8(
    model: ir.Model, exclude: Collection[str], *, reduce_range: bool = False
) -> tuple[ir.Model, dict[str, str]]:
    """Quantize the nodes of `DYNAMIC_OPS` but for those in `exclude`.

    Args:
        model: A float32 model, its nodes named; it is not changed.
        exclude: Names of nodes that stay float.
        reduce_range: Whether weights keep to 7 bits.

    Returns:
        The quantized model, and what else stays float: names of nodes, and why.

    Raises:
        ModelFileError: onnxruntime's quantizer fails on the graph.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Below, onnxruntime computes the scales by operators that take no heed of zero.
    model = convert_opset(model, max(model.opset_imports[""], _MIN_OPSET))
    left = _unconvertible(model)
    kept = [*exclude, *left]
    aliases = Aliases.find(model)
    model = aliases.put(model)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        path = Path(scratch) / "model.onnx"
        with quiet_quantizer():
            quantize_dynamic(
                to_proto(model),
                path,
                op_types_to_quantize=["Conv", "MatMul"],
                per_channel=True,
                reduce_range=reduce_range,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[*kept, *(f"{name}{_GEMM_SUFFIX}" for name in kept)],
            )
        result = from_proto(onnx.load(path))  # not checked: what bodies read may come behind them
    ir.passes.Sequential(common.RemoveUnusedNodesPass(), common.TopologicalSortPass())(result)
    aliases.take_back(result)
    return result, left


def _unconvertible(model: ir.Model) -> dict[str, str]:
    """Names of nodes that onnxruntime would convert to what it cannot run, and why."""
    found: dict[str, str] = {}
    for node in model.graph:
        weight = stored(node.inputs[1]) if is_op(node, "Conv", "MatMul") else None
        if is_op(node, "Conv") and weight is None:
            found[str(node.name)] = "its weights are no constant"
        if is_op(node, "MatMul") and weight is not None and len(weight.shape) != 2:
            found[str(node.name)] = "its weights are no matrix, but several or a row"
    return found
