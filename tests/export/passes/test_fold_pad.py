from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx_ir.passes.common import ShapeInferencePass

from edgekit.export.graph import to_proto
from edgekit.export.passes.base import GraphPass
from edgekit.export.passes.fold_pad import FoldPad

TextGraph = Callable[..., ir.Model]
RunPass = Callable[[GraphPass, ir.Model], list[str]]

GRAPH = """g (float[N, 3, 8, 9] x) => (float[N, c, h, w] y) {
    a = BEFORE(x)
    p = Pad(a, pads, value)
    y = OPERATOR
}"""
CONV = "Conv<strides = [2, 2]>(p, weight)"
MAX = "MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(p)"
AVERAGE = "AveragePool<kernel_shape = [3, 3], strides = [2, 2]>(p)"
LOWEST = float(np.finfo(np.float32).min)
UNEVEN = (0, 0, 0, 1, 0, 0, 1, 2)
WEIGHT = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)


def padded(
    text_graph: TextGraph,
    operator: str,
    *,
    before: str = "Neg",
    value: float = 0.0,
    pads: tuple[int, ...] = UNEVEN,
    **more: NDArray[Any],
) -> ir.Model:
    text = GRAPH.replace("BEFORE", before).replace("OPERATOR", operator)
    if "weight" in operator:
        more["weight"] = WEIGHT
    return text_graph(text, pads=np.array(pads), value=np.float32(value), **more)


def test_a_conv_pads_unevenly(text_graph: TextGraph, run_pass: RunPass) -> None:
    model = padded(text_graph, CONV)
    assert run_pass(FoldPad(), model) == ["Neg", "Conv"]
    assert list(model.graph[-1].attributes.get_ints("pads")) == [0, 1, 1, 2]
    assert set(model.graph.initializers) == {"weight"}


def test_padding_adds_up(text_graph: TextGraph, run_pass: RunPass) -> None:
    model = padded(text_graph, "Conv<pads = [2, 0, 1, 0]>(p, weight)")
    assert run_pass(FoldPad(), model) == ["Neg", "Conv"]
    assert list(model.graph[-1].attributes.get_ints("pads")) == [2, 1, 2, 2]


@pytest.mark.parametrize(
    ("before", "value"), [("Neg", LOWEST), ("Neg", -np.inf), ("Relu", 0.0), ("Sigmoid", 0.0)]
)
def test_a_maximum_takes_nothing_of_its_padding(
    text_graph: TextGraph, run_pass: RunPass, before: str, value: float
) -> None:
    model = padded(text_graph, MAX, before=before, value=value)
    assert run_pass(FoldPad(), model) == [before, "MaxPool"]


@pytest.mark.parametrize("counts", ["", "count_include_pad = 1, pads = [1, 0, 1, 0], "])
def test_a_mean_counts_its_padding(text_graph: TextGraph, run_pass: RunPass, counts: str) -> None:
    operator = AVERAGE.replace("<", f"<{counts}")
    model = padded(text_graph, operator, pads=(0, 0, 0, 1, 0, 0, 1, 1))
    assert run_pass(FoldPad(), model) == ["Neg", "AveragePool"]


def test_axes_may_be_named(text_graph: TextGraph, run_pass: RunPass) -> None:
    text = GRAPH.replace("BEFORE", "Neg").replace("OPERATOR", CONV).replace("value", "value, axes")
    constants = {"pads": np.array([1, 2, 0, 3]), "axes": np.array([-1, 2]), "weight": WEIGHT}
    model = text_graph(text, value=np.float32(0), **constants)
    ShapeInferencePass()(model)
    assert run_pass(FoldPad(), model) == ["Neg", "Conv"]
    assert list(model.graph[-1].attributes.get_ints("pads")) == [2, 1, 3, 0]


def test_sizes_were_attributes_once(text_graph: TextGraph, run_pass: RunPass) -> None:
    text = """g (float[N, 3, 8, 8] x) => (float[N, 4, 7, 7] y) {
        p = Pad<pads = [0, 0, 0, 0, 0, 0, 1, 1]>(x)
        y = Conv(p, weight)
    }"""
    model = text_graph(text, opset=10, weight=WEIGHT)
    assert run_pass(FoldPad(), model) == ["Conv"]


@pytest.mark.parametrize(
    ("operator", "options", "reason"),
    [
        (CONV, {"value": 1.0}, "would pad with zeros, not with 1"),
        (CONV, {"pads": (0, 1, 0, 0, 0, -1, 0, 0)}, "cuts the map"),
        (CONV, {"pads": (1, 0, 0, 0, 0, 0, 0, 0)}, "pads the batch"),
        (CONV.replace("<", '<auto_pad = "SAME_UPPER", '), {}, "auto_pad"),
        (MAX, {"value": 0.0}, "may take its 0 for a maximum"),
        (MAX.replace("<", "<ceil_mode = 1, "), {"value": LOWEST}, "rounds its size up"),
        (MAX.replace("<", "<dilations = [2, 2], "), {"value": LOWEST}, "has dilations"),
        (MAX, {"value": LOWEST, "pads": (0, 0, 0, 0, 0, 0, 0, 3)}, "the kernel of"),
        (AVERAGE.replace("<", "<pads = [1, 0, 0, 0], "), {}, "does not count"),
    ],
)
def test_what_would_not_be_exact_stays(
    text_graph: TextGraph, operator: str, options: dict[str, Any], reason: str
) -> None:
    if "pads" not in options:
        options = options | {"pads": (0, 0, 0, 1, 0, 0, 1, 1)}
    model = padded(text_graph, operator, **options)
    before, transform = to_proto(model), FoldPad()
    assert not transform(model).modified
    assert reason in transform.refusals[0].reason
    assert to_proto(model) == before


def test_modes_that_repeat_the_map_stay(text_graph: TextGraph) -> None:
    model = padded(text_graph, CONV)
    model.graph[1].attributes.add(ir.AttrString("mode", "reflect"))
    transform = FoldPad()
    assert not transform(model).modified
    assert "repeats the map" in transform.refusals[0].reason


def test_a_second_reader_keeps_it(text_graph: TextGraph) -> None:
    model = padded(text_graph, "Conv(p, weight)\n    z = Neg(p)")
    transform = FoldPad()
    assert not transform(model).modified
    assert "has 2 readers" in transform.refusals[0].reason
