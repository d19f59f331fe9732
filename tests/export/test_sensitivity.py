"""Layers and their sensitivity, and float layers that onnxruntime leaves float."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.export.calibration import CalibrationReader
from edgekit.export.graph import from_proto, session_source, to_proto
from edgekit.export.keep_float import keep_float
from edgekit.export.quantize import quantize
from edgekit.export.sensitivity import EQUAL_DB, as_group, layers, names_pattern, sensitivities
from edgekit.runtime.session import open_session, run_batch

TextGraph = Callable[..., ir.Model]
BRANCHES = """
g (float[batch, 4, 6, 6] x) => (float[batch, 3] y)
{
    shifted = Neg (x)
    one = Conv <kernel_shape = [1, 1]> (shifted, w1)
    active = Relu (one)
    two = Conv <kernel_shape = [1, 1]> (active, w2)
    sum = Add (active, two)
    pooled = GlobalAveragePool (sum)
    flat = Flatten (pooled)
    y = Gemm <transB = 1> (flat, w3)
}
"""


def with_names(model: ir.Model) -> ir.Model:
    """The model with each node named after what it makes."""
    for node in model.graph:
        node.name = f"make.{node.outputs[0].name}"
    return model


def branches(text_graph: TextGraph, spoiled: float = 0.0) -> ir.Model:
    generator = np.random.default_rng(0)
    weights = {
        "w1": generator.normal(size=(4, 4, 1, 1)),
        "w2": generator.normal(size=(4, 4, 1, 1)),
        "w3": generator.normal(size=(3, 4)),
    }
    weights["w1"][:, 3] = spoiled  # the last input channel is zero in all samples
    arrays = {name: array.astype(np.float32) for name, array in weights.items()}
    return with_names(text_graph(BRANCHES, **arrays))


@pytest.fixture
def samples() -> np.ndarray:
    array = np.random.default_rng(1).normal(size=(16, 4, 6, 6)).astype(np.float32)
    array[:, 3] = 0
    return array


CHAIN = """
g (float[batch, 4, 6, 6] x) => (float[batch, 4, 6, 6] y)
{
    first = Conv <kernel_shape = [1, 1]> (x, w1)
    middle = Conv <kernel_shape = [1, 1]> (first, w2)
    y = Conv <kernel_shape = [1, 1]> (middle, w3)
}
"""


def chain(text_graph: TextGraph) -> ir.Model:
    """Three convolutions; the second has one huge weight, for a channel that is zero."""
    identity = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    second = identity + 0.1
    second[0, 3] = 3000
    return with_names(text_graph(CHAIN, w1=identity, w2=second, w3=identity))


def named(model: ir.Model) -> dict[str, str]:
    return {str(node.outputs[0].name): str(node.name) for node in model.graph}


def test_a_layer_is_an_operator_with_weights_and_what_follows(text_graph: TextGraph) -> None:
    model = branches(text_graph)
    names = named(model)
    found = [layer.nodes for layer in layers(model)]
    expected = [["shifted", "one", "active"], ["two", "sum", "pooled", "flat"], ["y"]]
    assert found == [tuple(names[value] for value in group) for group in expected]
    assert [layer.op_type for layer in layers(model)] == ["Conv", "Conv", "Gemm"]
    left = {names["shifted"], names["two"]}
    assert [layer.nodes for layer in layers(model, left)] == [
        tuple(names[value] for value in ("one", "active", "sum", "pooled", "flat")),
        (names["y"],),
    ]


def test_names_match_themselves_alone() -> None:
    names = ["a.b", "c/d+", "e$"]
    pattern = re.compile(names_pattern(names))
    assert all(pattern.search(name) for name in names)
    assert not any(pattern.search(name) for name in ("axb", "a.bc", "xa.b", "c/dd", "e"))


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("fc|head", "fc head"),
        ("(?i)FC", "fc Fc"),
        ("(?i)(?s)f.$", "fc Fc"),
        ("(?ix) F C  # the last", "fc Fc"),
        ("(?x) (?i) F C", "fc Fc"),
        ("(?i:F)c", "fc Fc"),
    ],
)
def test_a_group_keeps_its_flags_to_itself(pattern: str, found: str) -> None:
    names = ["fc", "Fc", "head", "stem", "Stem"]
    grouped = re.compile(f"{as_group(pattern)}|^(?:stem)$")
    assert [name for name in names if grouped.search(name)] == [*found.split(), "stem"]


def converter(model: ir.Model, samples: np.ndarray) -> Callable[[Collection[str]], ir.Model]:
    reader = CalibrationReader.from_feeds([{"x": samples}])

    def convert(names: Collection[str]) -> ir.Model:
        exclude = names_pattern(names) if names else None
        return quantize(model, "int8", reader=reader, exclude=exclude).model

    return convert


def test_the_spoiled_layer_ranks_first(text_graph: TextGraph, samples: np.ndarray) -> None:
    for spoiled, first in ((3000.0, "one"), (0.0, None)):
        model = branches(text_graph, spoiled)
        ranking = sensitivities(model, layers(model), converter(model, samples), samples)
        ratios = [one.db for one in ranking]
        assert ratios == sorted(ratios)
        if first is not None:
            assert ranking[0].layer.name == named(model)[first]
            assert ratios[0] < 5 < 20 < ratios[1]
        else:
            assert ratios[0] > 20


def test_layers_that_time_does_not_reach_rank_last(
    text_graph: TextGraph, samples: np.ndarray
) -> None:
    model = branches(text_graph, 3000.0)
    asked = iter([True, False, False])
    ranking = sensitivities(
        model,
        layers(model),
        converter(model, samples),
        samples,
        more_time=lambda: next(asked),
    )
    assert [one.db is None for one in ranking] == [False, True, True]


def test_a_conversion_that_changes_nothing_is_told_as_equal(
    text_graph: TextGraph, samples: np.ndarray
) -> None:
    model = branches(text_graph)
    ranking = sensitivities(model, layers(model), lambda _: model, samples)
    assert {one.db for one in ranking} == {EQUAL_DB}


def test_what_is_excluded_stays_float_in_onnxruntime(
    text_graph: TextGraph, samples: np.ndarray
) -> None:
    model = chain(text_graph)
    middle = named(model)["middle"]
    spared = converter(model, samples)([middle])
    bare = from_proto(to_proto(spared))
    for node in list(bare.graph):  # as onnxruntime's quantizer leaves it
        if node.op_type == "Max":
            ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
            bare.graph.remove(node)
    differences = []
    for candidate in (spared, bare):
        with session_source(candidate) as source:
            optimized, as_stored = (
                run_batch(open_session(source, optimize=on), samples) for on in (True, False)
            )
        differences.append(np.abs(optimized - as_stored).max() / np.abs(as_stored).max())
    assert differences[0] < 0.05
    assert differences[1] > 0.3  # or the Max would not be needed any more
    assert keep_float(bare, [middle]) == 1
    assert keep_float(bare, [middle]) == 0
