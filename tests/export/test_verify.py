from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.export.graph import set_metadata
from edgekit.export.verify import (
    QUANTIZED_TOLERANCE,
    TOLERANCES,
    largest_difference,
    random_inputs,
    run_outputs,
    tolerance,
)
from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.preprocessing import Preprocessing

NAN, INF = float("nan"), float("inf")


def difference(before: object, after: object) -> float:
    return largest_difference({"y": np.asarray(before)}, {"y": np.asarray(after)})


def test_run_outputs_computes_the_graph(text_graph) -> None:
    model = text_graph(
        "g (float[N,2] x) => (float[N,2] y, float[N,2] z) {y = Add(x, k) z = Neg(x)}",
        k=np.array([1, 2], np.float32),
    )
    x = np.ones((3, 2), np.float32)
    outputs = run_outputs(model, {"x": x})
    assert list(outputs) == ["y", "z"]
    np.testing.assert_array_equal(outputs["y"], [[2, 3]] * 3)
    np.testing.assert_array_equal(outputs["z"], -x)


def test_run_outputs_names_the_parts_of_a_sequence(text_graph) -> None:
    model = text_graph(
        "g (float[2] x) => (seq(float[2]) s) { n = Neg(x) s = SequenceConstruct(x, n) }"
    )
    outputs = run_outputs(model, {"x": np.ones(2, np.float32)})
    assert list(outputs) == ["s[0]", "s[1]"]


def test_run_outputs_says_how_to_go_on_when_the_model_does_not_run(text_graph) -> None:
    model = text_graph("g (float[N,2] x) => (float[N,2] y) { y = Neg(x) }")
    with pytest.raises(ModelFileError, match="--no-verify"):
        run_outputs(model, {"x": np.ones((1, 3), np.float32)})


def test_random_inputs_keep_static_dimensions_and_bind_equal_names_alike(text_graph) -> None:
    model = text_graph(
        "g (float[N,3,S,S] x, float16[4,2] h, int64[N] i, uint8[N,T] u, bool[2] b, double[T] d)"
        "=> (float[N,3,S,S] y) { y = Neg(x) }"
    )
    inputs = random_inputs(model, batch=5)
    assert {name: (a.shape, a.dtype.name) for name, a in inputs.items()} == {
        "x": ((5, 3, 64, 64), "float32"),
        "h": ((4, 2), "float16"),
        "i": ((5,), "int64"),
        "u": ((5, 5), "uint8"),
        "b": ((2,), "bool"),
        "d": ((5,), "float64"),
    }


def test_random_inputs_take_the_size_from_the_models_preprocessing(text_graph) -> None:
    model = text_graph("g (float[N,C,H,W] x) => (float[N,C,H,W] y) { y = Neg(x) }")
    set_metadata(model, Preprocessing(8, 12, (0.5,), (0.5,)).to_metadata())
    assert random_inputs(model)["x"].shape == (2, 1, 8, 12)


def test_random_inputs_depend_on_the_seed_alone(text_graph) -> None:
    model = text_graph("g (float[N,4] x) => (float[N,4] y) { y = Neg(x) }")
    first, again, other = (random_inputs(model, seed=seed)["x"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_random_inputs_leave_initializers_that_are_inputs_alone(text_graph) -> None:
    model = text_graph(
        "g (float[2] x) => (float[2] y) { y = Add(x, k) }",
        also_inputs=("k",),
        k=np.ones(2, np.float32),
    )
    assert list(random_inputs(model)) == ["x"]


@pytest.mark.parametrize("kind", ["string[2]", "seq(float[2])"])
def test_random_inputs_refuse_types_that_cannot_be_made_up(text_graph, kind: str) -> None:
    model = text_graph(f"g ({kind} x) => ({kind} y) {{ y = Identity(x) }}")
    with pytest.raises(ModelFileError, match=r"input 'x' is .*--no-verify"):
        random_inputs(model)


def test_random_inputs_refuse_an_unknown_rank(text_graph) -> None:
    model = text_graph("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    model.graph.inputs[0].shape = None
    with pytest.raises(ModelFileError, match=r"input 'x' has no shape .*--no-verify"):
        random_inputs(model)


@pytest.mark.parametrize("size", [10**8, 10**18])
def test_random_inputs_refuse_more_than_memory_holds(text_graph, size: int) -> None:
    model = text_graph(
        f"g (float[1, {size}, {size}] x) => (float[a, b, c] y) {{ y = Identity(x) }}"
    )
    with pytest.raises(ModelFileError, match=r"input 'x' takes .*memory.*--no-verify"):
        random_inputs(model)


def test_difference_is_relative_to_the_largest_reference_value() -> None:
    assert difference([100.0, 1.0], [100.0, 2.0]) == pytest.approx(0.01)
    assert difference([0.001, 0.0], [0.001, 0.001]) == pytest.approx(1.0)
    assert difference([1.0, -2.0], [1.0, -2.0]) == 0.0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([1.0, 2.0], [[1.0, 2.0]]),
        ([1.0, NAN], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, NAN]),
        ([1.0, INF], [1.0, -INF]),
        ([1.0, INF], [1.0, NAN]),
        ([0.0, 0.0], [0.0, 1e-30]),
        (np.zeros(2, np.float32), np.zeros(2, np.float16)),
        (["a", "b"], ["a", "c"]),
    ],
)
def test_difference_is_infinite_where_no_number_says_it(before: object, after: object) -> None:
    assert difference(before, after) == INF


def test_difference_takes_equal_nans_and_infinities_as_equal() -> None:
    assert difference([NAN, INF, 2.0], [NAN, INF, 2.0]) == 0.0
    assert difference([NAN, NAN], [NAN, NAN]) == 0.0
    assert difference(["a"], ["a"]) == 0.0


def test_difference_of_missing_outputs_is_infinite() -> None:
    assert largest_difference({"y": np.ones(1)}, {}) == INF
    assert largest_difference({"y": np.ones(1)}, {"z": np.ones(1)}) == INF


def test_tolerance_follows_the_coarsest_arithmetic(text_graph) -> None:
    single = text_graph("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    half = text_graph("g (float[2] x) => (float16[2] y) { y = Cast<to = 10>(x) }")
    quantized = text_graph(
        "g (float[2] x) => (uint8[2] y) { y = QuantizeLinear(x, s) }", s=np.float32(0.1)
    )
    assert tolerance(single) == TOLERANCES[ir.DataType.FLOAT]
    assert tolerance(half) == TOLERANCES[ir.DataType.FLOAT16]
    assert tolerance(quantized) == QUANTIZED_TOLERANCE
