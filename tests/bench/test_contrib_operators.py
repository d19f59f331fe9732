"""Operators of onnxruntime's own domains: shapes, zero points and what they store."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.bench.count import count
from edgekit.bench.scores import imt
from edgekit.runtime.errors import ModelFileError

Graph = Callable[..., ir.Model]

HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'
WEIGHT = np.array([0, 1, 2, 3, 4, 5, 0, 7] * 2, np.int8).reshape(2, 8, 1, 1)
JOINED = f"""
{HEAD}
agraph (uint8[n, 4, 3, 3] a, uint8[n, 4, 3, 3] b) => (uint8[n, 2, 3, 3] y)
<float s = {{0.5}}, float sa = {{1.0}}, float sb = {{2.0}}, float sw = {{1.0}},
 uint8 z = {{1}}, uint8 za = {{2}}, uint8 zb = {{3}}, int8 zw = {{0}}>
{{
    c = com.microsoft.QLinearConcat <axis = 1> (s, z, a, sa, za, b, sb, zb)
    y = QLinearConv (c, s, z, w, sw, zw, s, z)
}}
"""


def test_joined_codes_are_followed_and_their_scales_stored(graph: Graph) -> None:
    counts = count(graph(JOINED, w=WEIGHT))
    assert (counts.macs, counts.effective_macs) == (9 * 16, 9 * 12)
    assert counts.nodes[0].output_shape == (1, 8, 3, 3)
    assert counts.stored_bits == 16 * 8 + 4 * 32 + 4 * 8
    assert (counts.params, counts.uncounted_ops) == (16, ())


def test_codes_that_are_joined_with_others_are_learned(graph: Graph) -> None:
    text = JOINED.replace("uint8[n, 4, 3, 3] a, ", "")
    token = np.full((1, 4, 3, 3), 2, np.uint8)
    token[0, 0, 0] = 5
    counts = count(graph(text, w=WEIGHT, a=token))
    assert (counts.params, counts.nonzero) == (16 + 36, 12 + 3)


@pytest.mark.parametrize("opset", [17, 21])
def test_a_mean_of_codes_is_followed(graph: Graph, opset: int) -> None:
    text = f"""
    {HEAD.replace("21", str(opset))}
    agraph (uint8[n, 8, 3, 3] x) => (uint8[n, 2, 1, 1] y)
    <float s = {{0.5}}, float t = {{1.0}}, uint8 z = {{1}}, int8 zw = {{0}}>
    {{
        m = com.microsoft.QLinearReduceMean <axes = [2, 3], keepdims = 1> (x, s, z, t, z)
        y = QLinearConv (m, t, z, w, t, zw, s, z)
    }}
    """
    counts = count(graph(text, w=WEIGHT))
    assert (counts.macs, counts.effective_macs) == (16, 12)
    assert counts.nodes[0].output_shape == (1, 8, 1, 1)
    assert counts.stored_bits == 16 * 8 + 2 * 32 + 2 * 8


@pytest.mark.parametrize("operator", ["QGemm", "QLinearConv", "FusedMatMul", "QAttention"])
def test_an_operator_without_its_inputs_is_refused(graph: Graph, operator: str) -> None:
    text = f"""
    {HEAD} agraph (uint8[2, 4] x) => (uint8[2, 4] y) {{ y = com.microsoft.{operator} (x) }}
    """
    with pytest.raises(ModelFileError, match=operator):
        count(graph(text))


@pytest.mark.parametrize(
    ("product", "bits"),
    [
        ("MatMulIntegerToFloat (x, w, s, s, z, z)", 32),
        ("QGemm (x, s, z, w, s, z)", 32),
        ("QGemm (x, s, z, w, s, z, , s, z)", 8),
        ("MatMulInteger16 (x, w)", 32),
    ],
)
def test_what_follows_a_product_of_codes_has_its_type(
    graph: Graph, product: str, bits: int
) -> None:
    """4 codes, 6 results, 6 of them after the next node: the peak is at that node."""
    text = f"""
    {HEAD}
    agraph (uint8[1, 4] x) => (y)
    <float s = {{0.5}}, uint8 z = {{3}}>
    {{
        p = com.microsoft.{product}
        y = Transpose (p)
    }}
    """
    counts = count(graph(text, w=np.ones((4, 6), np.uint8)))
    assert [node.output_shape for node in counts.nodes] == [(1, 6), (6, 1)]
    assert counts.peak_activation_bytes == 2 * 6 * bits // 8


def test_quantized_attention_makes_floats(graph: Graph) -> None:
    """16 bytes of codes in; 4 steps of 2 floats come out, twice."""
    text = f"""
    {HEAD}
    agraph (uint8[1, 4, 4] x) => (y)
    <float s = {{0.5}}>
    {{
        a = com.microsoft.QAttention <num_heads = 1> (x, w, b, s, s)
        y = Relu (a)
    }}
    """
    counts = count(graph(text, w=np.ones((4, 6), np.uint8), b=np.ones(6, np.float32)))
    assert [node.output_shape for node in counts.nodes] == [(1, 4, 2), (1, 4, 2)]
    assert counts.peak_activation_bytes == 2 * 8 * 4


def test_a_product_that_quantizes_its_input_counts_at_8_bits(graph: Graph) -> None:
    """As DynamicQuantizeLinear and MatMulInteger do, of which onnxruntime makes it."""
    pair = f"""
    {HEAD} agraph (float[1, 4] x) => (int32[1, 6] y)
    {{ q, s, z = DynamicQuantizeLinear (x) y = MatMulInteger (q, w, z) }}
    """
    fused = f"""
    {HEAD} agraph (float[1, 4] x) => (float[1, 6] y) <float s = {{0.5}}>
    {{ y = com.microsoft.DynamicQuantizeMatMul (x, w, s) }}
    """
    weight = np.ones((4, 6), np.int8)
    two, one = count(graph(pair, w=weight)), count(graph(fused, w=weight))
    assert imt(one) == imt(two) == pytest.approx(24 * (8 / 32) * (1 / 5.6e6 + 1 / 2.8e8))
    assert one.precision == two.precision == "dynamic-int8"


def test_a_quantized_lstm_quantizes_its_steps(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[5, 1, 3] x) => (float[5, 1, 1, 1] y)
    <float[1] s = {{0.5}}, int8[1] z = {{0}}>
    {{
        y = com.microsoft.DynamicQuantizeLSTM <hidden_size = 1> (x, w, r, , , , , , s, z, s, z)
    }}
    """
    w, r = np.ones((1, 3, 4), np.int8), np.ones((1, 1, 4), np.int8)
    counts = count(graph(text, w=w, r=r))
    (node,) = counts.nodes
    assert (node.macs, node.weight_bits, node.activation_bits) == (5 * 16, 8, 8)
    assert counts.precision == "dynamic-int8"


PACKED = np.ones((2, 1, 16), np.uint8)  # 2 rows of 32 codes of 4 bits


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ("K = 32, N = 2, bits = 4, block_size = 32", ""),
        ("N = 2, bits = 4, block_size = 32", "needs N, K"),
        ("K = 32, N = 2, bits = 3, block_size = 32", "2, 4 or 8 bits"),
        ("K = 32, N = 0, bits = 4, block_size = 32", "must be positive"),
        ("K = 32, N = 7, bits = 4, block_size = 32", "does not fit"),
    ],
)
def test_packed_weights_that_contradict_themselves_are_refused(
    graph: Graph, attributes: str, message: str
) -> None:
    text = f"""
    {HEAD}
    agraph (float[1, 32] x) => (float[1, n] y)
    {{ y = com.microsoft.MatMulNBits <{attributes}> (x, w, s) }}
    """
    model = graph(text, w=PACKED, s=np.ones(2, np.float32))
    if not message:
        assert count(model).params == 64
        return
    with pytest.raises(ModelFileError, match=message):
        count(model)


@pytest.mark.parametrize("dtype", [np.float16, np.int32])
def test_packed_weights_of_another_type_are_refused(graph: Graph, dtype: type[np.generic]) -> None:
    text = f"""
    {HEAD}
    agraph (float[1, 32] x) => (float[1, 2] y)
    {{ y = com.microsoft.MatMulNBits <K = 32, N = 2, bits = 4, block_size = 32> (x, w, s) }}
    """
    model = graph(text, w=PACKED.astype(dtype), s=np.ones(2, np.float32))
    with pytest.raises(ModelFileError, match=f"must be uint8, not {np.dtype(dtype).name}"):
        count(model)


def test_a_packed_product_of_nothing_is_refused(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[1, 32] x) => (float[1, 2] y)
    {{ y = com.microsoft.MatMulNBits <K = 32, N = 2, bits = 4, block_size = 32> () }}
    """
    with pytest.raises(ModelFileError, match="MatMulNBits"):
        count(graph(text))


def test_products_of_products_are_followed(graph: Graph) -> None:
    """Q K^T of 7 steps and 6 columns, then P V: each shape follows from the one before."""
    text = f"""
    {HEAD}
    agraph (float[1, 7, 8] x) => (y)
    {{
        q = MatMul (x, w)
        k = Relu (q)
        p = com.microsoft.FusedMatMul <transB = 1, alpha = 0.5> (q, k)
        s = Softmax (p)
        t = com.microsoft.FusedMatMul <transA = 1> (s, q)
        y = Relu (t)
    }}
    """
    counts = count(graph(text, w=np.ones((8, 6), np.float32)))
    assert counts.macs == 7 * 8 * 6 + 7 * 6 * 7 + 7 * 7 * 6
    shapes = [node.output_shape for node in counts.nodes]
    assert shapes == [(1, 7, 6)] * 2 + [(1, 7, 7)] * 2 + [(1, 7, 6)] * 2
    assert counts.peak_activation_bytes == 4 * (7 * 7 * 2 + 7 * 6)  # the Softmax, beside q


def test_shapes_that_an_operator_cannot_have_are_refused(graph: Graph) -> None:
    text = f"""
    {HEAD} agraph (float[4] x) => (float[2, 4] y)
    {{ y = com.microsoft.FusedMatMul <transA = 1> (x, w) }}
    """
    with pytest.raises(ModelFileError, match="do not fit"):
        count(graph(text, w=np.ones((4, 4), np.float32)))


def test_the_width_of_packed_weights_is_that_of_their_elements(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[1, 32] x) => (float[1, 2] y)
    {{ y = com.microsoft.MatMulNBits <K = 32, N = 2, bits = 4, block_size = 32> (x, w, s) }}
    """
    counts = count(graph(text, w=PACKED, s=np.ones(2, np.float32)))
    assert counts.nodes[0].weight_bits == 4


def test_embeddings_and_their_normalization_are_learned(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (int32[1, 3] ids) => (float[1, 3, 4] y, int32[1] mask)
    {{ y, mask = com.microsoft.EmbedLayerNormalization (ids, , words, places, , gamma, beta) }}
    """
    ones = {"gamma": np.ones(4, np.float32), "beta": np.ones(4, np.float32)}
    words, places = np.ones((7, 4), np.float32), np.ones((5, 4), np.float32)
    assert count(graph(text, words=words, places=places, **ones)).params == 28 + 20 + 4 + 4
