"""Refinements that were asked for and cannot be tried are told of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.export.quantize import quantize
from edgekit.export.refinement import Refinements
from edgekit.export.static_options import StaticOptions

TextGraph = Callable[..., ir.Model]
BODIES = """g (float[N, 4, 8, 8] x) => (float[N, 6, 8, 8] y) {
    s = ReduceSum<keepdims = 0>(x)
    positive = Greater(s, zero)
    a = Conv(x, w)
    r = Relu(a)
    b = Conv(r, v)
    y = If(positive) <
        then_branch = t () => (float[N, 6, 8, 8] t1) { t1 = Neg(b) },
        else_branch = e () => (float[N, 6, 8, 8] e1) { e1 = Abs(b) }
    >
}"""
CHAIN = """g (float[N, 4, 8, 8] x) => (float[N, 6, 8, 8] y) {
    a = Conv(x, w)
    r = ACTIVATION(a)
    y = Conv(r, v)
}"""
ON = Refinements("on", "on", "adaptive")
SUBGRAPHS = "was not tried: the model has subgraphs"


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def notes(model: ir.Model, refinements: Refinements) -> tuple[str, ...]:
    feeds = [{"x": normal(16, 4, 8, 8)} for _ in range(4)]
    static = StaticOptions(refinements=refinements, kernels="keep")
    return quantize(model, "int8", reader=feeds, static=static).report.notes


@pytest.mark.parametrize(
    ("refinements", "told"),
    [
        (ON, ("--equalize on", "--bias-correction on", "--rounding adaptive")),
        (Refinements("on", "off"), ("--equalize on",)),
        (Refinements(), ()),
    ],
)
def test_a_model_with_an_if(
    refinements: Refinements, told: tuple[str, ...], text_graph: TextGraph
) -> None:
    model = text_graph(BODIES, w=normal(8, 4, 1, 1), v=normal(6, 8, 1, 1), zero=np.float32(0))
    assert notes(model, refinements) == tuple(f"{flag} {SUBGRAPHS}" for flag in told)


@pytest.mark.parametrize(
    ("activation", "rounded", "told"),
    [
        ("Relu", False, ()),
        ("Relu", True, ("--equalize on was not tried: weights lie on a grid",)),
        ("Sigmoid", False, ("--equalize on was not tried: no channel can be scaled",)),
    ],
)
def test_equalization_that_has_nothing_to_do(
    activation: str, rounded: bool, told: tuple[str, ...], text_graph: TextGraph
) -> None:
    weights = {"w": normal(8, 4, 1, 1), "v": normal(6, 8, 1, 1)}
    if rounded:
        weights = {name: np.rint(array * 2).clip(-3, 3) for name, array in weights.items()}
    model = text_graph(CHAIN.replace("ACTIVATION", activation), **weights)
    assert notes(model, ON) == told
