from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

TextGraph = Callable[..., ir.Model]


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
