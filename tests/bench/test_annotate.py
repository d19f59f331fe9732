"""Figures on nodes and tensors, in a copy that computes what the model computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgekit.bench.annotate import AnnotatedModel, annotate
from edgekit.bench.figures import file_sha256
from edgekit.bench.measured import Measured, read_measured
from edgekit.runtime.errors import InputError

Build = Callable[..., Path]
MACS = 3 * 3 * 6 * 8 * 8


def node_props(annotated: AnnotatedModel, name: str) -> dict[str, str]:
    proto = onnx.load_from_string(annotated.content)
    (node,) = (node for node in proto.graph.node if node.name == name)
    return {entry.key: entry.value for entry in node.metadata_props}


def attached(annotated: AnnotatedModel, part: str, kind: str, target: str) -> dict[str, str]:
    return {
        entry["name"]: entry["value"]
        for entry in annotated.attachment[part]
        if (entry["kind"], entry["target"]) == (kind, target)
    }


def test_a_convolution_carries_its_counts(classifier_file: Build) -> None:
    assert node_props(annotate(classifier_file(zeros=27)), "conv") == {
        "edgekit.macs": str(MACS),
        "edgekit.effective_macs": str(MACS // 2),
        "edgekit.weight_bits": "32",
        "edgekit.activation_bits": "32",
        "edgekit.params": "60",
        "edgekit.nonzero": "33",
        "edgekit.output_shape": "1x6x8x8",
    }


def test_other_weights_give_other_figures(classifier_file: Build) -> None:
    dense = node_props(annotate(classifier_file("dense.onnx")), "conv")
    sparse = node_props(annotate(classifier_file("sparse.onnx", zeros=27)), "conv")
    assert {key for key in dense if dense[key] != sparse[key]} == {
        "edgekit.effective_macs",
        "edgekit.nonzero",
    }


def test_the_copy_computes_the_same_and_the_file_stays(classifier_file: Build) -> None:
    path = classifier_file()
    before = path.read_bytes()
    annotated = annotate(path)
    assert path.read_bytes() == before
    onnx.checker.check_model(onnx.load_from_string(annotated.content))
    image = np.random.default_rng(0).normal(size=(2, 1, 8, 8)).astype(np.float32)
    outputs = [
        ort.InferenceSession(source).run(None, {"image": image})[0]
        for source in (before, annotated.content)
    ]
    np.testing.assert_array_equal(*outputs)


def test_names_in_the_file_stay_and_a_nameless_node_takes_its_outputs(tmp_path: Path) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[2] x) => (float[2] z) { y = Relu (x)  z = Neg (y) }
    """
    proto = onnx.parser.parse_model(text)
    proto.graph.node[0].name = "features.0.relu"
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    proto = onnx.load_from_string(annotate(path).content)
    assert [node.name for node in proto.graph.node] == ["features.0.relu", "z"]


def test_the_attachment_tells_shares_of_the_whole(classifier_file: Build) -> None:
    annotated = annotate(classifier_file())
    assert annotated.attachment["signature"] == "netron:attachment"
    total = MACS + 24
    conv = attached(annotated, "metrics", "node", "conv")
    assert conv["MACs"] == f"{MACS:,} ({MACS / total:.1%} of the model)"
    assert conv["zeros"] == "0.0%"
    assert attached(annotated, "metrics", "model", "")["MACs"] == f"{total:,}"


def test_tensors_carry_theirs(classifier_file: Build) -> None:
    annotated = annotate(classifier_file(zeros=27))
    expected = {
        "edgekit.role": "learned",
        "edgekit.elements": "54",
        "edgekit.nonzero": "27",
        "edgekit.bits": "32",
        "edgekit.stored_bits": str(54 * 32),
    }
    assert attached(annotated, "metadata", "tensor", "w1") == expected
    (weight,) = (
        tensor
        for tensor in onnx.load_from_string(annotated.content).graph.initializer
        if tensor.name == "w1"
    )
    assert {entry.key: entry.value for entry in weight.metadata_props} == expected


def test_a_constant_node_is_a_tensor_too(tmp_path: Path) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[2] x) => (float[2] y) { k = Constant <value = float[2] {1.0, 2.0}> ()  y = Mul (x, k) }
    """
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    assert attached(annotate(path), "metadata", "tensor", "k")["edgekit.elements"] == "2"


def test_figures_find_their_node_where_functions_are_inlined(tmp_path: Path) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20, "own" : 1]>
    g (float[1, 2] x) => (float[1, 2] y) { a = own.twice (x)  [last] y = MatMul (a, w) }
    <domain: "own", opset_import: ["" : 20]>
    twice (x) => (y) { y = Add (x, x) }
    """
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(2, dtype=np.float32), "w"))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    assert node_props(annotate(path), "last")["edgekit.macs"] == "4"


def test_nodes_of_one_name_share_no_metrics(tmp_path: Path) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[1, 2] x) => (float[1, 2] y) { [m] a = MatMul (x, w)  [m] y = MatMul (a, w) }
    """
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(2, dtype=np.float32), "w"))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    annotated = annotate(path)
    assert attached(annotated, "metrics", "node", "m") == {}
    nodes = onnx.load_from_string(annotated.content).graph.node
    assert [props_of(node)["edgekit.macs"] for node in nodes] == ["4", "4"]


def props_of(node: onnx.NodeProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in node.metadata_props}


def test_external_data_stays_where_it_is(classifier_file: Build, tmp_path: Path) -> None:
    path = tmp_path / "big" / "m.onnx"
    path.parent.mkdir()
    onnx.save(
        onnx.load(classifier_file()),
        path,
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
    )
    annotated = annotate(path)
    assert annotated.files == (path, path.parent / "m.data")
    assert node_props(annotated, "conv")["edgekit.macs"] == str(MACS)
    proto = onnx.load_model_from_string(annotated.content)
    assert {tensor.data_location for tensor in proto.graph.initializer} == {
        onnx.TensorProto.EXTERNAL
    }


def test_measured_figures_and_notes_are_added(classifier_file: Build) -> None:
    measured = Measured({"conv": 0.25}, {"conv": 31.416}, "bench.json")
    annotated = annotate(
        classifier_file(), measured=measured, notes={"conv": {"change": "changed; other values"}}
    )
    props = node_props(annotated, "conv")
    assert props["edgekit.time_share"] == "0.250000"
    assert props["edgekit.signal_to_noise_db"] == "31.42"
    assert props["edgekit.change"] == "changed; other values"
    metrics = attached(annotated, "metrics", "node", "conv")
    assert (metrics["time"], metrics["signal-to-noise"]) == ("25.0% of a run", "31.4 dB")
    assert metrics["change"] == "changed; other values"


def results(path: Path, **entry: Any) -> dict[str, Any]:
    return {"schema_version": 1, "models": [{"sha256": file_sha256(path), **entry}]}


def test_results_are_read_for_this_very_file(classifier_file: Build, tmp_path: Path) -> None:
    model, other = classifier_file(), classifier_file("other.onnx", zeros=1)
    noise = {"layers": [{"tensor": "t", "node": "conv", "db": 31.4}, {"node": "n", "db": None}]}
    nodes = [{"name": "conv", "time_share": 0.25}, {"name": "relu", "time_share": None}]
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(results(model, nodes=nodes, signal_to_noise=noise)))
    measured = read_measured(path, model)
    assert measured.time_shares == {"conv": 0.25}
    assert measured.decibels == {"conv": 31.4, "t": 31.4}
    with pytest.raises(InputError, match=r"holds no figures of .*other\.onnx"):
        read_measured(path, other)


def test_results_without_measured_nodes_give_none(classifier_file: Build, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(results(model := classifier_file())))
    assert read_measured(path, model) == Measured(source=str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("words", "not a file of results"),
        ("[1]", "schema version None"),
        ('{"schema_version": 99}', "schema version 99"),
        ('{"schema_version": 1, "models": 3}', "holds no figures"),
    ],
)
def test_results_that_cannot_be_used(
    classifier_file: Build, tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "bench.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_measured(path, classifier_file())
