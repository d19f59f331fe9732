"""Compute what does not depend on the input, once and for all, by onnxscript's constant folding.

A result takes the place of the nodes that compute it, under these limits, because the file that
ships must not grow:

1. Results of more than 4096 elements stay computed, unless the constants that they are computed
   from disappear and are at least as large (a ConstantOfShape or an Expand is not written out).
2. QuantizeLinear and DequantizeLinear stay: folded, a quantized weight would be float32 again.
3. A Cast to a wider type stays: folded, a weight stored in half precision would double.

4. What reads a graph input stays, also where the input has a default: a caller may replace it.

Random operators, control flow, SplitToSequence and nodes with several outputs stay as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager

import onnx_ir as ir
from onnxscript.optimizer import FOLDED_FROM_KEY, fold_constants_ir

from edgekit.export.graph import graphs, nodes
from edgekit.export.liveness.shapes import shapes_known
from edgekit.export.passes.base import is_op
from edgekit.export.passes.values import stored

# Elements.
_INPUT_LIMIT = 1 << 20
_OUTPUT_LIMIT = 4096
_HIDDEN_DOMAIN = "edgekit.hidden"  # no model imports it, so that its operators are let be


class FoldConstants(ir.passes.InPlacePass):
    """Replace what depends on constants alone with its result, where the file does not grow."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold in place."""
        with _defaults_hidden(model), _splits_hidden(model):
            result = fold_constants_ir(
                model,
                onnx_shape_inference=not shapes_known(model.graph),
                input_size_limit=_INPUT_LIMIT,
                output_size_limit=_OUTPUT_LIMIT,
                should_fold=_should_fold,
            )
        _drop_notes(model)
        return ir.passes.PassResult(model, result.modified)


@contextmanager
def _defaults_hidden(model: ir.Model) -> Iterator[None]:
    """Hide what graph inputs hold by default: onnxscript takes it for a constant in places."""
    initializers = model.graph.initializers
    order = list(initializers.values())
    hidden = [(value, value.const_value) for value in order if value.is_graph_input()]
    for value, _ in hidden:
        initializers.pop(str(value.name))
        value.const_value = None
    try:
        yield
    finally:
        for value, tensor in hidden:
            value.const_value = tensor
            initializers.add(value)
        if hidden:
            _put_in_order(initializers, order)


def _put_in_order(initializers: MutableMapping[str, ir.Value], order: Iterable[ir.Value]) -> None:
    """Those that were there first as they were, then the new ones."""
    old = [value for value in order if initializers.get(str(value.name)) is value]
    known = set(old)
    for value in (*old, *[v for v in initializers.values() if v not in known]):
        name = str(value.name)
        initializers[name] = initializers.pop(name)


@contextmanager
def _splits_hidden(model: ir.Model) -> Iterator[None]:
    """Hide SplitToSequence: onnxscript fails on computed sizes, and writes opset 18 before it."""
    hidden = [node for node in nodes(model) if is_op(node, "SplitToSequence")]
    for node in hidden:
        node.domain = _HIDDEN_DOMAIN
    try:
        yield
    finally:
        for node in hidden:
            node.domain = ""


def _should_fold(node: ir.Node) -> bool | None:
    """False for a widening Cast, and for text; None leaves the decision to the limits."""
    if any(_is_text(value) for value in (*node.inputs, *node.outputs)):
        return False  # onnx_ir cannot write what onnxscript makes of it
    tensor = stored(node.inputs[0]) if is_op(node, "Cast") else None
    if tensor is None:
        return None
    target = ir.DataType(node.attributes.get_int("to", 0))
    return False if target.bitwidth > tensor.dtype.bitwidth else None


def _is_text(value: ir.Value | None) -> bool:
    tensor = stored(value)
    types = (None if value is None else value.dtype, None if tensor is None else tensor.dtype)
    return ir.DataType.STRING in types


def _drop_notes(model: ir.Model) -> None:
    """Remove onnxscript's record of what each constant was folded from; it would be written out."""
    for graph in graphs(model):
        for value in graph.initializers.values():
            value.metadata_props.pop(FOLDED_FROM_KEY, None)
    for node in nodes(model):
        for output in node.outputs:
            output.metadata_props.pop(FOLDED_FROM_KEY, None)
