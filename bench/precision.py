"""A word for the number formats that a model computes in and is stored in."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.bench.mac_rules import MAC_RULES
from edgekit.bench.shapes import operator
from edgekit.bench.weights import input_at, operand_type, storage_type
from edgekit.export.graph import nodes
from edgekit.runtime.preprocessing import PREFIX

_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_DYNAMIC_OPERATORS = (
    "com.microsoft.DynamicQuantizeLSTM",
    "com.microsoft.DynamicQuantizeMatMul",
    "com.microsoft.MatMulIntegerToFloat",
)


# What a model holds somewhere if it is quantized or half; pixels that are cast are no sign of it.
_NARROW = (
    *_HALVES,
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.INT16,
    ir.DataType.UINT16,
    ir.DataType.INT4,
    ir.DataType.UINT4,
)


def model_precision(model: ir.Model) -> str:
    """What the model's metadata says, else what its products say; "mixed" where they differ.

    One of fp32, fp16, fp16-storage, int8, int16, dynamic-int8, mixed. Metadata that no tensor of
    the graph bears out is not believed.

    Args:
        model: A model as `shapes.with_static_shapes` returns it: with the type of every value.
    """
    noted = model.metadata_props.get(f"{PREFIX}precision")
    if noted and (noted == "fp32" or _has_narrow_tensor(model)):
        return noted
    found = {
        _node_precision(node) for node in model.graph.all_nodes() if operator(node) in MAC_RULES
    }
    if not found:
        return "fp32"
    if "fp16-storage" in found:
        found.discard("fp32")  # the same arithmetic: a weight too small to gain is stored whole
    return found.pop() if len(found) == 1 else "mixed"


def _has_narrow_tensor(model: ir.Model) -> bool:
    """Whether anything but an input is quantized or half."""
    made = (output for node in model.graph.all_nodes() for output in node.outputs)
    stored = (value for graph in model.graphs() for value in graph.initializers.values())
    return any(value.dtype in _NARROW for values in (stored, made) for value in values)


def _node_precision(node: ir.Node) -> str:
    rule = MAC_RULES[operator(node)][0]
    x, w = input_at(node, rule.x), input_at(node, rule.w)
    if operator(node) in _DYNAMIC_OPERATORS or _is_dynamic(x):
        return "dynamic-int8"
    computed = operand_type(x)
    if computed in _HALVES:
        return "fp16"
    if computed.is_floating_point():
        return "fp16-storage" if storage_type(w) in _HALVES else "fp32"
    return f"int{computed.bitwidth}"


def _is_dynamic(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type == "DynamicQuantizeLinear"


def ranges_depend_on_batch(model: ir.Model) -> bool:
    """Whether a model takes a range from the whole batch, where a device gives it one image."""
    return any(node.op_type.startswith("Dynamic") for node in nodes(model))
