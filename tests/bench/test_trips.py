"""How often the bodies of loops run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.bench.count import count
from edgekit.runtime.errors import ModelFileError

Graph = Callable[..., ir.Model]

HEAD = '<ir_version: 10, opset_import: ["" : 21]>'
WEIGHT = np.ones((3, 3), np.float32)
UNKNOWN = ("Loop (trip count not in the file, counted once)",)


@pytest.mark.parametrize(
    ("limit", "runs", "uncounted"),
    [
        ("int64 m = {4}", 4, ()),
        ("int64[1] m = {4}", 4, ()),
        ("int64 m = {0}", 0, ()),
        ("int64 m = {-2}", 0, ()),
        ("int64 m = {9223372036854775807}", 1, UNKNOWN),
        ("int64 m = {2147483647}", 1, UNKNOWN),
        ("int64[2] m = {4, 5}", 1, UNKNOWN),
    ],
)
def test_a_loop_runs_as_often_as_its_limit_says(
    graph: Graph, limit: str, runs: int, uncounted: tuple[str, ...]
) -> None:
    """A `while` is exported with the largest integer as its limit: that is no trip count."""
    text = f"""
    {HEAD}
    agraph (float[1, 3] x) => (float[1, 3] y)
    <{limit}, bool on = {{1}}, float most = {{100}}>
    {{
        y = Loop (m, on, x) <
            body = step (int64 i, bool k, float[1, 3] v) => (bool l, float[1, 3] u)
            {{ u = MatMul (v, w) s = ReduceSum <keepdims = 0> (u) l = Less (s, most) }}
        >
    }}
    """
    counts = count(graph(text, w=WEIGHT))
    assert (counts.macs, counts.uncounted_ops) == (9 * runs, uncounted)
    product = next(node for node in counts.nodes if node.op_type == "MatMul")
    assert product.runs == runs


def test_a_loop_without_a_result_for_a_state_is_refused(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[1, 3] x) => (float[1, 3] y)
    <int64 m = {{4}}, bool on = {{1}}>
    {{
        y = Loop (m, on, x, x) <
            body = step (int64 i, bool k, float[1, 3] v, float[1, 3] w)
                => (bool l, float[1, 3] u, float[1, 3] t)
            {{ u = Relu (v) t = Relu (w) l = Identity (k) }}
        >
    }}
    """
    with pytest.raises(ModelFileError, match="Loop"):
        count(graph(text))


@pytest.mark.parametrize(("axes", "runs"), [("", 2), ("[0]", 2), ("[1]", 7), ("[-2]", 7)])
def test_a_scan_runs_along_the_axis_that_it_names(graph: Graph, axes: str, runs: int) -> None:
    given = f", scan_input_axes = {axes}" if axes else ""
    rows = 7 if runs == 2 else 2
    text = f"""
    {HEAD}
    agraph (float[2, 7, 3] x) => (float[p, q, 3] y)
    {{
        y = Scan (x) <
            num_scan_inputs = 1{given},
            body = step (float[{rows}, 3] v) => (float[{rows}, 3] u) {{ u = MatMul (v, w) }}
        >
    }}
    """
    counts = count(graph(text, w=WEIGHT))
    assert (counts.macs, counts.uncounted_ops) == (2 * 7 * 9, ())
    assert next(node for node in counts.nodes if node.op_type == "MatMul").runs == runs


def test_a_scan_of_the_first_kind_runs_for_each_sample_and_step(graph: Graph) -> None:
    """Opset 8: lengths of the sequences, then samples first and steps second."""
    text = f"""
    {HEAD.replace("21", "8")}
    agraph (float[2, 7, 3] x) => (float[2, 7, 3] y)
    {{
        y = Scan (, x) <
            num_scan_inputs = 1,
            body = step (float[3] v) => (float[3] u) {{ u = MatMul (v, w) }}
        >
    }}
    """
    counts = count(graph(text, w=WEIGHT))
    assert (counts.macs, counts.uncounted_ops) == (2 * 7 * 9, ())
