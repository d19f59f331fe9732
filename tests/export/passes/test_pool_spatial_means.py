from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.export.graph import to_proto
from edgekit.export.passes.pool_spatial_means import PoolSpatialMeans
from edgekit.export.verify import random_inputs, run_outputs

TextGraph = Callable[..., ir.Model]


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3, -2]])
@pytest.mark.parametrize(
    ("keep", "shape", "made"),
    [
        (1, "N, 4, 1, 1", ["GlobalAveragePool"]),
        (0, "N, 4", ["GlobalAveragePool", "Flatten"]),
    ],
)
def test_a_mean_over_the_map_is_a_pool(
    text_graph: TextGraph, axes: list[int], keep: int, shape: str, made: list[str]
) -> None:
    text = f"""g (float[N, 4, 5, 6] x) => (float[{shape}] y) {{
        y = ReduceMean<keepdims = {keep}>(x, axes)
    }}"""
    model = text_graph(text, axes=np.asarray(axes, np.int64))
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)
    (before,) = run_outputs(model, {"x": x}).values()
    assert PoolSpatialMeans()(model).modified
    assert operators(model) == made
    assert model.graph.outputs[0].name == "y"
    (after,) = run_outputs(model, {"x": x}).values()
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_axes_were_an_attribute_once(text_graph: TextGraph) -> None:
    text = """g (float[N, 4, 5] x) => (float[N, 4, 1] y) {
        y = ReduceMean<axes = [2]>(x)
    }"""
    model = text_graph(text, opset=17)
    assert PoolSpatialMeans()(model).modified
    assert operators(model) == ["GlobalAveragePool"]


@pytest.mark.parametrize("axes", [[1, 2, 3], [2], [3], [0, 2, 3]])
def test_other_means_stay(text_graph: TextGraph, axes: list[int]) -> None:
    text = "g (float[N, 4, 5, 6] x) => (float y) { y = ReduceMean<keepdims = 0>(x, axes) }"
    text = text.replace("float y", "float[" + ", ".join("abcd"[: 4 - len(axes)]) + "] y")
    model = text_graph(text, axes=np.asarray(axes, np.int64))
    assert not PoolSpatialMeans()(model).modified


def test_computed_axes_and_no_axes_stay(text_graph: TextGraph) -> None:
    computed = text_graph(
        "g (float[N, 4, 5, 6] x, int64[2] axes) => (float[N, C, H, W] y) "
        "{ y = ReduceMean(x, axes) }"
    )
    assert not PoolSpatialMeans()(computed).modified
    of_all = text_graph("g (float[N, 4, 5, 6] x) => (float[1, 1, 1, 1] y) { y = ReduceMean(x) }")
    assert not PoolSpatialMeans()(of_all).modified


def test_axes_that_a_caller_may_replace_stay(text_graph: TextGraph) -> None:
    text = """g (float[N, 4, 5, 6] x, int64[2] axes) => (float[N, C, H, W] y) {
        y = ReduceMean(x, axes)
    }"""
    model = text_graph(text, axes=np.asarray([2, 3], np.int64))
    assert not PoolSpatialMeans()(model).modified


def test_axes_in_a_constant_node_are_stored(text_graph: TextGraph) -> None:
    text = """g (float[N, 4, 5, 6] x) => (float[N, 4, 1, 1] y) {
        axes = Constant<value_ints = [2, 3]>()
        y = ReduceMean(x, axes)
    }"""
    model = text_graph(text)
    assert PoolSpatialMeans()(model).modified
    assert "GlobalAveragePool" in operators(model)


@pytest.mark.parametrize(
    ("dtype", "is_pooled"),
    [
        ("float", True),
        ("float16", True),
        ("bfloat16", False),
        ("double", False),
        ("int32", False),
        ("int64", False),
    ],
)
def test_only_what_onnxruntime_pools_becomes_a_pool(
    text_graph: TextGraph, dtype: str, is_pooled: bool
) -> None:
    text = f"g ({dtype}[2, 4, 5, 6] x) => ({dtype}[2, 4, 1, 1] y) {{ y = ReduceMean(x, axes) }}"
    model = text_graph(text, axes=np.asarray([2, 3], np.int64))
    assert PoolSpatialMeans()(model).modified == is_pooled
    onnx.checker.check_model(to_proto(model), full_check=True)
    if dtype != "bfloat16":  # no data can be made up for it
        run_outputs(model, random_inputs(model))


def test_nodes_without_names_stay_without(text_graph: TextGraph) -> None:
    text = """g (float[N, 4, 5, 6] x) => (float[N, 4] y) {
        r = Relu(x)
        a = ReduceMean<keepdims = 0>(x, axes)
        b = ReduceMean<keepdims = 0>(r, axes)
        y = Sub(a, b)
    }"""
    model = text_graph(text, axes=np.array([2, 3]))
    ir.passes.common.ShapeInferencePass()(model)
    for node in model.graph:
        node.name = None
    assert PoolSpatialMeans()(model).modified
    assert operators(model).count("Flatten") == 2
    run_outputs(model, random_inputs(model))
