from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.export.packing.codebook import fit_codebook, share_values


def distance(
    values: NDArray[np.float64], weights: NDArray[np.float64], centers: NDArray[np.float64]
) -> float:
    nearest = np.abs(values[:, None] - centers[None, :]).min(axis=1)
    return float((weights * nearest**2).sum())


def test_the_codebook_is_the_best_partition_of_few_points() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        values = np.sort(generator.integers(-128, 128, 9)).astype(np.float64)
        weights = generator.uniform(0.1, 3, 9)
        if len(np.unique(values)) < 9:
            continue
        found = distance(values, weights, fit_codebook(values, weights, 3))
        best = min(
            distance(values, weights, means(values, weights, cuts))
            for cuts in combinations(range(1, 9), 2)
        )
        assert found == pytest.approx(best)
        assert distance(values, weights, np.linspace(-128, 127, 3)) > best


def means(
    values: NDArray[np.float64], weights: NDArray[np.float64], cuts: tuple[int, ...]
) -> NDArray[np.float64]:
    edges = [0, *cuts, len(values)]
    runs = [slice(a, b) for a, b in pairwise(edges)]
    return np.array([np.average(values[run], weights=weights[run]) for run in runs])


def test_it_is_no_worse_than_scikit_learns_k_means() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    values = np.random.default_rng(0).standard_t(4, 3000)
    ours = distance(values, np.ones(3000), fit_codebook(values, np.ones(3000), 16))
    theirs = cluster.KMeans(16, n_init=3, random_state=0).fit(values[:, None]).inertia_
    assert ours <= theirs * 1.001


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_zeros_stay_and_the_others_fit_the_bits(dtype: type[np.generic], bits: int) -> None:
    generator = np.random.default_rng(0)
    array = generator.normal(0, 40, (32, 16, 3, 3)).clip(-128, 127)
    array = np.where(generator.random(array.shape) < 0.6, 0, np.rint(array)).astype(dtype)
    result = shared(array, bits)
    assert result.dtype == dtype
    assert not result[array == 0].any()
    assert len(np.unique(result[result != 0])) <= 1 << bits
    spread = float(array.astype(np.float64).std())
    assert np.sqrt(np.mean((result.astype(np.float64) - array) ** 2)) < spread / 2 ** (bits - 1)


def test_a_dense_tensor_with_zeros_leaves_a_code_for_them() -> None:
    array = np.random.default_rng(0).normal(0, 1, (64, 64)).astype(np.float32)
    array[0, :8] = 0
    assert len(np.unique(shared(array, 4))) == 16


def test_a_channel_of_a_larger_scale_weighs_more() -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(1, 128, (2, 512)).astype(np.int8)
    codes[1] //= 4
    scales = np.array([1e-3, 1.0], np.float32)
    error = np.abs(shared(codes, 2, scales).astype(float) - codes).mean(axis=1)
    plain = np.abs(shared(codes, 2).astype(float) - codes).mean(axis=1)
    assert error[1] < plain[1] < plain[0] < error[0]


def test_few_values_are_left_as_they_are() -> None:
    array = np.random.default_rng(0).choice(np.array([-1, 0, 1], np.float32), (64, 64))
    assert shared(array, 2).tobytes() == array.tobytes()


def shared(
    array: NDArray[np.generic], bits: int, scales: NDArray[np.float32] | None = None
) -> NDArray[np.generic]:
    """An array after `share_values` on a MatMul with it; with scales, behind their quantizer."""
    weight = ir.Value(name="w", const_value=ir.tensor(array, name="w"))
    nodes, operand, stored = [], weight, [weight]
    if scales is not None:
        scale = ir.Value(name="s", const_value=ir.tensor(scales, name="s"))
        nodes.append(ir.node("DequantizeLinear", [weight, scale], {"axis": 0}))
        operand, stored = nodes[0].outputs[0], [weight, scale]
    source = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT))
    nodes.append(ir.node("Conv" if array.ndim == 4 else "MatMul", [source, operand]))
    graph = ir.Graph(
        [source], nodes[-1].outputs, nodes=nodes, initializers=stored, opset_imports={"": 20}
    )
    share_values(ir.Model(graph, ir_version=10), bits)
    assert weight.const_value is not None
    return weight.const_value.numpy()
