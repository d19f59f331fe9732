"""Depthwise convolutions get channels in sixteens, as onnxruntime computes them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest

from edgekit.export.verify import run_outputs
from edgekit.export.wider_channels import widen_channels

TextGraph = Callable[..., ir.Model]

WITHIN = """g (float[N, 3, 8, 8] x) => (float[N, 1, 8, 8] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w)
    y = Conv(a, v)
}"""
SUMS = np.ones((1, 12, 1, 1), np.float32)
POOLED = "m, i = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)"
BRANCHES = """s = ReduceSum<keepdims = 0>(x)
    positive = Greater(s, zero)
    y = If(positive) <
        then_branch = t () => (float[N, 12, 8, 8] t1) { t1 = Neg(a) },
        else_branch = e () => (float[N, 12, 8, 8] e1) { e1 = Abs(a) }
    >"""

NETWORK = """g (float[N, 12, 8, 8] x) => (float[N, 6, 8, 8] y) {
    a = Conv(x, w, b)
    r = Relu(a)
    d = Conv<group = CHANNELS, pads = [1, 1, 1, 1]>(r, v, c)
    s = Relu(d)
    t = Concat<axis = 1>(x, s)
    JOIN
    y = Conv(u, last)
}"""


def network(text_graph: TextGraph, channels: int, join: str = "u = Identity(t)") -> ir.Model:
    rng = np.random.default_rng(0)
    shapes = {
        "w": (channels, 12, 1, 1),
        "b": (channels,),
        "v": (channels, 1, 3, 3),
        "c": (channels,),
        "last": (6, 12 + channels, 1, 1),
    }
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    text = NETWORK.replace("CHANNELS", str(channels)).replace("JOIN", join)
    model = text_graph(
        text.replace("u = Identity(t)", "u = MaxPool<kernel_shape = [1, 1]>(t)"), **arrays
    )
    sizes = {"a": channels, "r": channels, "d": channels, "s": channels, "t": 12 + channels}
    for node in model.graph:
        value = node.outputs[0]
        node.name = str(value.name)
        if value.name in sizes:
            value.shape = ir.Shape(["N", sizes[value.name], 8, 8])
            value.dtype = ir.DataType.FLOAT
    return model


def widths(model: ir.Model) -> dict[str, int]:
    """Outputs of each convolution."""
    return {
        str(node.name): node.inputs[1].const_value.shape.numpy()[0]
        for node in model.graph
        if node.op_type == "Conv"
    }


@pytest.mark.parametrize(("channels", "wider"), [(20, 32), (28, 32), (12, 16), (40, 48), (72, 80)])
def test_what_a_depthwise_convolution_reads_comes_in_sixteens(
    text_graph: TextGraph, channels: int, wider: int
) -> None:
    model = network(text_graph, channels)
    x = np.random.default_rng(1).normal(size=(4, 12, 8, 8)).astype(np.float32)
    (before,) = run_outputs(model, {"x": x}).values()
    assert widen_channels(model) == 1
    assert widths(model) == {"a": wider, "d": wider, "y": 6}
    (after,) = run_outputs(model, {"x": x}).values()
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("channels", [16, 32, 17, 8])
def test_what_fits_or_would_nearly_double_stays(text_graph: TextGraph, channels: int) -> None:
    assert widen_channels(network(text_graph, channels)) == 0


def test_what_something_else_reads_stays(text_graph: TextGraph) -> None:
    assert widen_channels(network(text_graph, 20, "e = Exp(s) u = Concat<axis = 1>(x, e)")) == 0


@pytest.mark.parametrize("name", ["a", "d", "y"])
def test_what_stays_float_stays_as_it_is(text_graph: TextGraph, name: str) -> None:
    model = network(text_graph, 20)
    assert widen_channels(model, {name}) == 0
    assert widths(model) == {"a": 20, "d": 20, "y": 6}


@pytest.mark.parametrize(
    ("outputs", "nodes"),
    [
        ("float[N, 12, 8, 8] a", ""),
        ("float[N, 12, 8, 8] r", "r = Relu(a)"),
        ("float[N, 15, 8, 8] t", "r = Relu(a) t = Concat<axis = 1>(x, r)"),
        ("float[N, 12, 4, 4] m, int64[N, 12, 4, 4] i", POOLED),
        ("float[N, 12, 8, 8] y", BRANCHES),
    ],
)
def test_what_leaves_the_graph_keeps_its_channels(
    text_graph: TextGraph, outputs: str, nodes: str
) -> None:
    text = (
        f"g (float[N, 3, 8, 8] x) => ({outputs}) {{ a = Conv<pads = [1, 1, 1, 1]>(x, w) {nodes} }}"
    )
    rng = np.random.default_rng(0)
    model = text_graph(
        text, w=rng.normal(size=(12, 3, 3, 3)).astype(np.float32), zero=np.float32(0)
    )
    for node in model.graph:
        node.name = str(node.outputs[0].name)
    common.ShapeInferencePass()(model)
    alone = text_graph(WITHIN, w=rng.normal(size=(12, 3, 3, 3)).astype(np.float32), v=SUMS)
    common.ShapeInferencePass()(alone)
    assert widen_channels(model) == 0
    assert widen_channels(alone) == 1  # where nothing else looks
