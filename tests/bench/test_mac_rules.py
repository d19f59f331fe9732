"""Every MAC rule against an oracle that knows no formula: a run on ones sums up to the MACs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekit.bench.count import count
from edgekit.bench.mac_rules import MAC_RULES, ZERO_MAC_OPS
from edgekit.runtime.session import open_session

FEW = settings(max_examples=25, deadline=None, database=None)
Array = NDArray[np.generic]


def model_of(node: onnx.NodeProto, x: Array, **stored: Array) -> onnx.ModelProto:
    floats = x.dtype == np.float32
    graph = helper.make_graph(
        [node],
        "oracle",
        [
            helper.make_tensor_value_info(
                "x", TensorProto.FLOAT if floats else TensorProto.UINT8, x.shape
            )
        ],
        [
            helper.make_tensor_value_info(
                "y", TensorProto.FLOAT if floats else TensorProto.INT32, None
            )
        ],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def output_sum(model: onnx.ModelProto, x: Array) -> int:
    return int(open_session(model, optimize=False).run(None, {"x": x})[0].sum())


def oracle(node: onnx.NodeProto, x: Array, **stored: Array) -> tuple[int, int]:
    """MACs dense and effective: the sum of the output on ones, and on the mask of the non-zeros."""
    ones = {name: np.ones_like(array) for name, array in stored.items()}
    mask = {name: (array != 0).astype(array.dtype) for name, array in stored.items()}
    return output_sum(model_of(node, x, **ones), x), output_sum(model_of(node, x, **mask), x)


def sparse(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.integers(1, 5, shape) * (rng.random(shape) < 0.6)).astype(np.float32)


def figures(model: onnx.ModelProto) -> tuple[int, int]:
    counts = count(ir.from_proto(model))
    return counts.macs, counts.effective_macs


@FEW
@given(
    group=st.sampled_from([1, 2, 4]),
    filters=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.integers(1, 2),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    seed=st.integers(0, 99),
)
def test_conv_counts_what_a_run_sums(
    group: int,
    filters: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilation: int,
    pads: tuple[int, int, int, int],
    seed: int,
) -> None:
    attributes = {"group": group, "strides": strides, "dilations": [dilation] * 2}
    weight = sparse((filters * group, 4 // group, *kernel), seed)
    x = np.ones((1, 4, 7, 6), np.float32)
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=1)
    explicit = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    shipped = helper.make_node("Conv", ["x", "w"], ["y"], pads=pads, **attributes)
    assert figures(model_of(shipped, x, w=weight)) == oracle(explicit, padded, w=weight)


@FEW
@given(
    group=st.sampled_from([1, 2]),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.integers(0, 1),
    seed=st.integers(0, 99),
)
def test_conv_transpose_counts_what_a_run_sums_before_its_output_is_cut(
    group: int, strides: tuple[int, int], pads: int, seed: int
) -> None:
    weight = sparse((4, 3, 3, 2), seed)
    x = np.ones((1, 4, 5, 3), np.float32)
    whole = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=group, strides=strides)
    cut = helper.make_node(
        "ConvTranspose", ["x", "w"], ["y"], group=group, strides=strides, pads=[pads] * 4
    )
    assert figures(model_of(cut, x, w=weight)) == oracle(whole, x, w=weight)


@FEW
@given(trans_a=st.booleans(), trans_b=st.booleans(), seed=st.integers(0, 99))
def test_gemm_counts_what_a_run_sums(trans_a: bool, trans_b: bool, seed: int) -> None:
    x = np.ones((5, 3) if trans_a else (3, 5), np.float32)
    weight = sparse((4, 5) if trans_b else (5, 4), seed)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transA=trans_a, transB=trans_b)
    assert figures(model_of(node, x, w=weight)) == oracle(node, x, w=weight)


@pytest.mark.parametrize(
    ("x_shape", "w_shape"),
    [
        ((3, 5), (5, 4)),
        ((5,), (5, 4)),
        ((3, 5), (5,)),
        ((2, 3, 5), (5, 4)),
        ((2, 1, 3, 5), (6, 5, 4)),
        ((3, 5), (2, 5, 4)),
    ],
)
def test_mat_mul_counts_what_a_run_sums(x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> None:
    x, weight = np.ones(x_shape, np.float32), sparse(w_shape, 3)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    macs, effective = figures(model_of(node, x, w=weight))
    batch = x_shape[0] if len(x_shape) == 4 else 1  # a model of images is counted per image
    assert (macs * batch, effective * batch) == oracle(node, x, w=weight)


def test_mat_mul_takes_the_stored_operand_on_either_side() -> None:
    x, weight = np.ones((5, 3), np.float32), sparse((4, 5), 3)
    node = helper.make_node("MatMul", ["w", "x"], ["y"])
    macs, effective = figures(model_of(node, x, w=weight))
    assert (macs, effective) == oracle(node, x, w=weight)
    assert effective < macs


def test_integer_operators_count_like_the_float_ones() -> None:
    x = np.ones((1, 2, 4, 4), np.uint8)
    weight = sparse((3, 2, 3, 3), 5).astype(np.uint8)
    node = helper.make_node("ConvInteger", ["x", "w"], ["y"])
    assert figures(model_of(node, x, w=weight)) == oracle(node, x, w=weight)
    flat = np.ones((2, 6), np.uint8)
    matrix = sparse((6, 3), 6).astype(np.uint8)
    product = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    assert figures(model_of(product, flat, w=matrix)) == oracle(product, flat, w=matrix)


def test_fused_operators_count_like_the_plain_ones() -> None:
    x, weight = np.ones((1, 2, 4, 4), np.float32), sparse((3, 2, 3, 3), 5)
    plain = helper.make_node("Conv", ["x", "w"], ["y"])
    fused = helper.make_node(
        "FusedConv", ["x", "w"], ["y"], domain="com.microsoft", activation="Relu"
    )
    assert figures(model_of(fused, x, w=weight)) == figures(model_of(plain, x, w=weight))


def test_the_oracle_sees_a_missing_factor() -> None:
    x, weight = np.ones((1, 2, 4, 4), np.float32), sparse((3, 2, 3, 3), 5)
    grouped = helper.make_node("Conv", ["x", "w"], ["y"], group=2)
    whole = helper.make_node("Conv", ["x", "w"], ["y"])
    half = weight[:2, :1]
    assert figures(model_of(grouped, x, w=half)) != oracle(whole, x, w=weight)


def test_every_operator_is_in_one_table_at_most() -> None:
    assert not ZERO_MAC_OPS & MAC_RULES.keys()


def test_operators_that_multiply_are_not_called_free() -> None:
    multiply = {"Attention", "DeformConv", "Einsum", "GRU", "LSTM", "RNN", "DFT", "STFT", "Det"}
    assert not multiply & ZERO_MAC_OPS
