"""Names that read well: a node is called after the torch module it comes from.

The exporter notes on each node the modules around it, from the root inwards, and last the traced
call. From `['', 'blocks.0', 'blocks.0.conv', 'conv2d_1']` the rules are:

1. A node that reads parameters of a leaf module, or whose operator is the only one in it, is called
   after that module: `blocks.0.conv`.
2. Any other node gets its operator appended: `blocks.0/relu`, or `relu` in the root module.
3. A name already taken gets `_2`, `_3`, ... appended.
4. A node's first output has the node's name; graph inputs and outputs keep theirs.
5. Initializers that are parameters or buffers of the module keep their torch names; any other is
   called after the first node that reads it and the input it feeds: `head.pool/axes`.
"""

from __future__ import annotations

import ast
from collections.abc import Collection

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

_SCOPES = "pkg.torch.onnx.name_scopes"


def name_after_modules(
    model: ir.Model, leaf_modules: Collection[str], parameters: Collection[str]
) -> None:
    """Rename nodes, values and initializers in place, and drop all notes of the exporter.

    What is dropped includes stack traces with the paths of the machine that exported.

    Args:
        model: An exported model whose nodes still carry the exporter's metadata.
        leaf_modules: Names of the modules that have no children.
        parameters: Names of the parameters and buffers, as torch's `state_dict` has them.
    """
    graph = model.graph
    taken = {str(value.name) for value in (*graph.inputs, *graph.outputs)} | set(parameters)
    scopes = {node: _scope(node) for node in graph}
    operators: dict[str, set[str]] = {}
    for node, scope in scopes.items():
        operators.setdefault(scope, set()).add(node.op_type)
    outputs = set(graph.outputs)
    for node in graph:
        scope = scopes[node]
        stands_for_module = scope in leaf_modules and (
            len(operators[scope]) == 1 or _reads_parameters(node, scope)
        )
        name = scope if stands_for_module else _join(scope, node.op_type.lower())
        node.name = _unique(name, taken)
        for index, output in enumerate(node.outputs):
            if output not in outputs:
                suffix = f":{index}" if index else ""
                output.name = f"{node.name}{suffix}"
    _name_constants(model, parameters, taken)
    _drop_notes(model)


def _scope(node: ir.Node) -> str:
    """Innermost module of a node; the root, and unknown, is the empty string."""
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "['']"))
    return next((str(s) for s in reversed(scopes[:-1]) if not s.startswith("_")), "")


def _join(scope: str, operator: str) -> str:
    return f"{scope}/{operator}" if scope else operator


def _reads_parameters(node: ir.Node, scope: str) -> bool:
    return any(
        value is not None and value.is_initializer() and str(value.name).startswith(f"{scope}.")
        for value in node.inputs
    )


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate


def _name_constants(model: ir.Model, parameters: Collection[str], taken: set[str]) -> None:
    version = model.opset_imports[""]
    for value in list(model.graph.initializers.values()):
        if value.name in parameters:
            continue
        user, index = next(iter(value.uses()))
        value.name = _unique(f"{user.name}/{_input_role(user, index, version)}", taken)


def _input_role(node: ir.Node, index: int, version: int) -> str:
    formal = onnx.defs.get_schema(node.op_type, version, node.domain).inputs
    return formal[min(index, len(formal) - 1)].name.lower()


def _drop_notes(model: ir.Model) -> None:
    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.doc_string = None
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    for node in model.graph:
        for value in node.outputs:
            value.metadata_props.clear()
            value.doc_string = None
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None
