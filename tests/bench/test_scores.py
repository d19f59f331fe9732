"""Both scores against sums worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.bench.count import Counts, count
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
