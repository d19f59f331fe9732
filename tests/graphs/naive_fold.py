"""A fold of batch norm as one would write it first, to see that the random networks catch it."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.export.passes.base import NotExactError, is_op
from edgekit.export.passes.batch_norm import affine
from edgekit.export.passes.fold_batch_norm import check_channels
from edgekit.export.passes.values import bypass, fresh_name, names, read_bias, read_floats


class NaiveFold(ir.passes.InPlacePass):
    """Fold each BatchNormalization into the Conv before it.

    Args:
        minds_sharing: Leave weights alone that other nodes read, or that callers may replace.
        minds_readers: Leave convolutions alone whose result others read too.
    """

    def __init__(self, *, minds_sharing: bool, minds_readers: bool) -> None:
        super().__init__()
        self._minds_sharing = minds_sharing
        self._minds_readers = minds_readers

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = [node for node in model.graph if is_op(node, "BatchNormalization")]
        folded = [self._fold(model, node) for node in found]
        return ir.passes.PassResult(model, any(folded))

    def _fold(self, model: ir.Model, node: ir.Node) -> bool:
        value = node.inputs[0]
        conv = None if value is None else value.producer()
        if value is None or conv is None or not is_op(conv, "Conv"):
            return False
        weight = conv.inputs[1]
        if weight is None or weight.const_value is None:
            return False
        if self._minds_readers and (len(value.uses()) > 1 or value.is_graph_output()):
            return False
        if self._minds_sharing and (len(weight.uses()) > 1 or weight.is_graph_input()):
            return False
        try:
            factor, shift = affine(model, node)
            check_channels(weight.const_value.shape[0], factor)
            kernel = read_floats(weight, "weight") if not weight.is_graph_input() else None
            bias = read_bias(conv, 2, len(factor))
        except NotExactError:
            return False
        if kernel is None:
            kernel = weight.const_value.numpy().astype("float64")
        kernel = (kernel * factor.reshape(-1, 1, 1, 1)).astype("float32")
        weight.const_value = ir.tensor(kernel, name=weight.name)
        tensor = ir.tensor((bias * factor + shift).astype("float32"))
        stored = ir.Value(
            name=fresh_name(names(model), "bias"), const_value=tensor,
            shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype),
        )  # fmt: skip
        model.graph.register_initializer(stored)
        conv.resize_inputs(3)
        conv.replace_input_with(2, stored)
        bypass(node, value)
        return True
