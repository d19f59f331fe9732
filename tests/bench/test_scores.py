"""Both scores against sums worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.bench.count import Counts, count
from edgekit.bench.mac_rules import MAC_RULES, ZERO_MAC_OPS
from edgekit.bench.other_operations import FREE_OPERATIONS, OTHER_OPERATIONS
from edgekit.bench.scores import (
    IMT_MACS,
    IMT_PARAMS,
    MICRONET_OPERATIONS,
    MICRONET_PARAMS,
    ScoreConventions,
    imt,
    micronet2019,
    node_operations,
    storage_bits,
)

CONV = """
<ir_version: 10, opset_import: ["" : 21]>
agraph (float[batch, 2, 4, 4] x) => (float[batch, 3, 4, 4] y)
{
    c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    y = Relu (c)
}
"""
INT8 = """
<ir_version: 10, opset_import: ["" : 21]>
agraph (float[batch, 4] x) => (float[batch, 2] y)
<float s = {0.1}, uint8 z = {128}>
{
    xq = QuantizeLinear (x, s, z)
    xd = DequantizeLinear (xq, s, z)
    wd = DequantizeLinear (w, s)
    y = MatMul (xd, wd)
}
"""


@pytest.fixture
def sparse_conv(graph: Callable[..., ir.Model]) -> Counts:
    """54 weights of which 49 are not zero, 3 biases, 48 outputs."""
    weight = np.arange(1, 55, dtype=np.float32).reshape(3, 2, 3, 3)
    weight.reshape(-1)[:5] = 0
    return count(graph(CONV, w=weight, b=np.ones(3, np.float32)))


@pytest.fixture
def int8_product(graph: Callable[..., ir.Model]) -> Counts:
    """8 codes of which 6 are not zero, one scale, one zero point."""
    return count(graph(INT8, w=np.array([[0, 1], [2, 0], [3, 4], [5, 6]], np.int8)))


def test_imt_counts_dense_macs_and_nonzero_weights(sparse_conv: Counts) -> None:
    assert imt(sparse_conv) == pytest.approx(52 / 5.6e6 + 864 / 2.8e8, rel=1e-12)
    assert imt(sparse_conv) != pytest.approx(52 / 5.6e6 + 784 / 2.8e8, rel=1e-6)


def test_imt_counts_each_tensor_at_its_own_width(int8_product: Counts) -> None:
    by_hand = 6 * (8 / 32) / IMT_PARAMS + 8 * (8 / 32) / IMT_MACS
    assert imt(int8_product) == pytest.approx(by_hand, rel=1e-12)


def test_micronet_of_a_sparse_convolution(sparse_conv: Counts) -> None:
    storage = 49 * 32 + 54 + 3 * 32  # non-zeros, a mask for the weight, a dense bias
    assert storage_bits(sparse_conv) == storage
    multiplications, additions = 784, 784 - 48 + 48
    relu = 48
    by_hand = storage / 32 / 36.5e6 + (multiplications + additions + relu) / 10.49e9
    assert micronet2019(sparse_conv, ScoreConventions()) == pytest.approx(by_hand, rel=1e-12)


def test_micronet_of_a_quantized_product(int8_product: Counts) -> None:
    storage = 6 * 8 + 8 + (32 + 8)  # codes and their mask, scale and zero point
    operations = 8 / 32 * 6 + (6 - 2)
    by_hand = storage / 32 / MICRONET_PARAMS + operations / MICRONET_OPERATIONS
    assert micronet2019(int8_product, ScoreConventions()) == pytest.approx(by_hand, rel=1e-12)


def test_conventions_change_what_they_name(sparse_conv: Counts, int8_product: Counts) -> None:
    assert storage_bits(sparse_conv, mask_bits=2) == storage_bits(sparse_conv) + 54
    (product,) = (node for node in int8_product.nodes if node.macs)
    assert node_operations(product, 16) == 8 / 32 * 6 + 4 * 16 / 32


def test_the_16_bit_allowance_is_for_unquantized_entries_only(
    sparse_conv: Counts, int8_product: Counts
) -> None:
    free = ScoreConventions(free_16_bits=True)
    storage = 49 * 16 + 54 + 3 * 16
    operations = (784 + 48) * 16 / 32 + 784
    by_hand = storage / 32 / 36.5e6 + operations / 10.49e9
    assert micronet2019(sparse_conv, free) == pytest.approx(by_hand, rel=1e-12)
    assert micronet2019(int8_product, free) == micronet2019(int8_product, ScoreConventions())


def test_a_node_that_does_not_run_costs_nothing(sparse_conv: Counts) -> None:
    relu = sparse_conv.nodes[1]
    assert node_operations(relu, 32) == 48
    assert node_operations(replace(relu, runs=0), 32) == 0


# Two dot products of three weights, one of them of zeros alone: x -> multiplications, sums.
HALF = np.array([[0, 0, 0], [1, 0, 2]], np.float32)
DEAD = {
    "Conv": ("(float[n, 3, 4, 4] x) => (y) { y = Conv (x, w) }", HALF.reshape(2, 3, 1, 1), 16),
    "fixed batch": ("(float[8, 3, 4, 4] x) => (y) { y = Conv (x, w) }", HALF[..., None, None], 16),
    "MatMul": ("(float[5, 3] x) => (y) { y = MatMul (x, w) }", HALF.T, 5),
    "a batch of MatMul": ("(float[2, 5, 3] x) => (y) { y = MatMul (x, w) }", HALF.T[None], 10),
    "MatMul from the left": ("(float[3, 5] x) => (y) { y = MatMul (w, x) }", HALF, 5),
    "Gemm": ("(float[5, 3] x) => (y) { y = Gemm (x, w) }", HALF.T, 5),
    "Gemm of rows": ("(float[5, 3] x) => (y) { y = Gemm <transB = 1> (x, w) }", HALF, 5),
    "codes": (
        "(float[5, 3] x) => (y) <float s = {0.5}, uint8 z = {3}>"
        "{ d = DequantizeLinear (w, s, z) y = MatMul (x, d) }",
        (HALF.T + 3).astype(np.uint8),
        5,
    ),
    "a decoder": (
        "(float[5, 3] x) => (y) { d = Mul (w, f) y = MatMul (x, d) }",
        HALF.T,
        5,
    ),
}


@pytest.mark.parametrize("form", DEAD)
def test_a_dot_product_without_weights_adds_nothing(
    graph: Callable[..., ir.Model], form: str
) -> None:
    text, weight, outputs = DEAD[form]
    head = '<ir_version: 10, opset_import: ["" : 21]> agraph '
    model = graph(head + text, w=np.ascontiguousarray(weight), f=np.full(2, 2, np.float32))
    node = count(model).nodes[-1]
    multiplications = 2 * outputs
    assert node_operations(node, 32) == multiplications + multiplications - outputs


def test_a_bias_alone_is_no_addition(graph: Callable[..., ir.Model]) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    agraph (float[n, 3, 4, 4] x) => (float[n, 2, 4, 4] y) { y = Conv (x, w, b) }
    """
    counts = count(graph(text, w=HALF.reshape(2, 3, 1, 1), b=np.ones(2, np.float32)))
    assert node_operations(counts.nodes[0], 32) == 32 + 32  # 2 products a position, then 2 sums


def test_what_runs_at_load_is_no_work_for_a_sample(graph: Callable[..., ir.Model]) -> None:
    """Scaling the weight costs nothing, also in a body; scaling what follows from x does."""
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    agraph (float[batch, 2, 4, 4] x, bool c) => (float[batch, 3, 4, 4] y)
    {
        ws = Mul (w, s)
        a = Conv (x, ws)
        y = If (c) <
            then_branch = yes () => (float[batch, 3, 4, 4] r) { t = Mul (s, s) r = Mul (a, t) },
            else_branch = no () => (float[batch, 3, 4, 4] q) { q = Identity (a) }
        >
    }
    """
    weight = np.ones((3, 2, 1, 1), np.float32)
    counts = count(graph(text, w=weight, s=np.ones((1,), np.float32)))
    work = {node.name: node_operations(node, 32) for node in counts.nodes}
    assert (work["ws"], work["t"]) == (0, 0)
    multiplications, additions = 16 * 6, 16 * 6 - 48
    assert (work["a"], work["r"]) == (multiplications + additions, 48)


# Operator on x [1, 4, 8, 8] -> multiplications and additions. 256 elements, 4 channels of 64.
CONVENTIONS = {
    "Abs (x)": (256, 0),
    "Celu (x)": (3 * 256, 256),
    "CumSum (x, axis)": (0, 256),
    "Erf (x)": (256, 0),
    "GlobalLpPool (x)": (256 + 4, 256 - 4),
    "GridSample (x, grid)": (4 * 4 * 4, 4 * 4 * 3),
    "InstanceNormalization (x, c, c)": (3 * 256, 4 * 256),
    "LRN <size = 3> (x)": (4 * 256, 3 * 256),
    "LayerNormalization (x, r)": (3 * 256, 3 * 256),
    "LayerNormalization (x, r, r)": (3 * 256, 4 * 256),
    "LogSoftmax (x)": (256, 2 * 256),
    "LpPool <kernel_shape = [2, 2], strides = [2, 2]> (x)": (64 * 5, 64 * 3),
    "Mean (x, x, x)": (256, 2 * 256),
    "Mish (x)": (5 * 256, 2 * 256),
    "Neg (x)": (0, 256),
    "Pow (x, r)": (256, 0),
    "Reciprocal (x)": (256, 0),
    "ReduceL2 (x, axis)": (256 + 64, 256 - 64),
    "ReduceMax (x, axis)": (256 - 64, 0),
    'Resize <mode = "linear"> (x, , scales)': (1024 * 4, 1024 * 3),
    'Resize <mode = "cubic"> (x, , scales)': (1024 * 16, 1024 * 15),
    'Resize <mode = "linear"> (x, , wider)': (512 * 2, 512 * 1),
    'Resize <mode = "nearest"> (x, , scales)': (0, 0),
    "Selu (x)": (3 * 256, 256),
    "Softplus (x)": (2 * 256, 256),
    "Sqrt (x)": (256, 0),
    "Floor (x)": (0, 0),
}


@pytest.mark.parametrize("operator", CONVENTIONS)
def test_operators_that_compute_cost_what_their_convention_says(
    graph: Callable[..., ir.Model], operator: str
) -> None:
    text = f"""
    <ir_version: 10, opset_import: ["" : 21]>
    agraph (float[1, 4, 8, 8] x) => (y)
    <int64[1] axis = {{1}}, float[4] scales = {{1, 1, 2, 2}}, float[4] wider = {{1, 1, 1, 2}}>
    {{ y = {operator} }}
    """
    row, column = np.ones(8, np.float32), np.ones(4, np.float32)
    counts = count(graph(text, r=row, c=column, grid=np.zeros((1, 4, 1, 2), np.float32)))
    (node,) = counts.nodes
    multiplications, additions = CONVENTIONS[operator]
    assert node_operations(node, 32) == multiplications + additions
    assert node_operations(node, 16) == multiplications + additions / 2


QUANTIZED = {
    "QLinearAveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x, s, z, s, z)": (64, 64 * 3),
    "QLinearLeakyRelu (x, s, z, s, z)": (256, 0),
    "QLinearReduceMean <axes = [2, 3]> (x, s, z, s, z)": (4, 256 - 4),
    "QLinearConcat <axis = 1> (s, z, x, s, z, x, s, z)": (0, 0),
}


@pytest.mark.parametrize("operator", QUANTIZED)
def test_operators_on_codes_cost_a_quarter_of_a_multiplication(
    graph: Callable[..., ir.Model], operator: str
) -> None:
    text = f"""
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    agraph (uint8[1, 4, 8, 8] x) => (y)
    <float s = {{0.5}}, uint8 z = {{1}}>
    {{ y = com.microsoft.{operator} }}
    """
    (node,) = count(graph(text)).nodes
    multiplications, additions = QUANTIZED[operator]
    assert node_operations(node, 32) == multiplications * 8 / 32 + additions


def test_every_operator_has_a_convention_or_is_free() -> None:
    tables = (MAC_RULES.keys(), OTHER_OPERATIONS.keys(), FREE_OPERATIONS)
    assert sum(map(len, tables)) == len(set().union(*tables))  # none is in two
    assert set().union(*tables) == MAC_RULES.keys() | ZERO_MAC_OPS


def test_pooling_counts_its_sums_and_one_division(graph: Callable[..., ir.Model]) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    agraph (float[batch, 2, 4, 4] x) => (float[batch, 2, 1, 1] y)
    {
        m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
        y = GlobalAveragePool (m)
    }
    """
    pool, mean = count(graph(text)).nodes
    assert node_operations(pool, 32) == 2 * 4 * 3
    assert node_operations(mean, 32) == 2 + 2 * 3
