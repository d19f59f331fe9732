"""Static shapes of every value in a model, for one sample, from the file alone.

onnx's own shape inference does the work, on a skeleton of the graph that holds no large tensor.
Operators of onnxruntime's own domains are shown to it as the standard operators whose output shape
they share (`stand_ins`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod

import onnx
import onnx_ir as ir

from edgekit.bench.shape_arithmetic import fold_shapes
from edgekit.bench.stand_ins import ADDED, stand_in
from edgekit.bench.transposed_products import fill_products
from edgekit.export.graph import inline_functions
from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.preprocessing import Preprocessing

Shape = tuple[int, ...]

STANDARD_DOMAINS = ("", "ai.onnx")
_WINDOWED = frozenset({"AveragePool", "Conv", "ConvInteger", "LpPool", "MaxPool", "QLinearConv"})
_KEPT_BYTES = 1024  # tensors up to this size stay: shape inference reads shapes and axes from them


def with_static_shapes(
    model: ir.Model, input_shapes: Mapping[str, Shape] | None = None
) -> ir.Model:
    """A copy of the model with functions inlined and shapes and types filled in.

    An open first axis of an input is the batch and becomes 1; the other open axes of the first
    input come from the model's preprocessing metadata where it has any, all others from
    `input_shapes`. Shapes are inferred from the inputs'; where that fails, the file's own statement
    counts. A value whose shape cannot be known keeps an open one.

    Args:
        model: Any model; it is left as it is, and its tensors are shared with the copy.
        input_shapes: Shapes of inputs by name.

    Raises:
        ModelFileError: `input_shapes` does not fit the model or is too small for it, or the graph
            contradicts itself.
    """
    work = model.clone()
    if work.functions:
        inline_functions(work)
    sizes = _bind_inputs(work, input_shapes or {})
    declared = {value: value.shape for node in work.graph for value in node.outputs}
    _take_over(work.graph, _infer(work, sizes).graph)
    while (not _all_known(work.graph) and fold_shapes(work)) or fill_products(work):
        _take_over(work.graph, _infer(work, sizes).graph)
    if _take_declared(declared, sizes):
        _take_over(work.graph, _infer(work, sizes, keep=True).graph)
    _refuse_impossible(work)
    return work


def static_shape(value: ir.Value | None) -> Shape | None:
    """The value's shape where every axis is known, else None."""
    if value is None:
        return None
    if value.const_value is not None:
        return tensor_shape(value.const_value)
    shape = value.shape
    if shape is None or not shape.is_static():
        return None
    return tuple(int(dim) for dim in shape if isinstance(dim, int))


def tensor_shape(tensor: ir.TensorProtocol) -> Shape:
    """Shape of a stored tensor."""
    return tuple(dim for dim in tensor.shape if isinstance(dim, int))


def graph_inputs(model: ir.Model) -> list[ir.Value]:
    """What a caller must feed: the graph's inputs without those that have stored values."""
    return [value for value in model.graph.inputs if value.const_value is None]


def opset_version(model: ir.Model) -> int:
    """Version of ONNX's own operator set, under either of its names; 0 where there is none."""
    imports = model.opset_imports
    return next((imports[name] for name in STANDARD_DOMAINS if name in imports), 0)


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The bodies that a control-flow node holds."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def operator(node: ir.Node) -> str:
    """The operator's name as the tables have it: with its domain unless that is ONNX's own."""
    if node.domain in STANDARD_DOMAINS:
        return node.op_type
    if node.domain == "com.microsoft" and node.op_type in ("DequantizeLinear", "QuantizeLinear"):
        return node.op_type  # the standard operator, for types that older opsets lack
    return f"{node.domain}.{node.op_type}"


def _bind_inputs(model: ir.Model, input_shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Fix the inputs' open axes; return the sizes of the axes that have names."""
    sizes: dict[str, int] = {}
    inputs = {str(value.name): value for value in graph_inputs(model)}
    for name in input_shapes:
        if name not in inputs:
            known = ", ".join(inputs) or "none"
            raise ModelFileError(f"--input-shape: the model has no input {name!r}; it has {known}")
    preprocessing = Preprocessing.from_metadata(model.metadata_props)
    for position, (name, value) in enumerate(inputs.items()):
        given = input_shapes.get(name)
        if value.shape is None:
            value.shape = None if given is None else ir.Shape(given)
            continue
        if given is None and preprocessing is not None and position == 0:
            sample = preprocessing.input_shape
            given = _for_open_axes(value.shape, (-1, *sample))
        bound = _bound(value, given)
        for dim, size in zip(value.shape, bound, strict=True):
            if isinstance(dim, ir.SymbolicDim) and dim.value and isinstance(size, int):
                sizes[dim.value] = size
        value.shape = ir.Shape(bound)
    return sizes


def _for_open_axes(shape: ir.Shape, sizes: Shape) -> Shape | None:
    """The sizes for the axes that the file leaves open, -1 for the others."""
    if len(shape) != len(sizes):
        return None
    return tuple(-1 if isinstance(d, int) else size for d, size in zip(shape, sizes, strict=True))


def _bound(value: ir.Value, given: Shape | None) -> list[int | ir.SymbolicDim]:
    dims = list(value.shape or ())
    if given is not None and len(given) != len(dims):
        raise ModelFileError(
            f"--input-shape: {value.name!r} has {len(dims)} axes, {len(given)} sizes were given"
        )
    for axis, dim in enumerate(dims):
        size = given[axis] if given is not None else -1
        if isinstance(dim, int):
            if size not in (-1, dim):
                raise ModelFileError(
                    f"--input-shape: axis {axis} of {value.name!r} is fixed to {dim} in the file, "
                    f"not {size}"
                )
        elif size != -1:
            dims[axis] = size
        elif axis == 0:
            dims[axis] = 1
    return dims


def _all_known(graph: ir.Graph) -> bool:
    return all(
        output.shape is not None and output.shape.is_static()
        for node in graph
        for output in node.outputs[:1]
    )


def _refuse_impossible(model: ir.Model) -> None:
    """Raise where a shape has a negative axis, or a window found no place on its input."""
    for node in model.graph.all_nodes():
        has_window = operator(node) in _WINDOWED
        for output in node.outputs:
            shape = static_shape(output) or ()
            if min(shape, default=0) >= 0 and not (has_window and 0 in shape[2:]):
                continue
            cause = (
                "its kernel is larger than its input" if has_window else "its input is too small"
            )
            raise ModelFileError(
                f"node {node.name or output.name!r} ({operator(node)}) would make {output.name!r} "
                f"of shape {list(shape)}: {cause}; give a larger --input-shape"
            )


def _take_declared(declared: Mapping[ir.Value, ir.Shape | None], sizes: Mapping[str, int]) -> bool:
    """Give values whose shape could not be inferred the one that the file states."""
    taken = False
    for value, shape in declared.items():
        if shape is None or static_shape(value) is not None:
            continue
        known = shape.evaluate(sizes)
        if known.is_static():
            value.shape, taken = known, True
    return taken


def _infer(work: ir.Model, sizes: Mapping[str, int], *, keep: bool = False) -> onnx.ModelProto:
    """Infer shapes; `keep` trusts those that the nodes' outputs have."""
    skeleton = work.clone()
    opset = opset_version(work)
    for graph in [skeleton.graph, *skeleton.graph.subgraphs()]:
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _stub(value.const_value, value.name or "")
        for value in graph.inputs if graph is not skeleton.graph else ():
            value.shape = None if value.shape is None else value.shape.evaluate(sizes)
        for node in list(graph):
            known = [output.shape if keep else None for output in node.outputs]
            _strip(node, graph, sizes, opset)
            for output, shape in zip(node.outputs, known, strict=True):
                output.shape = output.shape if shape is None else shape
    try:
        return onnx.shape_inference.infer_shapes(ir.to_proto(skeleton), data_prop=True)
    except Exception as error:  # onnx raises several unrelated types
        first_line = str(error).strip().partition("\n")[0]
        raise ModelFileError(
            f"shapes cannot be inferred ({first_line}): check the model with onnx.checker"
        ) from error


def _strip(node: ir.Node, scope: ir.Graph, sizes: Mapping[str, int], opset: int) -> None:
    attribute = node.attributes.get("value") if node.op_type == "Constant" else None
    if attribute is not None and not attribute.is_ref():
        stub = _stub(attribute.value, "value")
        node.attributes["value"] = ir.AttrTensor("value", stub)
    if node.inputs and node.outputs and node.outputs[0].const_value is not None:
        _become_constant(node)
        return
    if stand_in(node, scope, opset):
        return
    standard = node.domain in STANDARD_DOMAINS
    for output in node.outputs:  # what the file says was written for another batch size
        known = None if standard or output.shape is None else output.shape.evaluate(sizes)
        output.shape = known
    if node.op_type == "Loop":
        _carry_over(node, sizes)


def _become_constant(node: ir.Node) -> None:
    """Show the inference what `shape_arithmetic` found."""
    found = [output.const_value for output in node.outputs]
    if len(found) != 1 or found[0] is None:
        return
    node.op_type, node.domain = "Constant", ""
    node.resize_inputs(0)
    node.attributes.clear()
    node.attributes["value"] = ir.AttrTensor("value", found[0])


def _carry_over(loop: ir.Node, sizes: Mapping[str, int]) -> None:
    """Give a Loop's results the shapes that its body declares; onnx does not infer them."""
    states = len(loop.inputs) - 2
    body = next(subgraphs(loop))
    for output, state in zip(loop.outputs[:states], body.outputs[1 : states + 1], strict=False):
        if state.shape is not None:
            output.shape, output.type = state.shape.evaluate(sizes), state.type


def _stub(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """The tensor, or one of its shape and type whose data is nowhere."""
    if tensor.dtype == ir.DataType.STRING or tensor.nbytes <= _KEPT_BYTES:
        return tensor
    shape = ir.Shape(tensor_shape(tensor))
    return ir.ExternalTensor("absent", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)


def _take_over(graph: ir.Graph, inferred: onnx.GraphProto) -> None:
    found = {info.name: info.type for info in _value_infos(inferred)}
    for value in graph.inputs:
        _assign(value, found)
    twins = [twin for twin in inferred.node if twin.name != ADDED]
    for node, twin in zip(graph, twins, strict=True):
        for output in node.outputs:
            _assign(output, found)
        bodies = {a.name: [a.g] if a.HasField("g") else list(a.graphs) for a in twin.attribute}
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.GRAPH:
                _take_over(attribute.as_graph(), bodies[name][0])
            elif attribute.type == ir.AttributeType.GRAPHS:
                for body, body_twin in zip(attribute.as_graphs(), bodies[name], strict=True):
                    _take_over(body, body_twin)


def _value_infos(graph: onnx.GraphProto) -> Iterable[onnx.ValueInfoProto]:
    return [*graph.input, *graph.value_info, *graph.output]


def _assign(value: ir.Value, found: Mapping[str, onnx.TypeProto]) -> None:
    kind = found.get(value.name or "")
    if kind is None or not kind.HasField("tensor_type"):
        return
    tensor = kind.tensor_type
    value.shape = (
        ir.Shape(
            [
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
                for dim in tensor.shape.dim
            ]
        )
        if tensor.HasField("shape")
        else None
    )
    if tensor.elem_type and value.type is None:
        value.type = ir.TensorType(ir.DataType(tensor.elem_type))


def elements(shape: Shape) -> int:
    """Number of elements of a tensor of this shape."""
    return prod(shape)
