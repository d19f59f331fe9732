"""Which elements of a constant are zero, whatever lies between the file and the operator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.bench.count import count
from edgekit.runtime.errors import ModelFileError

Graph = Callable[..., ir.Model]

HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'


# Zero points of two columns, and codes [2, 3] (a filter or column a row) with zeros 1 + 2.
POINTS = np.array([5, 7], np.uint8)
CODES = np.array([[5, 9, 9], [7, 7, 5]], np.uint8)


@pytest.mark.parametrize("transposed", [False, True])
def test_zero_points_of_a_quantized_gemm_lie_along_its_columns(
    graph: Graph, transposed: bool
) -> None:
    text = f"""
    {HEAD}
    agraph (uint8[n, 3] x) => (uint8[n, 2] y)
    <float s = {{0.5}}, uint8 z = {{0}}>
    {{
        y = com.microsoft.QGemm <transB = {int(transposed)}> (x, s, z, w, sw, zw, b, s, z)
    }}
    """
    weight = CODES if transposed else np.ascontiguousarray(CODES.T)
    scales, bias = np.ones(2, np.float32), np.array([0, 1], np.int32)
    counts = count(graph(text, w=weight, sw=scales, zw=POINTS, b=bias))
    assert (counts.params, counts.nonzero) == (6 + 2, 3 + 1)
    assert (counts.macs, counts.effective_macs) == (6, 3)


def test_zero_points_of_a_convolution_in_another_layout_are_its_filters(graph: Graph) -> None:
    text = f"""
    {HEAD.replace("com.microsoft", "com.ms.internal.nhwc")}
    agraph (uint8[n, 2, 2, 3] x) => (uint8[n, 2, 2, 2] y)
    <float s = {{0.5}}, uint8 z = {{0}}>
    {{
        y = com.ms.internal.nhwc.QLinearConv (x, s, z, w, sw, zw, s, z)
    }}
    """
    weight = CODES.reshape(2, 3, 1, 1)
    counts = count(graph(text, w=weight, sw=np.ones(2, np.float32), zw=POINTS))
    assert (counts.params, counts.nonzero) == (6, 3)
    assert (counts.macs, counts.effective_macs) == (4 * 6, 4 * 3)


def test_zero_points_of_quantized_attention_lie_along_the_columns(graph: Graph) -> None:
    """2 inputs, hidden size 1: Q, K and V have a column each."""
    text = f"""
    {HEAD}
    agraph (uint8[1, 4, 2] x) => (float[1, 4, 1] y)
    <float s = {{0.5}}, uint8 z = {{0}}, int32[1] mask = {{4}}>
    {{
        y = com.microsoft.QAttention <num_heads = 1> (x, w, b, s, sw, mask, z, zw)
    }}
    """
    weight = np.array([[5, 5, 6], [6, 7, 6]], np.uint8)
    scales, bias = np.ones(3, np.float32), np.ones(3, np.float32)
    zeros = np.array([5, 7, 6], np.uint8)
    counts = count(graph(text, w=weight, sw=scales, zw=zeros, b=bias))
    assert (counts.params, counts.nonzero) == (6 + 3, 2 + 3)
    scores = 4 * 4
    assert (counts.macs, counts.effective_macs) == (4 * 6 + 2 * scores, 4 * 2 + 2 * scores)


@pytest.mark.parametrize("zeros", [[[2], [3]], [[2, 2, 2, 2], [3, 3, 3, 3]]])
def test_zero_points_of_a_quantized_lstm_are_of_its_directions(
    graph: Graph, zeros: list[list[int]]
) -> None:
    """Both directions alone, or each with its columns: input 3, 4 gates of a hidden size of 1."""
    text = f"""
    {HEAD}
    agraph (float[5, 1, 3] x) => (float[5, 2, 1, 1] y)
    {{
        y = com.microsoft.DynamicQuantizeLSTM <hidden_size = 1, direction = "bidirectional">
            (x, w, r, , , , , , s, z, s, z)
    }}
    """
    points = np.array(zeros, np.uint8).squeeze()
    w, r = np.full((2, 3, 4), 2, np.uint8), np.full((2, 1, 4), 3, np.uint8)
    counts = count(graph(text, w=w, r=r, s=np.ones(points.shape, np.float32), z=points))
    assert (counts.params, counts.nonzero) == (24 + 8, 12 + 4)
    assert (counts.macs, counts.effective_macs) == (5 * 32, 5 * 16)


@pytest.mark.parametrize(
    ("zero_points", "axis", "fit"),
    [
        (np.ones(8, np.uint8), 0, True),
        (np.ones(5, np.uint8), 0, False),
        (np.ones(8, np.uint8), 7, False),
        (np.ones((2, 3, 4), np.uint8), 0, False),
    ],
)
def test_zero_points_that_do_not_fit_are_refused(
    graph: Graph, zero_points: NDArray[np.uint8], axis: int, fit: bool
) -> None:
    text = f"""
    {HEAD}
    agraph (float[n, 4] x) => (float[n, 8] y)
    <float s = {{0.5}}>
    {{
        w = DequantizeLinear <axis = {axis}> (q, s, z)
        y = Gemm <transB = 1> (x, w)
    }}
    """
    model = graph(text, q=np.arange(32, dtype=np.uint8).reshape(8, 4), z=zero_points)
    if fit:
        assert count(model).nonzero == 31
    else:
        with pytest.raises(ModelFileError, match=r"do not fit a tensor of shape \[8, 4\]"):
            count(model)


@pytest.mark.parametrize(("zero", "nonzero"), [(3, 0), (2, 10**12)])
def test_a_fill_counts_without_its_elements(graph: Graph, zero: int, nonzero: int) -> None:
    """A terabyte that the file fills with one code."""
    text = f"""
    {HEAD}
    agraph (float[1, 1000000] x) => (float[1, 1000000] y)
    <float s = {{0.5}}, uint8 z = {{{zero}}}, int64[2] shape = {{1000000, 1000000}}>
    {{
        q = ConstantOfShape <value = uint8[1] {{3}}> (shape)
        w = DequantizeLinear (q, s, z)
        y = MatMul (x, w)
    }}
    """
    counts = count(graph(text))
    assert (counts.params, counts.nonzero) == (10**12, nonzero)
    assert (counts.macs, counts.effective_macs) == (10**12, nonzero)
