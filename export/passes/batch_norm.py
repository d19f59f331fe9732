"""What a BatchNormalization computes at inference, as one multiplication and one addition.

    y = scale * (x - mean) / sqrt(var + epsilon) + bias = a * x + b
    a = scale / sqrt(var + epsilon)
    b = bias - mean * a

channel by channel, in float64. It is that only at inference, with stored statistics; refused are:

1. training mode: the attribute training_mode (opset 14), more than one output (opsets 7 to 13), or
   is_test = 0 (before opset 7), where statistics come from the batch;
2. spatial = 0 (before opset 9), where each position has statistics of its own;
3. a scale, bias, mean or variance that is a graph input or computed;
4. a result that is not finite, as with a negative variance.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.passes.base import NotExactError, opset
from edgekit.export.passes.values import read_floats

_ROLES = ("scale", "bias", "mean", "variance")


def affine(model: ir.Model, node: ir.Node) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The factor a and the shift b of a BatchNormalization, each [channels].

    Raises:
        NotExactError: the node is no fixed multiplication and addition.
    """
    check_inference(model, node)
    scale, bias, mean, variance = (
        read_floats(value, f"BatchNormalization's {role}")
        for role, value in zip(_ROLES, node.inputs[1:5], strict=True)
    )
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + epsilon)
        shift = bias - mean * factor
    if not (np.isfinite(factor).all() and np.isfinite(shift).all()):
        raise NotExactError("its BatchNormalization's factor is not finite")
    return factor, shift


def check_inference(model: ir.Model, node: ir.Node) -> None:
    """Pass where a BatchNormalization uses its stored statistics, one a channel.

    Raises:
        NotExactError: it is in training mode, or normalizes each position for itself.
    """
    version = opset(model)
    trains = (
        node.attributes.get_int("training_mode", 0) != 0
        or any(output.name for output in node.outputs[1:])
        or (version < 7 and node.attributes.get_int("is_test", 0) == 0)
    )
    if trains:
        raise NotExactError("its BatchNormalization is in training mode")
    if node.attributes.get_int("spatial", 1) == 0:
        raise NotExactError("its BatchNormalization has statistics for each position (spatial = 0)")
