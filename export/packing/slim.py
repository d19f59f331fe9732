"""Say the same graph in fewer bytes: what is the same by default is left out, names are short.

1. Types and shapes of intermediate values go: every runtime infers them.
2. Attributes at their default go, and the sizes of a Conv's kernel, which its weight has.
3. Equal small constants become one.
4. Names stay of inputs and outputs, of tensors of more than one axis (or of the Reshape that makes
   one), and of nodes with weights; all others become a letter or two, or go. A weight loses the
   suffix that quantization gave it.
5. `slim_quantizers`: an all-zero zero point of a Conv's weight goes, and its int32 bias becomes the
   float32 that it stands for. onnxruntime quantizes it again at load, to the same integers.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Collection, Iterator

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgekit.export.graph import graph_nodes, graphs
from edgekit.export.packing.builder import compact_tensor
from edgekit.export.passes.base import is_op
from edgekit.export.passes.merge_equal_constants import MergeEqualConstants
from edgekit.export.passes.values import stored

NAMED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")

_QUANTIZED = "_quantized"  # what onnxruntime's quantizer appends
_SHARED_BYTES = 64
# Defaults that the schema does not hold, since they depend on the rank.
_RANK_DEFAULTS = {"dilations": 1, "strides": 1, "pads": 0, "output_padding": 0}
_WINDOWED = ("Conv", "ConvTranspose", "AveragePool", "MaxPool")


def drop_suffixes(model: ir.Model) -> None:
    """Give quantized weights the names that they had as floats: rule 4."""
    taken = {value.name for graph in graphs(model) for value in _values(graph)}
    for value in list(model.graph.initializers.values()):
        name = str(value.name).removesuffix(_QUANTIZED)
        if name not in taken and not value.is_graph_output():
            value.name = name
            taken.add(name)


def slim_quantizers(model: ir.Model) -> None:
    """Leave out what onnxruntime makes again at load: rule 5."""
    for node in list(model.graph):
        if not is_op(node, "Conv") or len(node.inputs) < 2:
            continue
        weight = _dequantize(node.inputs[1])
        if weight is None or _dequantize(node.inputs[0], constant=False) is None:
            continue
        if _has_zero_point(weight, 0) and _serves(weight, "Conv"):
            weight.resize_inputs(2)
        bias = _dequantize(node.inputs[2]) if len(node.inputs) == 3 else None
        if bias is not None and _serves(bias, "Conv"):
            _store_as_float(model, bias)
    common.RemoveUnusedNodesPass()(model)


def _dequantize(value: ir.Value | None, *, constant: bool = True) -> ir.Node | None:
    """The DequantizeLinear that makes a value, of a stored tensor where one is wanted."""
    node = value.producer() if value is not None else None
    if node is None or not is_op(node, "DequantizeLinear"):
        return None
    return node if not constant or stored(node.inputs[0]) is not None else None


def _has_zero_point(node: ir.Node, wanted: int) -> bool:
    tensor = stored(node.inputs[2]) if len(node.inputs) == 3 else None
    source = stored(node.inputs[0])
    if tensor is None or source is None or source.dtype != ir.DataType.INT8:
        return False
    return bool((tensor.numpy() == wanted).all())


def _serves(node: ir.Node, op_type: str) -> bool:
    output = node.outputs[0]
    return not output.is_graph_output() and all(is_op(user, op_type) for user, _ in output.uses())


def _store_as_float(model: ir.Model, dequantize: ir.Node) -> None:
    integers, scale = stored(dequantize.inputs[0]), stored(dequantize.inputs[1])
    zero_points = [stored(value) for value in dequantize.inputs[2:]]
    if integers is None or scale is None or integers.dtype != ir.DataType.INT32:
        return
    if scale.dtype != ir.DataType.FLOAT or any(z is None or z.numpy().any() for z in zero_points):
        return
    values = integers.numpy().astype(np.float32) * scale.numpy()
    output = dequantize.outputs[0]
    name = f"{output.name}_float32"
    value = ir.Value(name=name, const_value=ir.tensor(values, name=name))
    model.graph.initializers.add(value)
    output.replace_all_uses_with(value)


def slim(model: ir.Model, keep: Collection[str]) -> None:
    """Apply rules 1 to 4 in place.

    Args:
        model: The model.
        keep: Names of values and nodes that stay, besides those of inputs and outputs.
    """
    common.RemoveUnusedNodesPass()(model)
    for value in model.graph.initializers.values():  # int64 in its short form, the others raw
        _compact(value)
    MergeEqualConstants(_SHARED_BYTES)(model)
    version = model.opset_imports.get("", 1)
    for node in graph_nodes(model.graph):
        _drop_defaults(node, version)
        node.doc_string = None
        node.metadata_props.clear()
        if node.op_type not in NAMED_OPS and node.name not in keep:
            node.name = None
    for graph in (model.graph, *model.graph.subgraphs()):
        graph.doc_string = None
        graph.metadata_props.clear()
    _forget_types(model)
    _shorten_names(model, keep)


def _compact(value: ir.Value) -> None:
    tensor = value.const_value
    if tensor is None or tensor.dtype in (ir.DataType.STRING, ir.DataType.BFLOAT16):
        return
    if tensor.dtype.bitwidth >= 8 and not tensor.dtype.name.startswith(
        ("FLOAT8", "FLOAT4", "FLOAT6")
    ):
        value.const_value = compact_tensor(tensor.numpy())


def _drop_defaults(node: ir.Node, version: int) -> None:
    if node.domain:
        return
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return
    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref():
            continue
        known = schema.attributes.get(name)
        at_default = known is not None and _equal(known.default_value, attribute)
        if at_default or _is_rank_default(node, attribute):
            node.attributes.pop(name)
    if is_op(node, "Conv"):
        node.attributes.pop("kernel_shape", None)


def _equal(default: onnx.AttributeProto, attribute: ir.Attr) -> bool:
    if not default.name or attribute.type not in _COMPARABLE:
        return False
    return bool(ir.serde.deserialize_attribute(default).value == attribute.value)


_COMPARABLE = (
    ir.AttributeType.INT,
    ir.AttributeType.INTS,
    ir.AttributeType.FLOAT,
    ir.AttributeType.FLOATS,
    ir.AttributeType.STRING,
)


def _is_rank_default(node: ir.Node, attribute: ir.Attr) -> bool:
    default = _RANK_DEFAULTS.get(attribute.name)
    if default is None or node.op_type not in _WINDOWED:
        return False
    return all(item == default for item in attribute.as_ints())


def _forget_types(model: ir.Model) -> None:
    """Types of what a node computes or a tensor has; those of inputs and outputs stay."""
    for graph in graphs(model):
        kept = {*graph.inputs, *graph.outputs}
        for value in _values(graph):
            value.metadata_props.clear()
            value.doc_string = None
            if value not in kept:
                value.shape = None
                value.type = None


def _shorten_names(model: ir.Model, keep: Collection[str]) -> None:
    """Rename what has no meaning to a user, the most used first; graphs do not share names."""
    values = [value for graph in graphs(model) for value in _values(graph)]
    public = {v for graph in graphs(model) for v in (*graph.inputs, *graph.outputs)}
    renamed = [value for value in values if value not in public and value.name not in keep]
    taken = {str(value.name) for value in public} | set(keep)
    for index, value in enumerate(renamed):  # first out of each other's way
        value.name = f"\x00{index}"
    names = (name for name in _short_names() if name not in taken)
    for value, name in zip(sorted(renamed, key=lambda v: -len(v.uses())), names, strict=False):
        value.name = name


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from (value for value in graph.initializers.values() if not value.is_graph_input())
    for node in graph:
        yield from node.outputs


def _short_names() -> Iterator[str]:
    letters = string.ascii_letters
    for length in itertools.count(1):
        for rest in itertools.product(letters + string.digits, repeat=length - 1):
            for first in letters:
                yield first + "".join(rest)
