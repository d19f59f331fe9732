"""The ONNX backend suite against the oracle that knows no formula.

A node runs in onnxruntime on ones, with its padding made explicit and its bias zero: the sum of its
output is the number of its multiply-accumulates. With the mask of the non-zero weights in place of
ones it is the effective number.
"""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgekit.bench.count import Counts, count
from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.session import open_session

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the suite computes its expected outputs while it is built
    from onnx.backend.test.loader import load_model_tests

Array = NDArray[Any]
OPSET = 21  # the newest that has every operator here and that onnxruntime runs
# Operator -> inputs that are multiplied, the second of them stored.
OPERANDS = {
    "Conv": (0, 1),
    "ConvInteger": (0, 1),
    "ConvTranspose": (0, 1),
    "DeformConv": (0, 1),
    "Einsum": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearConv": (0, 3),
    "QLinearMatMul": (0, 3),
}
ONES = {"QLinearConv": (1, 4, 6), "QLinearMatMul": (1, 4, 6), "DeformConv": (4,)}  # scales, masks
MATRIX_PRODUCTS_AND_CONVOLUTIONS = 47


@cache
def suite() -> dict[str, onnx.ModelProto]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    return {case.name: case.model for case in cases if case.model is not None}


def single(*operators: str) -> dict[str, onnx.ModelProto]:
    return {
        name: model
        for name, model in suite().items()
        if len(model.graph.node) == 1 and model.graph.node[0].op_type in operators
    }


def shape_of(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def input_of(model: onnx.ModelProto, index: int) -> onnx.ValueInfoProto | None:
    names = model.graph.node[0].input
    if index >= len(names) or not names[index]:
        return None
    return next(value for value in model.graph.input if value.name == names[index])


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def explicit_padding(
    model: onnx.ModelProto, x: tuple[int, ...], w: tuple[int, ...]
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Attributes without padding, and the input's shape with it."""
    node = model.graph.node[0]
    settings = attributes(node)
    output = shape_of(model.graph.output[0])
    axes = len(x) - 2
    strides = settings.get("strides", [1] * axes)
    dilations = settings.get("dilations", [1] * axes)
    pads = settings.pop("pads", [0] * (2 * axes))
    if settings.pop("auto_pad", b"NOTSET") != b"NOTSET":
        reach = [d * (k - 1) + 1 for d, k in zip(dilations, w[2:], strict=True)]
        total = [
            (o - 1) * s + r - i
            for o, s, r, i in zip(output[2:], strides, reach, x[2:], strict=True)
        ]
        pads = [*total, *[0] * axes]
    spatial = [i + a + b for i, a, b in zip(x[2:], pads[:axes], pads[axes:], strict=True)]
    return settings, (*x[:2], *spatial)


def oracle(model: onnx.ModelProto, weight: Array) -> int:
    """The sum of the node's output on ones."""
    node = model.graph.node[0]
    op_type = node.op_type
    x_index, w_index = OPERANDS[op_type]
    x_info = input_of(model, x_index)
    assert x_info is not None
    x_shape, settings = shape_of(x_info), attributes(node)
    if op_type == "ConvTranspose":  # the whole output, before padding cuts it
        for name in ("pads", "output_padding", "output_shape", "auto_pad"):
            settings.pop(name, None)
    elif "Conv" in op_type:
        settings, x_shape = explicit_padding(model, x_shape, weight.shape)
    settings.pop("alpha", None)
    feeds: dict[str, Array] = {}
    names = node.input[:2] if op_type.endswith("Integer") else node.input  # no zero points
    for index, name in enumerate(names):
        info = input_of(model, index)
        if info is None:
            continue
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        dtype = dtype if np.issubdtype(dtype, np.integer) else np.dtype(np.float32)
        if index == w_index:
            feeds[name] = weight.astype(dtype)
        else:
            full = index == x_index or index in ONES.get(op_type, ())
            fill = np.ones if full else np.zeros
            feeds[name] = fill(x_shape if index == x_index else shape_of(info), dtype)
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feeds.items()
    ]
    made = helper.make_node(op_type, names, node.output, **settings)
    kind = model.graph.output[0].type.tensor_type.elem_type
    if kind in (onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
        kind = onnx.TensorProto.FLOAT
    output = helper.make_tensor_value_info(node.output[0], kind, None)
    graph = helper.make_graph([made], "oracle", inputs, [output])
    runnable = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    runnable.ir_version = 10
    session = open_session(runnable, optimize=False)
    return int(session.run(None, feeds)[0].astype(np.float64).sum())


def counted(model: onnx.ModelProto, weight: Array | None = None) -> Counts:
    """Counts of a case as it stands, its weight stored if one is given."""
    shipped = onnx.ModelProto()
    shipped.CopyFrom(model)
    if weight is not None:
        name = model.graph.node[0].input[OPERANDS[model.graph.node[0].op_type][1]]
        kept = [value for value in shipped.graph.input if value.name != name]
        kind = next(v for v in model.graph.input if v.name == name).type.tensor_type.elem_type
        del shipped.graph.input[:]
        shipped.graph.input.extend(kept)
        stored = weight.astype(helper.tensor_dtype_to_np_dtype(kind))
        shipped.graph.initializer.append(numpy_helper.from_array(stored, name))
    return count(ir.from_proto(shipped))


def batch_of(model: onnx.ModelProto) -> int:
    """What the counts are divided by: the batch of a model whose input is an image."""
    shape = shape_of(model.graph.input[0])
    return shape[0] if len(shape) == 4 else 1


def mask_for(model: onnx.ModelProto) -> Array:
    info = input_of(model, OPERANDS[model.graph.node[0].op_type][1])
    assert info is not None
    rng = np.random.default_rng(len(shape_of(info)))
    return (rng.random(shape_of(info)) < 0.6).astype(np.float32)


CASES = single(*OPERANDS)
MULTIPLYING = [name for name, model in CASES.items() if len(model.graph.node[0].input) > 1]


def test_the_suite_has_as_many_cases_as_were_proved() -> None:
    others = ("DeformConv", "Einsum")
    plain = [n for n in MULTIPLYING if CASES[n].graph.node[0].op_type not in others]
    assert len(plain) >= MATRIX_PRODUCTS_AND_CONVOLUTIONS


@pytest.mark.parametrize("name", MULTIPLYING)
def test_a_case_counts_what_a_run_on_ones_sums_up(name: str) -> None:
    model = CASES[name]
    mask = mask_for(model)
    dense, effective = oracle(model, np.ones_like(mask)), oracle(model, mask)
    batch = batch_of(model)
    assert counted(model).macs * batch == dense
    assert counted(model).uncounted_ops == ()
    masked = counted(model, mask)
    repeated = model.graph.node[0].op_type == "Einsum" and masked.macs == masked.effective_macs
    assert (masked.macs * batch, masked.effective_macs * batch) == (
        dense,
        dense if repeated else effective,
    )


@pytest.mark.parametrize("name", [name for name in CASES if name not in MULTIPLYING])
def test_a_sum_of_one_operand_is_no_product(name: str) -> None:
    assert counted(CASES[name]).macs == 0


def test_the_oracle_sees_padding_that_is_left_out() -> None:
    model = CASES["test_basic_conv_with_padding"]
    shape = shape_of(model.graph.input[1])
    unpadded = onnx.ModelProto()
    unpadded.CopyFrom(model)
    for attribute in unpadded.graph.node[0].attribute:
        if attribute.name == "pads":
            attribute.ints[:] = [0, 0, 0, 0]
    assert oracle(unpadded, np.ones(shape)) < counted(model).macs


ATTENTION = sorted(name for name in single("Attention") if f"{name}_expanded" in suite())


def test_attention_counts_the_products_of_its_function_body() -> None:
    """Each case's twin is the body of plain operators that the standard gives to Attention."""
    proved = 0
    for name in ATTENTION:
        try:
            by_body = counted(suite()[f"{name}_expanded"]).macs
        except ModelFileError:  # a body whose shapes only a run can tell
            continue
        assert counted(suite()[name]).macs == by_body > 0, name
        proved += 1
    assert proved >= 50


GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
RECURRENT = single(*GATES)


def step_sum(op_type: str, w: Array, r: Array, batch: int) -> int:
    """Sum of what one step multiplies and adds, gate after gate brought where it can be seen.

    The other gates are held wide open or shut by their biases; the state before is ones, or zeros
    where it would add to the result.
    """
    _, rows, size = w.shape
    hidden = rows // GATES[op_type]
    total = 0.0
    for gate in range(GATES[op_type]):
        seen = {"RNN": 0, "GRU": 2, "LSTM": 3}[op_type]
        shift = (seen - gate) * hidden
        total += _run_step(op_type, np.roll(w, shift, 1), np.roll(r, shift, 1), batch, size)
    return round(total)


def _run_step(op_type: str, w: Array, r: Array, batch: int, size: int) -> float:
    directions, _, hidden = r.shape
    bias = np.zeros((directions, 2 * w.shape[1]), np.float32)
    held = {"RNN": [], "GRU": [-1e6, 1e6], "LSTM": [1e6, 1e6, -1e6]}[op_type]
    for gate, value in enumerate(held):  # GRU: update shut, reset open; LSTM: in, out open
        bias[:, gate * hidden : (gate + 1) * hidden] = value
    activations = {
        "RNN": ["Affine"],
        "GRU": ["Sigmoid", "Affine"],
        "LSTM": ["Sigmoid", "Affine", "Affine"],
    }[op_type]
    alphas = [1.0] * activations.count("Affine")
    node = helper.make_node(
        op_type,
        ["x", "w", "r", "b", "", "h"],
        ["y"],
        hidden_size=hidden,
        direction="bidirectional" if directions == 2 else "forward",
        activations=activations * directions,
        activation_alpha=alphas * directions,
        activation_beta=[0.0] * len(alphas) * directions,
    )
    feeds = {
        "x": np.ones((1, batch, size), np.float32),
        "w": w.astype(np.float32),
        "r": r.astype(np.float32),
        "b": bias,
        "h": np.ones((directions, batch, hidden), np.float32),
    }
    infos = [helper.make_tensor_value_info(n, 1, a.shape) for n, a in feeds.items()]
    output = helper.make_tensor_value_info("y", 1, None)
    graph = helper.make_graph([node], "step", infos, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 10
    return float(open_session(model, optimize=False).run(None, feeds)[0].sum())


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_case_counts_what_its_steps_sum_up(name: str) -> None:
    model = RECURRENT[name]
    node = model.graph.node[0]
    infos = [input_of(model, index) for index in range(3)]
    x, w, r = (shape_of(info) for info in infos if info is not None)
    layout = attributes(node).get("layout", 0)
    steps, batch = (x[1], x[0]) if layout else (x[0], x[1])
    by_runs = steps * step_sum(node.op_type, np.ones(w), np.ones(r), batch)
    assert counted(model).macs == by_runs == math.prod(x[:2]) * (math.prod(w) + math.prod(r))


@pytest.mark.parametrize("op_type", GATES)
def test_a_recurrent_weight_with_zeros_counts_what_its_step_sums_up(op_type: str) -> None:
    rng = np.random.default_rng(4)
    hidden, size, batch = 5, 3, 2
    w = (rng.random((1, GATES[op_type] * hidden, size)) < 0.6).astype(np.float32)
    r = (rng.random((1, GATES[op_type] * hidden, hidden)) < 0.6).astype(np.float32)
    node = helper.make_node(op_type, ["x", "w", "r"], ["y"], hidden_size=hidden)
    graph = helper.make_graph(
        [node],
        "cell",
        [helper.make_tensor_value_info("x", 1, [1, batch, size])],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(r, "r")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    counts = count(ir.from_proto(model))
    assert counts.effective_macs == step_sum(op_type, w, r, batch) < counts.macs
