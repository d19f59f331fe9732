from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import edgekit.export.graph as graph_module
from edgekit.commands.optimize import optimize_file
from edgekit.export.graph import (
    check_data_file,
    from_proto,
    inline_functions,
    load_graph,
    metadata,
    model_preprocessing,
    save_graph,
    session_source,
    set_metadata,
    tensor_bytes,
    to_proto,
)
from edgekit.export.verify import largest_difference, random_inputs, run_outputs
from edgekit.runtime.errors import InputError, ModelFileError, OutputError
from edgekit.runtime.preprocessing import Preprocessing

CONV = "g (float[N,3,8,8] x) => (float[N,4,6,6] y) { y = Conv(x, w, b) }"
WEIGHT = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
BIAS = np.arange(4, dtype=np.float32)


@pytest.fixture
def conv(text_graph) -> ir.Model:
    return text_graph(CONV, w=WEIGHT, b=BIAS)


@pytest.fixture
def external_conv(conv: ir.Model, tmp_path: Path) -> Path:
    path = tmp_path / "external" / "model.onnx"
    path.parent.mkdir()
    ir.save(conv, path, external_data="model.data", size_threshold_bytes=0)
    return path


def test_a_saved_graph_loads_as_the_same_graph(conv: ir.Model, tmp_path: Path) -> None:
    save_graph(conv, tmp_path / "model.onnx")
    loaded = load_graph(tmp_path / "model.onnx")
    inputs = random_inputs(conv)
    assert largest_difference(run_outputs(conv, inputs), run_outputs(loaded, inputs)) == 0.0


def test_external_tensors_stay_in_their_file_when_loaded(external_conv: Path) -> None:
    weight = load_graph(external_conv).graph.initializers["w"].const_value
    assert isinstance(weight, ir.ExternalTensor)
    assert weight.raw is None
    np.testing.assert_array_equal(weight.numpy(), WEIGHT)


def test_a_graph_with_external_tensors_is_saved_elsewhere_as_one_file(
    external_conv: Path, tmp_path: Path
) -> None:
    model = load_graph(external_conv)
    save_graph(model, tmp_path / "one.onnx")
    assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)
    proto = onnx.load(tmp_path / "one.onnx", load_external_data=False)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(proto.graph.initializer[0]), WEIGHT)


def test_a_graph_with_external_tensors_runs(conv: ir.Model, external_conv: Path) -> None:
    inputs = random_inputs(conv)
    outputs = run_outputs(load_graph(external_conv), inputs)
    assert largest_difference(run_outputs(conv, inputs), outputs) == 0.0


def test_tensors_too_large_for_protobuf_are_written_beside_the_model(
    conv: ir.Model, external_conv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_module, "LARGEST_INLINE_BYTES", 100)
    path = tmp_path / "large.onnx"
    save_graph(load_graph(external_conv), path)
    assert (tmp_path / "large.onnx.data").stat().st_size >= WEIGHT.nbytes
    weight = load_graph(path).graph.initializers["w"].const_value
    assert weight is not None
    np.testing.assert_array_equal(weight.numpy(), WEIGHT)
    with session_source(conv) as source:
        assert isinstance(source, Path)
    with pytest.raises(ModelFileError, match="below 2 GiB"):
        to_proto(conv)


def test_saving_a_large_graph_over_its_own_external_data_keeps_its_values(
    external_conv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_module, "LARGEST_INLINE_BYTES", 100)
    path = external_conv
    save_graph(load_graph(path), path)
    save_graph(load_graph(path), path)
    weight = load_graph(path).graph.initializers["w"].const_value
    assert weight is not None
    np.testing.assert_array_equal(weight.numpy(), WEIGHT)


def test_the_file_of_a_large_models_tensors_replaces_no_other(
    external_conv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_module, "LARGEST_INLINE_BYTES", 100)
    model, output = load_graph(external_conv), tmp_path / "out.onnx"
    check_data_file(model, output)
    data = tmp_path / "out.onnx.data"
    data.write_text("another's")
    with pytest.raises(OutputError, match=r"out\.onnx\.data: exists already"):
        optimize_file(external_conv, output, verify=False)
    assert data.read_text() == "another's"
    assert not output.exists()
    optimize_file(external_conv, output, verify=False, force=True)
    assert data.stat().st_size == WEIGHT.nbytes


def test_the_file_of_a_large_models_tensors_is_not_the_one_that_it_reads(
    external_conv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_module, "LARGEST_INLINE_BYTES", 100)
    own = external_conv.with_name("model.data")
    own.rename(external_conv.with_name("out.onnx.data"))
    proto = onnx.load(external_conv, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "out.onnx.data" if entry.key == "location" else entry.value
    external_conv.write_bytes(proto.SerializeToString())
    with pytest.raises(OutputError, match="the output is also the input"):
        optimize_file(external_conv, external_conv.with_name("out.onnx"), verify=False, force=True)


def test_a_graph_that_cannot_be_read_is_a_one_line_error(conv: ir.Model) -> None:
    proto = to_proto(conv)
    proto.graph.initializer[0].data_type = 99
    with pytest.raises(ModelFileError, match=r"the graph cannot be read \(") as caught:
        from_proto(proto)
    assert "\n" not in str(caught.value)


def test_metadata_returns_what_was_set_and_nothing_of_others(conv: ir.Model) -> None:
    conv.metadata_props["author"] = "someone"
    set_metadata(conv, {"edgekit.recipe": "a"})
    set_metadata(conv, {"edgekit.recipe": "b"})
    assert metadata(conv) == {"edgekit.recipe": "b"}
    assert conv.metadata_props["author"] == "someone"


def test_metadata_refuses_keys_that_are_not_edgekits(conv: ir.Model) -> None:
    with pytest.raises(InputError, match=r"'recipe' must begin with 'edgekit\.'"):
        set_metadata(conv, {"recipe": "a"})


def test_preprocessing_survives_the_file(conv: ir.Model, tmp_path: Path) -> None:
    preprocessing = Preprocessing(8, 8, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), ("a", "b", "c", "d"))
    assert model_preprocessing(conv) is None
    set_metadata(conv, preprocessing.to_metadata())
    save_graph(conv, tmp_path / "model.onnx")
    assert model_preprocessing(load_graph(tmp_path / "model.onnx")) == preprocessing


def test_tensor_bytes_counts_attributes_and_subgraphs(text_graph) -> None:
    model = text_graph(
        """g (bool which, float[2] x) => (float[2] y) {
            y = If (which) <
                then_branch = t () => (float[2] a) { k = Constant<value = float[2] {1, 2}>()
                                                     a = Add(x, k) },
                else_branch = e () => (float[2] c) { c = Add(x, w) }>
        }""",
        w=np.ones(2, np.float32),
    )
    assert tensor_bytes(model) == 16


def test_text_takes_the_bytes_of_its_characters(text_graph) -> None:
    model = text_graph(
        "g (float[N] x) => (float[N] y, string[2] z) { y = Relu(x) z = Identity(labels) }",
        labels=np.array(["no", "yes"], object),
    )
    assert tensor_bytes(model) == 5


def test_a_function_of_an_older_opset_is_inlined() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 20, "f": 1]>
        g (float[N] x) => (float[N] y) { y = f.act(x) }
        <domain: "f", opset_import: ["": 18]> act (v) => (o) { o = Relu(v) }"""
    )
    onnx.checker.check_model(proto, full_check=True)
    model = from_proto(proto)
    inline_functions(model)
    assert [node.op_type for node in model.graph] == ["Relu"]
    assert model.opset_imports[""] == 20
