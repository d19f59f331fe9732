"""Compute once what is computed twice, by onnx-ir's pass.

Under these limits:

1. What draws random numbers stays: Bernoulli and Dropout in training, beside those that onnx-ir
   leaves alone itself. Two draws are not equal.
2. An Identity stays: it is there to give a value a second name, of a graph output.
3. A graph output keeps the type and the shape that the model declares, also where another value
   takes its place; onnx-ir would leave it without a type, and the model invalid.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass

from edgekit.export.passes.base import is_op


class MergeCommonSubexpressions(ir.passes.InPlacePass):
    """Let readers of equal results read one of them."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Merge in place."""
        declared = [(output.type, output.shape) for output in model.graph.outputs]
        with _kept_apart(model):
            result = CommonSubexpressionEliminationPass()(model)
        for output, (kind, shape) in zip(model.graph.outputs, declared, strict=True):
            output.type, output.shape = kind, shape
        return ir.passes.PassResult(model, result.modified)


@contextmanager
def _kept_apart(model: ir.Model) -> Iterator[None]:
    """Give each node that must stay a domain of its own, so that it equals no other."""
    apart = [
        node
        for node in model.graph
        if is_op(node, "Bernoulli", "Identity") or (is_op(node, "Dropout") and len(node.inputs) > 2)
    ]
    for number, node in enumerate(apart):
        node.domain = f"edgekit.apart.{number}"
    try:
        yield
    finally:
        for node in apart:
            node.domain = ""
