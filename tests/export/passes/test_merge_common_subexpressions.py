from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from edgekit.export.graph import to_proto
from edgekit.export.passes.merge_common_subexpressions import MergeCommonSubexpressions
from edgekit.export.verify import largest_difference, random_inputs, run_outputs


def merged(model: ir.Model) -> list[str]:
    """Merge; the result is valid, declares the same outputs and computes the same."""
    inputs = random_inputs(model)
    before, declared = run_outputs(model, inputs), to_proto(model).graph.output
    MergeCommonSubexpressions()(model)
    onnx.checker.check_model(to_proto(model), full_check=True)
    assert list(to_proto(model).graph.output) == list(declared)
    assert largest_difference(before, run_outputs(model, inputs)) == 0
    assert not MergeCommonSubexpressions()(model).modified
    return [node.op_type for node in model.graph]


def test_equal_nodes_are_merged(text_graph) -> None:
    model = text_graph("g (float[2] x) => (float[2] y) { a = Neg(x) b = Neg(x) y = Mul(a, b) }")
    assert merged(model) == ["Neg", "Mul"]


def test_an_output_keeps_its_type_where_an_untyped_value_takes_its_place(text_graph) -> None:
    model = text_graph("g (float[N] x) => (float[N] y) { a = Exp(x) b = Abs(a) y = Exp(x) }")
    assert merged(model) == ["Exp", "Abs"]


def test_two_equal_outputs_keep_their_names(text_graph) -> None:
    model = text_graph("g (float[2] x) => (float[2] y, float[2] z) { y = Neg(x) z = Neg(x) }")
    assert merged(model) == ["Neg", "Identity"]


def test_two_names_of_a_value_stay_as_they_are(text_graph) -> None:
    model = text_graph(
        "g (float[2] x) => (float[2] y, float[2] z) { y = Identity(x) z = Identity(x) }"
    )
    assert not MergeCommonSubexpressions()(model).modified
    assert merged(model) == ["Identity", "Identity"]


def test_random_draws_stay_apart(text_graph) -> None:
    model = text_graph(
        """g (float[2] x) => (float[2] y, float[2] z) {
            a = Bernoulli(x) b = Bernoulli(x) y = Sub(a, b)
            c = Dropout(x, r, t) d = Dropout(x, r, t) z = Sub(c, d) }""",
        r=np.float32(0.5), t=np.array(True),
    )  # fmt: skip
    assert not MergeCommonSubexpressions()(model).modified
    assert [node.op_type for node in model.graph].count("Bernoulli") == 2
    assert {node.domain for node in model.graph} == {""}
