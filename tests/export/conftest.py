from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.export.graph import to_proto
from edgekit.export.passes.base import GraphPass
from edgekit.export.verify import largest_difference, random_inputs, run_outputs

TextGraph = Callable[..., ir.Model]
RunPass = Callable[..., list[str]]


def signature(model: ir.Model) -> list[tuple[object, ...]]:
    """What callers rely on: names, types and shapes of a graph's inputs and outputs."""
    return [
        (value.name, str(value.type), str(value.shape))
        for value in (*model.graph.inputs, *model.graph.outputs)
    ]


@pytest.fixture(scope="session")
def text_graph() -> TextGraph:
    """Build a model from the text of a graph; keyword arguments are its initializers."""

    def build(
        text: str,
        *,
        opset: int = 20,
        ir_version: int = 10,
        also_inputs: tuple[str, ...] = (),
        **initializers: NDArray[Any],
    ) -> ir.Model:
        header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>'
        proto = onnx.parser.parse_model(header + text)
        for name, array in initializers.items():
            tensor = onnx.numpy_helper.from_array(np.asarray(array), name)
            proto.graph.initializer.append(tensor)
            if name in also_inputs:
                value = onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
                proto.graph.input.append(value)
        onnx.checker.check_model(proto, full_check=True)
        return ir.from_proto(proto)

    return build


@pytest.fixture(scope="session")
def run_pass() -> RunPass:
    """Run a pass; its result must be valid, have the same signature and compute the same.

    It runs until it changes nothing. Returns the operators that are left.
    """

    def run(transform: GraphPass, model: ir.Model, *, tolerance: float = 2e-6) -> list[str]:
        inputs, before_signature = random_inputs(model), signature(model)
        before = run_outputs(model, inputs)
        changes = 0
        while transform(model).modified:
            changes += transform.changes
            assert changes < 1000
        transform.changes = changes
        onnx.checker.check_model(to_proto(model), full_check=True)
        assert signature(model) == before_signature
        assert largest_difference(before, run_outputs(model, inputs)) <= tolerance
        return [node.op_type for node in model.graph.all_nodes()]

    return run
