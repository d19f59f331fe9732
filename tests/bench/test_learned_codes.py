"""Learned values that are stored as integers count like their float twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.bench.count import count
from edgekit.bench.roles import Role

Graph = Callable[..., ir.Model]

HEAD = '<ir_version: 10, opset_import: ["" : 21]>'
THRESHOLD = f"""
{HEAD}
agraph (float[n, 4, 2, 2] x) => (float[n, 4, 2, 2] y)
<float s = {{0.5}}, uint8 z = {{10}}, int64[3] shape = {{4, 2, 2}}>
{{
    q = QuantizeLinear (x, s, z)
    limit = Identity (t)
    m = Max (q, limit)
    y = DequantizeLinear (m, s, z)
}}
"""
LIMITS = np.array([10, 0, 11, 12], np.uint8).reshape(4, 1, 1)


@pytest.mark.parametrize("spread", ["Identity (t)", "Expand (t, shape)"])
@pytest.mark.parametrize("compare", ["Max", "Min"])
def test_thresholds_on_codes_are_parameters(graph: Graph, spread: str, compare: str) -> None:
    """The first of the four is the zero point of the codes that they are compared with."""
    text = THRESHOLD.replace("Identity (t)", spread).replace("Max", compare)
    counts = count(graph(text, t=LIMITS))
    floats = f"{HEAD} agraph (float[n, 4, 2, 2] x) => (float[n, 4, 2, 2] y) {{ y = Max (x, t) }}"
    twin = count(graph(floats, t=np.array([0, -5, 0.5, 1], np.float32).reshape(4, 1, 1)))
    assert (counts.params, counts.nonzero) == (twin.params, twin.nonzero) == (4, 3)
    assert counts.stored_bits == 4 * 8 + 32 + 8
    assert next(node.params for node in counts.nodes if node.op_type == compare) == 4


def test_codes_that_a_max_reads_from_the_graph_are_decoded_behind_it(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (uint8[n, 4, 2, 2] q) => (float[n, 16] y)
    <float s = {{0.5}}, uint8 z = {{12}}>
    {{
        m = Max (q, t)
        f = Flatten (m)
        y = DequantizeLinear (f, s, z)
    }}
    """
    counts = count(graph(text, t=LIMITS))
    assert (counts.params, counts.nonzero) == (4, 3)
    other = graph(text.replace("z = {12}", "z = {13}"), t=LIMITS)
    assert count(other).nonzero == 4


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_one_limit_for_all_is_a_constant(graph: Graph, dtype: type[np.generic]) -> None:
    kind = np.dtype(dtype).name.replace("32", "")
    text = f"{HEAD} agraph ({kind}[n, 4] x) => ({kind}[n, 4] y) {{ y = Max (x, t) }}"
    counts = count(graph(text, t=np.array(3, dtype)))
    (limit,) = counts.parameters
    assert (counts.params, limit.role) == (0, Role.CONSTANT)
    assert counts.stored_bits == np.dtype(dtype).itemsize * 8


TABLE = np.array([[3, 1, 2], [3, 3, 4]], np.uint8)


def test_a_quantized_embedding_is_learned(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (int64[5] i) => (float[5, 3] y)
    <float s = {{0.5}}, uint8 z = {{3}}>
    {{
        g = Gather (t, i)
        y = DequantizeLinear (g, s, z)
    }}
    """
    counts = count(graph(text, t=TABLE))
    assert (counts.params, counts.nonzero) == (6, 3)
    assert counts.stored_bits == 6 * 8 + 32 + 8


def test_an_embedding_whose_codes_are_multiplied_is_learned(graph: Graph) -> None:
    """As quantize_dynamic writes it: the product has the zero point of the table."""
    text = f"""
    {HEAD}
    agraph (int64[5] i) => (int32[5, 2] y)
    <uint8 z = {{3}}, int8 wz = {{0}}>
    {{
        g = Gather (t, i)
        y = MatMulInteger (g, w, z, wz)
    }}
    """
    counts = count(graph(text, t=TABLE, w=np.ones((3, 2), np.int8)))
    assert (counts.params, counts.nonzero) == (6 + 6, 3 + 6)


def test_a_table_of_indices_is_structure(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (int64[5] i, float[9] x) => (float[5, 3] y) {{ g = Gather (t, i) y = Gather (x, g) }}
    """
    counts = count(graph(text, t=TABLE.astype(np.int64)))
    assert (counts.params, counts.stored_bits) == (0, 0)


BIASED: dict[str, tuple[str, dict[str, Any]]] = {
    "product": (
        "(uint8[n, 3] x) => (int32[n, 2] y) { p = MatMulInteger (x, w) y = Add (b, p) }",
        {"w": np.ones((3, 2), np.int8), "b": np.array([0, 7], np.int32)},
    ),
    "convolution": (
        "(uint8[n, 3, 2, 2] x) => (int32[n, 8] y)"
        "{ p = ConvInteger (x, w) s = Add (p, b) y = Flatten (s) }",
        {"w": np.ones((2, 3, 1, 1), np.int8), "b": np.array([0, 7], np.int32).reshape(2, 1, 1)},
    ),
}


@pytest.mark.parametrize("form", BIASED)
def test_a_bias_on_integer_sums_is_learned(graph: Graph, form: str) -> None:
    text, tensors = BIASED[form]
    counts = count(graph(f"{HEAD} agraph {text}", **tensors))
    assert (counts.params, counts.nonzero) == (6 + 2, 6 + 1)
    assert counts.stored_bits == 6 * 8 + 2 * 32


def test_arithmetic_on_sizes_is_structure(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[2, 6] x) => (float y)
    <int64[2] least = {{3, 4}}>
    {{
        shape = Shape (x)
        other = Max (shape, least)
        more = Add (other, least)
        large = Expand (x, more)
        y = ReduceSum <keepdims = 0> (large)
    }}
    """
    counts = count(graph(text))
    assert (counts.params, counts.stored_bits) == (0, 0)
