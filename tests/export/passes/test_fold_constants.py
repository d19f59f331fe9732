from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.export.graph import to_proto
from edgekit.export.passes.fold_constants import FoldConstants


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_what_depends_on_constants_alone_is_computed(text_graph) -> None:
    model = text_graph(
        "g (float[N,2] x) => (float[N,2] y) { k = Mul(a, b) y = Add(x, k) }",
        a=np.array([1, 2], np.float32),
        b=np.array([3, 4], np.float32),
    )
    before = model.graph.outputs[0].name
    assert FoldConstants()(model).modified
    assert operators(model) == ["Add"]
    assert model.graph.outputs[0].name == before
    assert not FoldConstants()(model).modified


def test_a_constant_output_keeps_its_name(text_graph) -> None:
    model = text_graph(
        "g (float[N,2] x) => (float[2] k, float[N,2] y) { k = Mul(a, a) y = Add(x, k) }",
        a=np.array([1, 2], np.float32),
    )
    FoldConstants()(model)
    assert [output.name for output in model.graph.outputs] == ["k", "y"]


def test_a_dynamic_batch_stays_dynamic(text_graph) -> None:
    model = text_graph(
        """g (float[N,2,2] x) => (float[N,4] y) {
            s = Shape<start = 0, end = 1>(x) t = Concat<axis = 0>(s, rest) y = Reshape(x, t) }""",
        rest=np.array([-1], np.int64),
    )
    FoldConstants()(model)
    assert str(model.graph.inputs[0].shape) == "[N,2,2]"
    assert str(model.graph.outputs[0].shape) == "[N,4]"


def test_large_results_are_not_written_out(text_graph) -> None:
    model = text_graph(
        "g (float[N] x) => (float[N] y) { k = Expand(one, size) m = ReduceSum(k) y = Mul(x, m) }",
        one=np.ones(1, np.float32),
        size=np.array([100_000], np.int64),
    )
    FoldConstants()(model)
    assert "Expand" in operators(model)


def test_quantized_weights_stay_quantized(text_graph) -> None:
    model = text_graph(
        "g (float[N,4] x) => (float[N,4] y) { w = DequantizeLinear(q, s) y = Mul(x, w) }",
        q=np.arange(4, dtype=np.int8),
        s=np.float32(0.5),
    )
    assert not FoldConstants()(model).modified


def test_weights_stored_in_half_precision_stay_there(text_graph) -> None:
    model = text_graph(
        "g (float[N,4] x) => (float[N,4] y) { w = Cast<to = 1>(h) y = Mul(x, w) }",
        h=np.ones(4, np.float16),
    )
    assert not FoldConstants()(model).modified


def test_weights_are_cast_to_a_narrower_type_at_once(text_graph) -> None:
    model = text_graph(
        "g (float16[N,4] x) => (float16[N,4] y) { w = Cast<to = 10>(f) y = Mul(x, w) }",
        f=np.ones(4, np.float32),
    )
    FoldConstants()(model)
    assert operators(model) == ["Mul"]


def test_the_default_of_an_input_is_no_constant(text_graph) -> None:
    text = """g (float[2] x) => (float[2] y) {
        y = If (which) <then_branch = t () => (float[2] p) { p = Neg(x) },
                        else_branch = e () => (float[2] q) { q = Abs(x) }> }"""
    fixed = text_graph(text, which=np.array(True))
    assert FoldConstants()(fixed).modified
    assert operators(fixed) == ["Neg"]
    open_to_callers = text_graph(text, which=np.array(True), also_inputs=("which",))
    before = ir.to_proto(open_to_callers)
    assert not FoldConstants()(open_to_callers).modified
    assert ir.to_proto(open_to_callers) == before


def test_no_record_of_the_folding_goes_into_the_file(text_graph) -> None:
    model = text_graph(
        "g (float[N,2] x) => (float[N,2] y) { k = Neg(a) y = Add(x, k) }",
        a=np.array([1, 2], np.float32),
    )
    FoldConstants()(model)
    assert b"folded_from" not in ir.to_proto(model).SerializeToString()


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("split", ["k", "n"])  # stored, and computed by a caller
def test_a_split_to_a_sequence_stays(text_graph, opset: int, split: str) -> None:
    model = text_graph(
        f"""g (float[4] x, int64 n) => (float[2] y) {{
            s = SplitToSequence(x, {split}) y = SequenceAt(s, i) }}""",
        opset=opset, ir_version=8, k=np.array(2), i=np.array(1),
    )  # fmt: skip
    FoldConstants()(model)
    assert [node.op_type for node in model.graph] == ["SplitToSequence", "SequenceAt"]
    assert {node.domain for node in model.graph} == {""}


def test_initializers_that_callers_may_replace_keep_their_place(text_graph) -> None:
    model = text_graph(
        "g (float[2] x) => (float[2] y) { a = Add(x, j) b = Add(a, k) y = Add(b, l) }",
        also_inputs=("j", "k"), j=np.ones(2, np.float32), k=np.ones(2, np.float32),
        l=np.ones(2, np.float32),
    )  # fmt: skip
    assert not FoldConstants()(model).modified
    assert list(model.graph.initializers) == ["j", "k", "l"]


@pytest.mark.parametrize(
    "graph",
    [
        "y = Relu(x) z = Identity(labels)",
        "y = Relu(x) z = Concat<axis = 0>(labels, labels)",
        'y = Relu(x) a = Constant<value_strings = ["no", "yes"]>() z = Identity(a)',
        'a = Constant<value_string = "3">() n = Cast<to = 1>(a) y = Add(x, n) z = Identity(n)',
        "y = Relu(x) z = Cast<to = 8>(numbers)",
    ],
)
def test_text_stays_as_it_is(text_graph, graph: str) -> None:
    type_ = "float" if "n = Cast" in graph else "string[a]"
    model = text_graph(
        f"g (float[N] x) => (float[N] y, {type_} z) {{ {graph} }}",
        labels=np.array(["no", "yes"], object),
        numbers=np.array([1, 2], np.float32),
    )
    before = operators(model)
    FoldConstants()(model)
    assert operators(model) == before
    assert len(to_proto(model).graph.output) == 2
