"""Keep the types and shapes of a model's outputs through a pass of another library.

Such a pass may put another value in the place of an output under its name, and lose what the model
declares of it: without a type the model is invalid, and a shape is what callers rely on.
"""

from __future__ import annotations

import onnx_ir as ir


class KeepOutputs(ir.passes.InPlacePass):
    """Run a pass, then declare each output as before.

    Args:
        inner: The pass; it must leave the names and the order of the outputs.
    """

    def __init__(self, inner: ir.passes.PassBase) -> None:
        super().__init__()
        self._inner = inner

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the model in place."""
        declared = [(output.type, output.shape) for output in model.graph.outputs]
        result = self._inner(model)
        for output, (kind, shape) in zip(model.graph.outputs, declared, strict=True):
            output.type, output.shape = kind, shape
        return result
