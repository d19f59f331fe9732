"""The work of optimize grows with the number of nodes, not with its square."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from edgekit.export.graph import from_proto
from edgekit.export.optimize import optimize

SHORT, LONG = 60, 240
# Calls of Python functions a node may grow by this much; quadratic work would fourfold them.
LEEWAY = 1.25


def chain(links: int) -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, Add, and again."""
    rng = np.random.default_rng(0)
    made, tensors, value = [], [], "x"
    for i in range(links):
        arrays = {f"w{i}": rng.uniform(0.5, 1.5, (2, 2, 1, 1)), f"k{i}": rng.normal(size=(2, 1, 1))}
        arrays |= {f"{name}{i}": rng.uniform(0.5, 1.5, 2) for name in "sbmv"}
        tensors += [onnx.numpy_helper.from_array(a.astype("f4"), n) for n, a in arrays.items()]
        norm = [f"c{i}", *(f"{name}{i}" for name in "sbmv")]
        made += [
            onnx.helper.make_node("Conv", [value, f"w{i}"], [f"c{i}"], f"conv{i}"),
            onnx.helper.make_node("BatchNormalization", norm, [f"n{i}"], f"norm{i}"),
            onnx.helper.make_node("Relu", [f"n{i}"], [f"r{i}"], f"relu{i}"),
            onnx.helper.make_node("Add", [f"r{i}", f"k{i}"], [f"a{i}"], f"add{i}"),
        ]
        value = f"a{i}"
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 2, 4, 4))
        for name in ("x", value)
    )
    graph = onnx.helper.make_graph(made, "chain", [x], [y], tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])


def calls(run: Callable[[], object]) -> int:
    """Functions called, Python's and built-in ones."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


def growth(run: Callable[[int], object]) -> float:
    """How much more is called for a node of the long chain than for one of the short."""
    run(SHORT)  # what is done once
    return calls(lambda: run(LONG)) / calls(lambda: run(SHORT)) / (LONG / SHORT)


@pytest.mark.parametrize("verify", [False, True])
def test_calls_a_node_do_not_grow_with_the_nodes(verify: bool) -> None:
    models = {links: chain(links) for links in (SHORT, LONG)}
    assert growth(lambda links: optimize(from_proto(models[links]), verify=verify)) < LEEWAY


def test_a_quadratic_pass_would_be_seen() -> None:
    models = {links: from_proto(chain(links)) for links in (SHORT, LONG)}

    def quadratic(links: int) -> None:
        for _ in models[links].graph:
            for node in models[links].graph:
                node.inputs.index(node.inputs[0])

    assert growth(quadratic) > LEEWAY
