"""What became of each node between two versions of a model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.bench.graph_diff import Change, GraphDiff, diff_graphs

Graph = Callable[..., ir.Model]

NORMALIZED = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[1, 1, 4, 4] x) => (float[1, 2, 4, 4] y)
{
    [first] a = Conv <kernel_shape = [1, 1]> (x, w)
    [norm] b = BatchNormalization (a, scale, shift, mean, variance)
    [act] c = Relu (b)
    [last] y = Mul (c, k)
}
"""
FOLDED = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[1, 1, 4, 4] x) => (float[1, 2, 4, 4] y)
{
    [first] b = Conv <kernel_shape = [1, 1]> (x, w, bias)
    [act] c = Relu (b)
    [last] y = Mul (c, k)
}
"""


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


TENSORS = {
    "w": values(2, 1, 1, 1),
    "k": values(2, 1, 1),
    **{name: values(2) for name in ("scale", "shift", "mean")},
    "variance": np.ones(2, np.float32),
}
FOLDED_TENSORS = {"w": values(2, 1, 1, 1, seed=1), "k": TENSORS["k"], "bias": values(2)}


def changes(diff: GraphDiff) -> dict[str | None, str]:
    return {node.after or node.before: node.change.value for node in diff.nodes}


def test_a_model_is_the_same_as_itself(graph: Graph) -> None:
    diff = diff_graphs(graph(NORMALIZED, **TENSORS), graph(NORMALIZED, **TENSORS))
    assert diff.counts == {"same": 4, "changed": 0, "removed": 0, "added": 0}


def test_what_a_fold_does(graph: Graph) -> None:
    diff = diff_graphs(graph(NORMALIZED, **TENSORS), graph(FOLDED, **FOLDED_TENSORS))
    assert changes(diff) == {"first": "changed", "norm": "removed", "act": "same", "last": "same"}
    assert diff.after()["first"].reasons == ("input 1: other values", "input 2: stored now")
    assert diff.before()["norm"].after is None


def test_a_node_that_comes_is_added_and_its_neighbours_stay(graph: Graph) -> None:
    diff = diff_graphs(graph(FOLDED, **FOLDED_TENSORS), graph(NORMALIZED, **TENSORS))
    assert changes(diff)["norm"] == "added"
    assert changes(diff)["act"] == "same"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Relu (b)", "Sigmoid (b)", "operator Relu to Sigmoid"),
        ("Relu (b)", "Relu (x)", "fed by other nodes"),
        ("[1, 1]> (x", "[1, 1], pads = [1, 1, 0, 0]> (x", "attribute pads none to [1, 1, 0, 0]"),
    ],
)
def test_each_difference_is_named(graph: Graph, old: str, new: str, reason: str) -> None:
    model = graph(FOLDED, **FOLDED_TENSORS)
    diff = diff_graphs(model, graph(FOLDED.replace(old, new), **FOLDED_TENSORS))
    (changed,) = (node for node in diff.nodes if node.change is Change.CHANGED)
    assert reason in changed.reasons


@pytest.mark.parametrize("said", ["group = 1", "strides = [1, 1]", 'auto_pad = "NOTSET"'])
def test_a_default_that_is_said_is_no_difference(graph: Graph, said: str) -> None:
    model = graph(FOLDED, **FOLDED_TENSORS)
    other = FOLDED.replace("kernel_shape = [1, 1]", said)
    assert diff_graphs(model, graph(other, **FOLDED_TENSORS)).counts["same"] == 3


def test_shapes_and_types_of_weights_are_told_apart(graph: Graph) -> None:
    before = graph(FOLDED, **FOLDED_TENSORS)
    wider = diff_graphs(before, graph(FOLDED, **{**FOLDED_TENSORS, "k": values(1, 1, 1)}))
    assert wider.after()["last"].reasons == ("input 1: shape [2, 1, 1] to [1, 1, 1]",)
    half = {**FOLDED_TENSORS, "k": FOLDED_TENSORS["k"].astype(np.float16)}
    reasons = diff_graphs(before, graph(FOLDED, **half)).after()["last"].reasons
    assert reasons == ("input 1: FLOAT to FLOAT16",)


def test_a_weight_behind_its_decoder_belongs_to_the_node(graph: Graph) -> None:
    decoded = FOLDED.replace("{", "{ [decode] v = DequantizeLinear (w, s)", 1)
    decoded = decoded.replace("(x, w, bias)", "(x, v, bias)")
    codes = {**FOLDED_TENSORS, "w": np.ones((2, 1, 1, 1), np.int8), "s": np.float32(0.1)}
    model = graph(decoded, **codes)
    diff = diff_graphs(graph(FOLDED, **FOLDED_TENSORS), model)
    assert changes(diff)["decode"] == "added"
    assert diff.after()["first"].reasons == ("input 1: FLOAT to INT8",)
    other = diff_graphs(model, graph(decoded, **{**codes, "s": np.float32(0.2)}))
    assert other.after()["first"].reasons == ("input 1: other values",)
    assert changes(diff_graphs(model, graph(decoded, **codes)))["first"] == "same"


def test_constants_are_part_of_what_uses_them(graph: Graph) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[2] x) => (float[2] y)
    {
        k = Constant <value = float[2] {1.0, 2.0}> ()
        [scale] y = Mul (x, k)
    }
    """
    diff = diff_graphs(graph(text), graph(text.replace("2.0}", "3.0}")))
    assert changes(diff) == {"scale": "changed"}


def test_a_fill_of_a_known_shape_is_part_of_what_uses_it(graph: Graph) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[1, 3] x) => (float[1, 2] y) <int64[2] s = {3, 2}, float[3, 2] c>
    { c = ConstantOfShape <value = float {1}> (s) [product] y = MatMul (x, c) }
    """
    diff = diff_graphs(graph(text), graph(text.replace("float {1}", "float {2}")))
    assert diff.after()["product"].reasons == ("input 1: other values",)


def test_nodes_without_names_are_matched_by_their_outputs(graph: Graph) -> None:
    bare = FOLDED.replace("[first] ", "").replace("[act] ", "")
    diff = diff_graphs(graph(bare, **FOLDED_TENSORS), graph(FOLDED, **FOLDED_TENSORS))
    assert diff.counts["same"] == 3
    assert diff.before()["b"].after == "first"


def test_renamed_nodes_are_matched_by_their_place(graph: Graph) -> None:
    renamed = NORMALIZED
    for name, other in (("[norm] b", "[q] r"), ("(b)", "(r)"), ("[act] c", "[s] t"), ("(c", "(t")):
        renamed = renamed.replace(name, other)
    diff = diff_graphs(graph(NORMALIZED, **TENSORS), graph(renamed, **TENSORS))
    assert diff.counts["same"] == 4
    assert diff.before()["act"].after == "s"
    folded = diff_graphs(graph(renamed, **TENSORS), graph(FOLDED, **FOLDED_TENSORS))
    assert folded.before()["q"].change is Change.REMOVED


def test_a_chain_of_new_names_is_followed_from_the_inputs(graph: Graph) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[2] x) => (float[2] y) { a = Relu (x)  b = Neg (a)  c = Abs (b)  y = Exp (c) }
    """
    other = text.replace("a =", "k =").replace("(a)", "(k)").replace("b =", "l =")
    other = other.replace("(b)", "(l)").replace("c =", "m =").replace("(c)", "(m)")
    assert diff_graphs(graph(text), graph(other)).counts["same"] == 4
    twice = other.replace("l = Neg", "l0 = Neg (k)  l = Sin").replace("Sin (k)", "Sin (l0)")
    counts = diff_graphs(graph(text), graph(twice)).counts
    assert counts == {"same": 4, "changed": 0, "removed": 0, "added": 1}


def test_nodes_of_subgraphs_are_compared(graph: Graph) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[2] x, bool c) => (float[2] y)
    {
        [choice] y = If (c) <
            then_branch = t () => (float[2] u) { [yes] u = Relu (x) },
            else_branch = e () => (float[2] v) { [no] v = Neg (x) }
        >
    }
    """
    diff = diff_graphs(graph(text), graph(text.replace("Neg", "Abs")))
    assert changes(diff) == {"choice": "same", "yes": "same", "no": "changed"}


def test_json_holds_every_node(graph: Graph) -> None:
    diff = diff_graphs(graph(NORMALIZED, **TENSORS), graph(FOLDED, **FOLDED_TENSORS))
    found = diff.to_json()
    assert found["counts"] == {"same": 2, "changed": 1, "removed": 1, "added": 0}
    assert found["nodes"][-1] == {
        "before": "norm",
        "after": None,
        "op_type": "BatchNormalization",
        "change": "removed",
        "reasons": [],
    }


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("Sub (q, p)", Change.CHANGED),
        ("Sub (p, q)", Change.SAME),
        ("Sub (p, p)", Change.CHANGED),
    ],
)
def test_inputs_that_change_places_change_a_node(
    graph: Graph, after: str, expected: Change
) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[1, 4] x) => (float[1, 2] y)
    { p, q = Split <axis = 1, num_outputs = 2> (x) [last] y = Sub (p, q) }
    """
    diff = diff_graphs(graph(text), graph(text.replace("Sub (p, q)", after)))
    assert diff.after()["last"].change is expected


def test_a_sum_has_no_order(graph: Graph) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[1, 4] x) => (float[1, 4] y) { p = Relu (x) q = Neg (x) [last] y = Add (p, q) }
    """
    diff = diff_graphs(graph(text), graph(text.replace("p, q)", "q, p)")))
    assert diff.after()["last"].change is Change.SAME


def test_a_sum_with_a_constant_has_no_order_either(graph: Graph) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[1, 4] x) => (float[1, 4] y) { [last] y = Add (x, k) }
    """
    swapped = graph(text.replace("x, k)", "k, x)"), k=values(4))
    assert diff_graphs(graph(text, k=values(4)), swapped).after()["last"].change is Change.SAME
