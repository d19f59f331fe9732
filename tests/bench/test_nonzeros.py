"""Which elements of a constant are zero, whatever lies between the file and the operator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
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


def test_blocks_of_a_vector_have_a_zero_point_each(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[n, 8] x) => (float[n, 8] y)
    {{
        w = DequantizeLinear <axis = 0, block_size = 4> (q, s, z)
        y = Add (x, w)
    }}
    """
    codes = np.array([1, 1, 2, 3, 1, 2, 2, 2], np.uint8)
    points = np.array([1, 2], np.uint8)
    counts = count(graph(text, q=codes, s=np.ones(2, np.float32), z=points))
    assert (counts.params, counts.nonzero) == (8, 2 + 1)


def test_four_bit_floats_below_one_are_no_zeros(graph: Graph) -> None:
    text = f"""
    {HEAD.replace("21", "23").replace("10", "11")}
    agraph (float[n, 4] x) => (float[n, 2] y)
    <float s = {{0.5}}>
    {{
        w = DequantizeLinear (f, s)
        y = MatMul (x, w)
    }}
    """
    proto = ir.to_proto(graph(text))
    values = [0.5, 0, -0.5, 1, 0, 6, -0.0, 0.5]
    proto.graph.initializer.append(
        onnx.helper.make_tensor("f", onnx.TensorProto.FLOAT4E2M1, (4, 2), values)
    )
    counts = count(ir.from_proto(proto))
    assert (counts.params, counts.nonzero, counts.effective_macs) == (8, 5, 5)
    assert counts.stored_bits == 8 * 4 + 32


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


PART = f"""
{HEAD}
agraph (float[1, 4] x) => (float[a, b] y)
<float s = {{0.5}}, uint8 z = {{128}}, int64[2] twice = {{1, 2}}, int64[2] wide = {{4, 3}},
 int64[1] one = {{1}}, int64[1] last = {{-1}}, int64[1] least = {{-99}}, int64[1] end = {{99}}>
{{
    d = DequantizeLinear (q, s, z)
    PART
    y = MatMul (x, w)
}}
"""
# Four rows of three columns, of which five are zero.
CUT = np.array([[0, 1, 2], [0, 0, 3], [4, 5, 0], [6, 7, 0]], np.float32)


@pytest.mark.parametrize(
    ("cut", "nonzero"),
    [
        ("a, w = Split <axis = 1, num_outputs = 2> (d)", 2),  # the third column
        ("w, a = Split <axis = -1, num_outputs = 2> (d)", 5),  # the other two
        ("w = Slice (d, one, end, one)", 2 + 3),  # columns 1 and 2, the end beyond them
        ("w = Slice (d, last, least, one, last)", 7),  # all columns, backwards
        ("w = Concat <axis = 1> (d, f)", 7 + 4),
        ("w = Tile (d, twice)", 7 + 7),
        ("c, a, b = Split <axis = 1> (d) w = Expand (c, wide)", 3 * 2),  # the first, three times
        ("e, a = Split <axis = 1> (d, twice) t = Transpose (e) w = Transpose (t)", 2),
    ],
)
def test_zeros_are_found_behind_a_cut_or_join(graph: Graph, cut: str, nonzero: int) -> None:
    cut = cut.replace("c, a, b = Split <axis", "c, a, b = Split <num_outputs = 3, axis")
    text = PART.replace("PART", cut)
    dense = np.ones((4, 1), np.float32)
    counts = count(graph(text, q=(CUT + 128).astype(np.uint8), f=dense))
    columns = counts.nodes[-1].macs // 4
    assert (counts.macs, counts.effective_macs) == (4 * columns, nonzero)
    coded = next(p for p in counts.parameters if p.name == "q")
    assert (coded.elements, coded.nonzero) == (12, 7)


def test_codes_that_are_cut_before_they_are_decoded_are_zero_at_the_same_point(
    graph: Graph,
) -> None:
    text = PART.replace("d = DequantizeLinear (q, s, z)", "a, b = Split <num_outputs = 2> (q)")
    text = text.replace("PART", "c = DequantizeLinear (b, s, z) w = Concat <axis = 0> (c, c)")
    counts = count(graph(text, q=(CUT + 128).astype(np.uint8)))
    assert (counts.params, counts.nonzero) == (12, 7)
    assert (counts.macs, counts.effective_macs) == (12, 2 * 4)


@pytest.mark.parametrize("zero", [0, 128, 255])
@pytest.mark.parametrize("scale", ["s = {1}", "s"])
def test_weights_that_are_quantized_in_the_graph_are_zero_at_the_zero_point(
    graph: Graph, zero: int, scale: str
) -> None:
    stored, sign = scale != "s", -1 if zero == 255 else 1
    text = f"""
    {HEAD}
    agraph (float[1, 2] x{"" if stored else ", float s"}) => (float[1, 3] y)
    <uint8 z = {{{zero}}}{", float s = {1}" if stored else ""}>
    {{
        q = QuantizeLinear (w, s, z)
        d = DequantizeLinear (q, s, z)
        y = MatMul (x, d)
    }}
    """
    counts = count(graph(text, w=np.array([[0, sign, 0], [2 * sign, 0, 0]], np.float32)))
    assert (counts.params, counts.nonzero, counts.effective_macs) == (6, 2, 2)


BOTH = "c = DequantizeLinear (a, s, z) d = DequantizeLinear (b, s, two)"


@pytest.mark.parametrize(
    ("decoded", "rows", "nonzero"),
    [
        (f"{BOTH} w = Concat <axis = 0> (c, d)", 4, 7),
        (f"{BOTH} e = MatMul (v, c) w = Identity (d)", 2, 7),
        ("w = DequantizeLinear <axis = 0> (b, each, twos)", 2, 6 + 4),  # nothing reads the first
    ],
)
def test_codes_that_are_cut_have_the_zero_point_of_what_decodes_them(
    graph: Graph, decoded: str, rows: int, nonzero: int
) -> None:
    """A zero is 128 in the first two rows and 2 in the others."""
    text = PART.replace("d = DequantizeLinear (q, s, z)", "a, b = Split <num_outputs = 2> (q)")
    text = text.replace("PART", decoded).replace("<float s", "<uint8 two = {2}, float s")
    text = text.replace("float[1, 4] x", f"float[1, {rows}] x")
    codes = CUT.astype(np.uint8) + np.array([[128], [128], [2], [2]], np.uint8)
    tensors = {"each": np.ones(2, np.float32), "twos": np.full(2, 2, np.uint8)}
    counts = count(graph(text, q=codes, v=np.ones((3, 2), np.float32), **tensors))
    coded = next(p for p in counts.parameters if p.name == "q")
    assert (coded.elements, coded.nonzero) == (12, nonzero)


def test_weights_that_are_cut_between_their_quantizers_are_zero_at_the_zero_point(
    graph: Graph,
) -> None:
    text = PART.replace("d = DequantizeLinear (q, s, z)", "c = QuantizeLinear (f, s, z)")
    text = text.replace("PART", "a, b = Split <num_outputs = 2> (c) d = DequantizeLinear (b, s, z)")
    text = text.replace("y = MatMul", "w = Concat <axis = 0> (d, d) y = MatMul")
    counts = count(graph(text, f=CUT))
    assert (counts.params, counts.nonzero) == (12, 7)
    assert (counts.macs, counts.effective_macs) == (12, 2 * 4)


def test_float_weights_of_two_convolutions_in_one_tensor(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[n, 3, 2, 2] x) => (float[n, 2, 2, 2] a, float[n, 2, 2, 2] b)
    {{
        w1, w2 = Split <axis = 0, num_outputs = 2> (w)
        a = Conv (x, w1)
        b = Conv (x, w2)
    }}
    """
    counts = count(graph(text, w=CUT.reshape(4, 3, 1, 1)))
    assert (counts.params, counts.nonzero) == (12, 7)
    assert [n.effective_macs for n in counts.nodes if n.macs] == [4 * 3, 4 * 4]


def test_what_a_small_file_blows_up_is_not_built(graph: Graph) -> None:
    """12 rows of 10^10 equal numbers; laid out anew they count as dense."""
    text = f"""
    {HEAD}
    agraph (float[1, r] x) => (float[1, c] y)
    <int64[2] wide = {{12, 10000000000}}, int64[2] shape = {{3, 40000000000}}>
    {{
        e = Expand (f, wide)
        w = Reshape (e, shape)
        y = MatMul (x, w)
    }}
    """
    again = count(graph(text, f=CUT.reshape(12, 1)), {"x": (1, 3)})
    assert (again.params, again.nonzero) == (12, 7)
    assert again.macs == again.effective_macs == 12 * 10**10
    direct = graph(text.replace("Reshape (e, shape)", "Identity (e)"), f=CUT.reshape(12, 1))
    counts = count(direct, {"x": (1, 12)})
    assert (counts.macs, counts.effective_macs) == (12 * 10**10, 7 * 10**10)


def test_a_tensor_that_is_joined_with_itself_over_and_over_takes_no_time(graph: Graph) -> None:
    joins = " ".join(f"c{i + 1} = Concat <axis = 0> (c{i}, c{i})" for i in range(40))
    text = f"""
    {HEAD}
    agraph (float[1, 1099511627776] x) => (float[1, 1] y)
    {{
        {joins}
        y = MatMul (x, c40)
    }}
    """
    counts = count(graph(text, c0=np.ones((1, 1), np.float32)))
    assert (counts.params, counts.macs) == (1, 2**40)
