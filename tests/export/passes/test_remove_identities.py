from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.export.passes.remove_identities import RemoveIdentities

SHAPE = np.array([0, 3, -1], np.int64)
ONE_DIM = np.array([-1, 3, 4], np.int64)


@pytest.mark.parametrize(
    "node",
    [
        "b = Identity(a)",
        "b = Dropout(a)",
        "b, mask = Dropout(a)",
        "b = Dropout(a, ratio, off)",
        "b = Cast<to = 1>(a)",
        "b = Concat<axis = 1>(a)",
        "b = Sum(a)",
        "b = Max(a)",
        "b = Min(a)",
        "b = Mean(a)",
        "b = Transpose<perm = [0, 1, 2]>(a)",
        "b = Reshape(a, shape)",
        "b = Reshape(a, one_dim)",
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_a_node_whose_output_is_its_input_goes(text_graph, run_pass, node: str, last: bool) -> None:
    tail, name = ("", "b") if last else ("y = Abs(b)", "y")
    model = text_graph(
        f"g (float[N,3,4] x) => (float[N,3,4] {name}) <float[N,3,4] a>"
        f"{{ a = Neg(x) {node} {tail} }}",
        ratio=np.float32(0.5),
        off=np.array(False),
        shape=SHAPE,
        one_dim=ONE_DIM,
    )
    assert run_pass(RemoveIdentities(), model, tolerance=0) == ["Neg", *([] if last else ["Abs"])]


def test_a_chain_of_identities_goes_at_once(text_graph, run_pass) -> None:
    model = text_graph(
        "g (float[N] x) => (float[N] y)"
        "{ a = Neg(x) b = Identity(a) c = Identity(b) y = Identity(c) }"
    )
    remove = RemoveIdentities()
    assert run_pass(remove, model, tolerance=0) == ["Neg"]
    assert remove.changes == 3


def test_flatten_of_a_matrix_goes(text_graph, run_pass) -> None:
    model = text_graph("g (float[N,3] x) => (float[N,3] y) { a = Flatten<axis = 1>(x) y = Neg(a) }")
    assert run_pass(RemoveIdentities(), model, tolerance=0) == ["Neg"]


def test_dropout_at_inference_goes_in_old_opsets(text_graph, run_pass) -> None:
    model = text_graph(
        "g (float[N] x) => (float[N] y) { a = Dropout<ratio = 0.5>(x) y = Neg(a) }",
        opset=10, ir_version=8,
    )  # fmt: skip
    assert run_pass(RemoveIdentities(), model, tolerance=0) == ["Neg"]


def test_both_readers_of_an_identity_read_its_source(text_graph, run_pass) -> None:
    model = text_graph(
        "g (float[N] x) => (float[N] y, float[N] z) { a = Neg(x) y = Identity(a) z = Abs(y) }"
    )
    assert run_pass(RemoveIdentities(), model, tolerance=0) == ["Neg", "Abs"]


@pytest.mark.parametrize(
    "node",
    [
        "y = Cast<to = 11>(x)",
        "y = Concat<axis = 0>(x, x)",
        "y = Transpose<perm = [1, 0]>(x)",
        "y = Transpose(x)",
        "y = Reshape(x, turned)",
        "y = Reshape(x, computed)",
        "y = Flatten<axis = 0>(x)",
        "y = Sum(x, x)",
    ],
)
def test_a_node_that_does_something_stays(text_graph, node: str) -> None:
    kind = "double" if "Cast" in node else "float"
    model = text_graph(
        f"g (float[3,4] x, int64[2] computed) => ({kind}[R,C] z) {{ {node} z = Neg(y) }}",
        turned=np.array([4, 3], np.int64),
    )
    remove = RemoveIdentities()
    assert not remove(model).modified
    assert remove.refusals == []


def test_a_reshape_of_an_unknown_dimension_to_a_number_stays(text_graph) -> None:
    model = text_graph(
        "g (float[N,4] x) => (float[2,4] z) { y = Reshape(x, shape) z = Neg(y) }",
        shape=np.array([2, 4], np.int64),
    )
    assert not RemoveIdentities()(model).modified


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ("b = Dropout(a, ratio, on)", "training mode"),
        ("b = Dropout(a, ratio, asked)", "training mode"),
        ("b, m = Dropout(a) z = Cast<to = 1>(m)", "mask is read"),
    ],
)
def test_a_dropout_that_acts_is_refused(text_graph, node: str, reason: str) -> None:
    model = text_graph(
        f"g (float[2] x, bool asked) => (float[2] y) {{ a = Neg(x) {node} y = Abs(b) }}",
        ratio=np.float32(0.5), on=np.array(True),
    )  # fmt: skip
    remove = RemoveIdentities()
    assert not remove(model).modified
    assert [reason in refusal.reason for refusal in remove.refusals] == [True]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g (float[2] x) => (float[2] y) { y = Identity(x) }", "a graph input"),
        ("g (float[2] x) => (float[2] y, float[2] z) { y = Identity(w) z = Neg(x) }",
         "an initializer"),
        ("g (float[2] x) => (float[2] y, float[2] z) { y = Neg(x) z = Identity(y) }",
         "a graph output"),
    ],
)  # fmt: skip
def test_an_identity_between_two_names_that_must_stay_is_refused(
    text_graph, run_pass, text: str, reason: str
) -> None:
    model = text_graph(text, w=np.ones(2, np.float32))
    remove = RemoveIdentities()
    assert "Identity" in run_pass(remove, model, tolerance=0)
    assert f"is {reason}: both names must stay" in remove.refusals[0].reason


def test_an_identity_that_brings_an_outer_value_out_of_a_subgraph_is_refused(
    text_graph, run_pass
) -> None:
    model = text_graph(
        """g (bool which, float[2] x) => (float[2] y) {
            a = Neg(x)
            y = If (which) <then_branch = t () => (float[2] p) { p = Identity(a) },
                            else_branch = e () => (float[2] q) { q = Abs(x) }>
        }"""
    )
    remove = RemoveIdentities()
    assert run_pass(remove, model, tolerance=0) == ["Neg", "If", "Identity", "Abs"]
    assert "made outside the subgraph" in remove.refusals[0].reason


def test_custom_operators_of_the_same_name_stay(text_graph) -> None:
    model = text_graph("g (float[2] x) => (float[2] y) { a = Identity(x) y = Neg(a) }")
    next(iter(model.graph)).domain = "com.example"
    assert not RemoveIdentities()(model).modified


def test_types_are_not_guessed_where_the_graph_does_not_say(text_graph) -> None:
    model = text_graph(
        "g (float[2] x) => (float[2] y) { a = Neg(x) b = Cast<to = 1>(a) y = Abs(b) }"
    )
    assert isinstance(model.graph[0].outputs[0], ir.Value)
    assert model.graph[0].outputs[0].type is None
    assert not RemoveIdentities()(model).modified
