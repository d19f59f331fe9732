"""A chain of nodes that keeps channels apart: from the one that makes them to the one that mixes.

    producer (Conv, Gemm) -> step -> step -> ... -> consumer (Conv, Gemm)

A step computes each channel of its output from the same channel of its input. Where a channel is
constant, one number at every position and for every input, a step may keep it so; `constants` holds
these numbers, NaN for channels that are not constant:

    activation f         f(c), as onnxruntime computes it
    BatchNormalization   a c + b, and b where a = 0
    depthwise Conv       B + c * sum of the taps; padded, B where c = 0; B for a zero filter
    pools, means         c; an AveragePool that counts its padding keeps zero alone
    Flatten, Reshape     c, for each of the features that the channel becomes
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.passes.base import NotExactError, is_op, node_label, opset
from edgekit.export.passes.batch_norm import affine
from edgekit.export.passes.fold_batch_norm import check_channels
from edgekit.export.passes.fold_batch_norm_into_next import is_padded
from edgekit.export.passes.remove_identities import is_idle_dropout
from edgekit.export.passes.values import only_reader, read_bias, read_own_floats, stored
from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.session import open_session

Floats = NDArray[np.float64]

ACTIVATIONS = (
    "Abs",
    "Celu",
    "Clip",
    "Elu",
    "Erf",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Mish",
    "Neg",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Tanh",
    "ThresholdedRelu",
)


@dataclass(frozen=True)
class Chain:
    """Nodes from one that makes channels to the one that mixes them; each alone reads the last."""

    producer: ir.Node
    steps: tuple[ir.Node, ...]
    consumer: ir.Node


def trace(producer: ir.Node) -> Chain:
    """Follow a node's output to the convolution or Gemm that mixes its channels.

    Raises:
        NotExactError: a value on the way has other readers or is a graph output, or a node on the
            way is no step.
    """
    steps: list[ir.Node] = []
    value = producer.outputs[0]
    while True:
        reader = only_reader(value)
        if is_op(reader, "Gemm") or (is_op(reader, "Conv") and not is_depthwise(reader)):
            return Chain(producer, tuple(steps), reader)
        if not is_op(reader, *STEPS):
            raise NotExactError(
                f"{node_label(reader)} ({reader.op_type}) after it is not among the operators that "
                "this pass follows"
            )
        steps.append(reader)
        value = reader.outputs[0]


def is_depthwise(node: ir.Node) -> bool:
    """Whether a convolution has one filter for each of its input channels."""
    weight = stored(node.inputs[1])
    groups = node.attributes.get_int("group", 1)
    return (
        is_op(node, "Conv")
        and weight is not None
        and groups > 1
        and weight.shape.numpy()[:2] == (groups, 1)
    )


def constants_after(model: ir.Model, chain: Chain, constants: Floats) -> Floats:
    """The constant channels where the consumer reads them.

    Args:
        model: The model that the chain is part of.
        chain: The chain.
        constants: Those of the producer's output [channels]; NaN for the others.

    Raises:
        NotExactError: a step's weights or settings are not stored, or it mixes channels after all.
    """
    for step in chain.steps:
        try:
            constants = STEPS[step.op_type](model, step, constants)
        except NotExactError as reason:
            raise NotExactError(f"at {node_label(step)} ({step.op_type}), {reason}") from reason
    return constants


def _through_activation(model: ir.Model, node: ir.Node, constants: Floats) -> Floats:
    settings = [stored(value) for value in node.inputs[1:]]
    if any(value is not None and stored(value) is None for value in node.inputs[1:]):
        raise NotExactError("its settings are not stored")
    known = ~np.isnan(constants)
    if not known.any():
        return constants
    result = constants.copy()
    result[known] = _activate(model, node, constants[known], settings)
    return result


def _activate(
    model: ir.Model,
    node: ir.Node,
    numbers: Floats,
    settings: Sequence[ir.TensorProtocol | None],
) -> Floats:
    """Let onnxruntime compute one activation of some numbers."""
    data = node.inputs[0]
    dtype = (data.dtype if data is not None else None) or ir.DataType.FLOAT
    arrays = {
        f"setting_{i}": tensor.numpy() for i, tensor in enumerate(settings) if tensor is not None
    }
    proto = ir.to_proto(node)
    names = [f"setting_{i}" if f"setting_{i}" in arrays else "" for i in range(len(settings))]
    proto.input[:] = ["numbers", *names]
    proto.output[:] = ["result"]
    graph = onnx.helper.make_graph(
        [proto],
        "activation",
        [onnx.helper.make_tensor_value_info("numbers", dtype.value, [len(numbers)])],
        [onnx.helper.make_tensor_value_info("result", dtype.value, [len(numbers)])],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    imports = [onnx.helper.make_opsetid("", opset(model))]
    alone = onnx.helper.make_model(graph, opset_imports=imports, ir_version=model.ir_version)
    try:
        session = open_session(alone, optimize=False)
    except ModelFileError as error:
        raise NotExactError(f"it does not run alone ({error})") from error
    outputs = session.run(None, {"numbers": numbers.astype(dtype.numpy())})
    return np.asarray(outputs[0], np.float64)


def _through_dropout(model: ir.Model, node: ir.Node, constants: Floats) -> Floats:
    is_idle_dropout(model, node)
    return constants


def _through_batch_norm(model: ir.Model, node: ir.Node, constants: Floats) -> Floats:
    factor, shift = affine(model, node)
    check_channels(len(constants), factor)
    return np.where(factor == 0, shift, factor * constants + shift)


def _through_depthwise(_: ir.Model, node: ir.Node, constants: Floats) -> Floats:
    if not is_depthwise(node):
        raise NotExactError("it mixes channels")
    weight = read_own_floats(node.inputs[1], "weight")
    bias = read_bias(node, 2, len(constants))
    taps = weight.reshape(len(constants), -1)
    spread = constants
    if is_padded(node, weight.shape[2:]):
        spread = np.where(constants == 0, constants, np.nan)
    return np.where((taps == 0).all(axis=1), bias, spread * taps.sum(axis=1) + bias)


def _through_max_pool(_: ir.Model, node: ir.Node, constants: Floats) -> Floats:
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        raise NotExactError("its indices are read")
    dilated = any(size > 1 for size in node.attributes.get_ints("dilations", ()))
    # A dilated window may lie in the padding with all its taps.
    return np.full_like(constants, np.nan) if dilated else constants


def _through_average_pool(_: ir.Model, node: ir.Node, constants: Floats) -> Floats:
    kernel = tuple(node.attributes.get_ints("kernel_shape", ()))
    reaches_out = is_padded(node, kernel) or node.attributes.get_int("ceil_mode", 0) != 0
    if reaches_out and node.attributes.get_int("count_include_pad", 0) != 0:
        return np.where(constants == 0, constants, np.nan)
    return constants


def _through_global_pool(_: ir.Model, _node: ir.Node, constants: Floats) -> Floats:
    return constants


def _through_spatial(_: ir.Model, node: ir.Node, constants: Floats) -> Floats:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    axes: tuple[int, ...] = tuple(node.attributes.get_ints("axes", ()))
    if len(node.inputs) > 1:
        tensor = stored(node.inputs[1])
        axes = () if tensor is None else tuple(tensor.numpy().tolist())
    rank = None if shape is None else len(shape)
    if not axes or any(
        axis < 2 and (axis >= 0 or rank is None or axis + rank < 2) for axis in axes
    ):
        raise NotExactError("its axes are not known to be behind the channels")
    return constants


def _through_flatten(_: ir.Model, node: ir.Node, constants: Floats) -> Floats:
    if node.attributes.get_int("axis", 1) != 1:
        raise NotExactError("it does not flatten at axis 1")
    return constants


def _through_reshape(_: ir.Model, node: ir.Node, constants: Floats) -> Floats:
    target = stored(node.inputs[1]) if len(node.inputs) > 1 else None
    if target is None or target.size != 2:
        raise NotExactError("it is not known to flatten all but the batch")
    rows, columns = target.numpy().tolist()
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    dims = () if shape is None else tuple(shape)
    copies_rows = rows == 0 and not node.attributes.get_int("allowzero", 0)
    keeps_rows = copies_rows or (dims and dims[0] == rows)
    keeps_columns = (
        len(dims) > 1
        and all(isinstance(dim, int) for dim in dims[1:])
        and columns == math.prod(dim for dim in dims[1:] if isinstance(dim, int))
    )
    if not (keeps_rows or keeps_columns):
        raise NotExactError("it is not known to flatten all but the batch")
    return constants


STEPS: dict[str, Callable[[ir.Model, ir.Node, Floats], Floats]] = {
    **dict.fromkeys(ACTIVATIONS, _through_activation),
    "AveragePool": _through_average_pool,
    "BatchNormalization": _through_batch_norm,
    "Conv": _through_depthwise,
    "Dropout": _through_dropout,
    "Flatten": _through_flatten,
    "GlobalAveragePool": _through_global_pool,
    "GlobalMaxPool": _through_global_pool,
    "MaxPool": _through_max_pool,
    "ReduceMax": _through_spatial,
    "ReduceMean": _through_spatial,
    "Reshape": _through_reshape,
    "Squeeze": _through_spatial,
}
