"""Give quantized operators the shapes for which onnxruntime has its fast kernels; exact.

On x86 onnxruntime computes a quantized convolution straight from the channels-last map where its
weights form one group, its input channels are a multiple of 4 and its outputs 16 or more, in fours
(in eights without AVX-512). Any other one first copies each window out, group by group, and
multiplies what may be narrow matrices. So

- a convolution of a few narrow groups becomes one of a single group whose other weights are zero;
- an average pool that has no padding, or counts it, becomes a depthwise convolution of equal
  weights, as the pool's own kernel goes through float32;
- a Concat that begins like another one reads that one, as copying a long row costs what a short one
  does.

None changes a result, save for the pool's rounding, which then happens once instead of twice.
The price is stored zeros, which `--pack` keeps as one bit each, and multiply-accumulates by zero.
tests/peers/int8_speed.py measures whole networks with it and without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from edgekit.export.passes.base import is_op
from edgekit.export.passes.values import drop_unread, store, write_constant

# Groups as wide as this keep their kernel busy on their own.
_WIDE_GROUP = 32
# Stored zeros for each weight that is there.
_MOST_GROUPS = 4


def fit_kernels(model: ir.Model, exclude: Collection[str] = ()) -> Counter[str]:
    """Rewrite a float32 model in place.

    Args:
        model: Its nodes named, its shapes inferred.
        exclude: Names of nodes that will stay float32, and so stay as they are.

    Returns:
        How many nodes of each operator were rewritten.
    """
    done: Counter[str] = Counter()
    joined: dict[tuple[ir.Value | None, ...], ir.Value] = {}
    dense: dict[tuple[ir.Value, int], ir.Value | None] = {}
    for node in list(model.graph):
        if node.name in exclude:
            continue
        if is_op(node, "Conv") and _join_groups(model, node, dense):
            done["Conv"] += 1
        elif is_op(node, "AveragePool") and _pool_by_weights(model, node):
            done["AveragePool"] += 1
        elif is_op(node, "Concat") and _nest(node, joined):
            done["Concat"] += 1
    return done


def _nest(node: ir.Node, joined: dict[tuple[ir.Value | None, ...], ir.Value]) -> bool:
    """Read an earlier Concat in place of its inputs; `joined` holds those met so far."""
    if node.attributes["axis"].as_int() != 1:
        return False
    inputs = tuple(node.inputs)
    joined.setdefault(inputs, node.outputs[0])
    for count in range(len(inputs) - 1, 1, -1):
        if inputs[:count] in joined:
            node.replace_input_with(0, joined[inputs[:count]])
            for index, value in enumerate(inputs[count:], 1):
                node.replace_input_with(index, value)
            node.resize_inputs(1 + len(inputs) - count)
            return True
    return False


def _join_groups(
    model: ir.Model, node: ir.Node, dense: dict[tuple[ir.Value, int], ir.Value | None]
) -> bool:
    """Make one group of several; `dense` holds the weights that were made so far."""
    groups = node.attributes.get_int("group", 1)
    weight = node.inputs[1]
    if weight is None or weight.const_value is None or not 1 < groups <= _MOST_GROUPS:
        return False
    values = weight.const_value.numpy()
    filters, channels = values.shape[:2]
    if channels >= _WIDE_GROUP and filters // groups >= _WIDE_GROUP:
        return False
    if (weight, groups) not in dense:
        parts = np.zeros((filters, groups, channels, *values.shape[2:]), values.dtype)
        for group, rows in enumerate(np.split(np.arange(filters), groups)):
            parts[rows, group] = values[rows]
        joined = parts.reshape(filters, groups * channels, *values.shape[2:])
        write_constant(model, node, 1, joined, f"{weight.name}_joined")
        dense[weight, groups] = node.inputs[1]
    else:
        node.replace_input_with(1, dense[weight, groups])
        drop_unread([weight])
    node.attributes["group"] = ir.AttrInt64("group", 1)
    return True


def _pool_by_weights(model: ir.Model, node: ir.Node) -> bool:
    source = node.inputs[0]
    attributes = node.attributes
    if source is None or source.shape is None or len(source.shape) != 4:
        return False
    channels, kernel = source.shape[1], attributes["kernel_shape"].as_ints()
    pads = attributes.get_ints("pads", [0] * 2 * len(kernel))
    counts = attributes.get_int("count_include_pad", 0)
    automatic = attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    dilated = any(step != 1 for step in attributes.get_ints("dilations", ()))
    if (
        not isinstance(channels, int)
        or source.dtype != ir.DataType.FLOAT
        or automatic
        or (any(pads) and not counts)
        or dilated
        or attributes.get_int("ceil_mode", 0) != 0
        or int(np.prod(kernel)) > 16
    ):
        return False
    weights = np.full((channels, 1, *kernel), 1 / np.prod(kernel), np.float32)
    value = store(model, weights, f"{node.name}.weight")
    strides = attributes.get_ints("strides", [1] * len(kernel))
    conv = ir.node(
        "Conv",
        [source, value],
        {"group": channels, "kernel_shape": kernel, "strides": strides, "pads": pads},
        name=node.name,
    )
    output, made = node.outputs[0], conv.outputs[0]
    made.type, made.shape = output.type, output.shape
    model.graph.insert_before(node, conv)
    ir.convenience.replace_all_uses_with(output, made, replace_graph_outputs=True)
    made.name, output.name = output.name, None
    model.graph.remove(node, safe=True)
    return True
