from __future__ import annotations

import numpy as np
import pytest

from edgekit.export.passes.merge_equal_constants import MergeEqualConstants
from edgekit.export.verify import largest_difference, random_inputs, run_outputs

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((300, 300)).astype(np.float32)
TEXT = """g (float[300, 300] x) => (float[300, 300] y) {
    a = Add(x, v) b = Mul(a, w) c = Sub(b, u) y = Identity(c) }"""


def merged(text_graph, **arrays: np.ndarray) -> set[str]:
    model = text_graph(TEXT, **arrays)
    inputs = random_inputs(model)
    before = run_outputs(model, inputs)
    modified = MergeEqualConstants()(model).modified
    assert modified == (len(model.graph.initializers) < len(arrays))
    assert largest_difference(before, run_outputs(model, inputs)) == 0
    assert not MergeEqualConstants()(model).modified
    return {str(name) for name in model.graph.initializers}


def test_equal_ones_become_the_first(text_graph) -> None:
    assert merged(text_graph, v=WEIGHT, w=WEIGHT.copy(), u=WEIGHT.copy()) == {"v"}


@pytest.mark.parametrize("where", [(0, 0), (0, 1), (299, 299), (123, 45)])
def test_one_element_tells_two_apart(text_graph, where: tuple[int, int]) -> None:
    other = WEIGHT.copy()
    other[where] += 1
    assert merged(text_graph, v=WEIGHT, w=other, u=WEIGHT.copy()) == {"v", "w"}


def test_zeros_of_both_signs_differ(text_graph) -> None:
    zeros = np.zeros((300, 300), np.float32)
    assert merged(text_graph, v=zeros, w=-zeros, u=zeros.copy()) == {"v", "w"}


def test_shapes_tell_apart(text_graph) -> None:
    flat = np.ones(300, np.float32)
    assert merged(text_graph, v=flat, w=flat[:, None].copy(), u=flat.copy()) == {"v", "w"}


def test_scalars_merge_and_strings_tell_apart(text_graph) -> None:
    one = np.float32(1)
    assert merged(text_graph, v=one, w=one, u=one) == {"v"}
    model = text_graph(
        "g (float[1] x) => (string[1] y, string[1] z) { y = Identity(s) z = Identity(t) }",
        s=np.array(["a"]),
        t=np.array(["b"]),
    )
    assert not MergeEqualConstants()(model).modified


def test_inputs_and_outputs_stay(text_graph) -> None:
    model = text_graph(
        "g (float[2] x) => (float[2] y) { a = Add(x, v) y = Mul(a, w) }",
        also_inputs=("v",),
        v=np.ones(2, np.float32),
        w=np.ones(2, np.float32),
    )
    assert not MergeEqualConstants()(model).modified


def test_subgraphs_are_merged_alone(text_graph) -> None:
    model = text_graph(
        """g (bool which, float[2] x) => (float[2] y) {
            y = If (which) <
                then_branch = t () => (float[2] a)
                    <float[2] p = {1, 2}, float[2] q = {1, 2}> { k = Add(x, p) a = Add(k, q) },
                else_branch = e () => (float[2] c) { c = Add(x, w) }>
        }""",
        w=np.array([1, 2], np.float32),
    )
    assert MergeEqualConstants()(model).modified
    assert set(model.graph.initializers) == {"w"}


def test_half_precision_stays_apart(text_graph) -> None:
    model = text_graph(
        "g (float16[N, 4] x) => (float16[N, 4] y) { a = Add(x, b) y = Mul(a, c) }",
        b=np.ones(4, np.float16),
        c=np.ones(4, np.float16),
    )
    assert not MergeEqualConstants()(model).modified


def test_what_is_larger_than_asked_stays(text_graph) -> None:
    model = text_graph(TEXT, v=WEIGHT, w=WEIGHT.copy(), u=WEIGHT.copy())
    assert not MergeEqualConstants(64)(model).modified
