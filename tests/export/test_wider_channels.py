"""Depthwise convolutions get channels in sixteens, as onnxruntime computes them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.export.verify import run_outputs
from edgekit.export.wider_channels import widen_channels

TextGraph = Callable[..., ir.Model]

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
