from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, pairwise

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.export.graph import graphs
from edgekit.export.pack import pack
from edgekit.export.packing.codebook import fit_codebook, share_values
from edgekit.export.quantize import quantize
from edgekit.runtime.errors import ModelFileError

TextGraph = Callable[..., ir.Model]
NETWORK = """g (float[N, 4, 10, 10] x) => (float[N, 32] y) {
    a = Conv(x, w)
    p = GlobalAveragePool(a)
    f = Flatten(p)
    y = MatMul(f, v)
}"""
# One body reads a weight from outside, the other has its own.
BODIES = """g (float[N, 64] x) => (float[N, 64] y) {
    s = ReduceSum<keepdims = 0>(x)
    positive = Greater(s, zero)
    y = If(positive) <
        then_branch = t () => (float[N, 64] t1) { t1 = MatMul(x, w) },
        else_branch = e () => (float[N, 64] e1)
            <float[64, 64] own = {OWN}> { e1 = MatMul(x, own) }
    >
}"""
WITHOUT_WEIGHTS = "g (float[N, 4] x) => (float[N, 4] y) { y = Add(x, b) }"


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


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def distinct(model: ir.Model) -> list[int]:
    """How many values each stored tensor of more than one axis has, subgraphs included."""
    values = [value for graph in graphs(model) for value in graph.initializers.values()]
    arrays = [v.const_value.numpy() for v in values if v.const_value is not None]
    return [len(np.unique(array)) for array in arrays if array.ndim > 1]


@pytest.mark.parametrize("precision", ["fp16", "fp16-storage", "dynamic-int8"])
def test_weights_of_each_precision_are_rounded(precision: str, text_graph: TextGraph) -> None:
    network = text_graph(NETWORK, w=normal(32, 4, 3, 3), v=normal(32, 32))
    model = quantize(network, precision).model
    assert min(distinct(model)) > 16
    share_values(model, 4)
    assert max(distinct(model)) <= 17  # zeros beside
    plain, packed = (pack(quantize(network, precision).model, codebook=bits) for bits in (None, 4))
    assert packed.report.bytes_after < plain.report.bytes_after
    assert packed.report.max_error


def test_weights_that_bodies_read_are_rounded(text_graph: TextGraph) -> None:
    own = ", ".join(map(str, normal(64 * 64)))
    model = text_graph(BODIES.replace("OWN", own), w=normal(64, 64), zero=np.float32(0))
    assert share_values(model, 3) == 2
    assert distinct(model) == [8, 8]


def test_a_model_without_weights_to_round_is_refused(text_graph: TextGraph) -> None:
    model = text_graph(WITHOUT_WEIGHTS, b=normal(4))
    with pytest.raises(ModelFileError, match="leave out --codebook"):
        pack(model, codebook=4)


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
