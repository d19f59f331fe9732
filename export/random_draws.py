"""Which nodes draw random numbers, so that two runs differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.passes.base import is_op
from edgekit.export.passes.values import stored

Arrays = Mapping[str, NDArray[Any]]

_RANDOM_OPERATORS = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)


def draws(node: ir.Node, inputs: Arrays) -> bool:
    """Whether a node draws random numbers, as a Dropout in training mode does.

    Args:
        node: Any node.
        inputs: What the graph is fed, by name.
    """
    if not is_op(node, "Dropout"):
        return node.op_type in _RANDOM_OPERATORS
    _, ratio, mode = (*node.inputs, None, None)[:3]
    tensor = stored(ratio)
    drops = tensor is None or bool(tensor.numpy().any())
    return drops and _is_true(mode, inputs)


def _is_true(mode: ir.Value | None, inputs: Arrays) -> bool:
    """Whether a setting is stored, fed, or by default true; a computed one is taken for false."""
    if mode is None:
        return False
    fed = inputs.get(str(mode.name)) if mode.is_graph_input() else None
    if fed is not None:
        return bool(fed.any())
    tensor = mode.const_value if mode.is_graph_input() else stored(mode)
    return tensor is not None and bool(tensor.numpy().any())
