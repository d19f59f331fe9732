"""A packed model is looked at with its weights unpacked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgekit.bench.annotate import annotate
from edgekit.bench.unpacked import unpack
from edgekit.export.graph import load_graph, save_graph, to_proto
from edgekit.export.pack import Form, pack

Build = Callable[..., Path]


@pytest.fixture(params=["inline", "function"])
def packed(request: pytest.FixtureRequest, classifier_file: Build, tmp_path: Path) -> Path:
    """A classifier of which four weights in five are zero, packed."""
    form: Form = request.param
    path = tmp_path / "packed.onnx"
    model = load_graph(classifier_file("plain.onnx", zeros=54 * 64 * 4 // 5, filters=384))
    save_graph(pack(model, form=form).model, path)
    return path


def outputs(model: onnx.ModelProto) -> np.ndarray:
    image = np.random.default_rng(0).normal(size=(2, 1, 8, 8)).astype(np.float32)
    found: np.ndarray = ort.InferenceSession(model.SerializeToString()).run(None, {"image": image})[
        0
    ]
    return found


def test_weights_take_the_place_of_what_unpacks_them(packed: Path) -> None:
    model = onnx.load(packed)
    before = outputs(model)
    operators = [node.op_type for node in model.graph.node]
    assert "w1" in unpack(model)
    onnx.checker.check_model(model)
    left = [node.op_type for node in model.graph.node]
    assert left == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert len(operators) > len(left)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert shapes["w1"] == (384, 1, 3, 3), shapes
    np.testing.assert_array_equal(outputs(model), before)


def test_the_figures_stay_those_of_the_file(packed: Path) -> None:
    plain, shown = annotate(packed.with_name("plain.onnx")), annotate(packed)
    props = [
        {entry.key: entry.value for entry in node.metadata_props}
        for annotated in (plain, shown)
        for node in onnx.load_from_string(annotated.content).graph.node
        if node.name == "conv" or node.op_type == "Conv"
    ]
    for key in ("edgekit.macs", "edgekit.effective_macs", "edgekit.output_shape"):
        assert props[0][key] == props[1][key]
    model = {entry["name"]: entry["value"] for entry in shown.attachment["metrics"]}
    assert model["shown unpacked"].endswith("packed in the file")


def test_unpacked_weights_have_their_figures(packed: Path) -> None:
    shown = annotate(packed)
    (weight,) = (
        tensor
        for tensor in onnx.load_from_string(shown.content).graph.initializer
        if tensor.name == "w1"
    )
    figures = {entry.key: entry.value for entry in weight.metadata_props}
    assert figures["edgekit.elements"] == str(384 * 9)
    assert int(figures["edgekit.stored_bits"]) < 384 * 9 * 32 / 4
    told = {entry["name"] for entry in shown.attachment["metadata"] if entry["target"] == "w1"}
    assert told == set(figures)


def test_what_unpacks_is_kept_on_request(packed: Path) -> None:
    shown = onnx.load_from_string(annotate(packed, packed=True).content)
    assert len(shown.graph.node) == len(onnx.load(packed).graph.node)


def test_a_model_that_is_not_packed_stays(classifier_file: Build, packed: Path) -> None:
    plain = onnx.load(classifier_file())
    before = plain.SerializeToString()
    assert unpack(plain) == {}
    assert plain.SerializeToString() == before
    unmarked = to_proto(load_graph(packed))
    del unmarked.metadata_props[:]
    assert unpack(unmarked) == {}
