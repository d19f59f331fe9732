from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.model_file import model_files, own_files, read_model, write_model

Build = Callable[..., onnx.ModelProto]


def save_external(model: onnx.ModelProto, path: Path, **changes: str) -> None:
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    stored = onnx.load(path, load_external_data=False)
    for tensor in stored.graph.initializer:
        for entry in tensor.external_data:
            entry.value = changes.get(entry.key, entry.value)
    path.write_bytes(stored.SerializeToString())


def test_round_trip_keeps_the_model(tmp_path: Path, classifier: Build) -> None:
    write_model(classifier(), tmp_path / "model.onnx")
    assert read_model(tmp_path / "model.onnx") == classifier()


def test_every_truncation_is_refused(tmp_path: Path, classifier: Build) -> None:
    whole = classifier().SerializeToString()
    path = tmp_path / "model.onnx"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match=r"model\.onnx: "):
            read_model(path)


@pytest.mark.parametrize("content", [b"", b"not a model at all", bytes(1000), b"\x89PNG\r\n"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        read_model(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        read_model(tmp_path / "missing.onnx")
    with pytest.raises(ModelFileError, match="is a folder"):
        read_model(tmp_path)


def test_a_tensor_whose_bytes_do_not_fill_its_shape_is_refused(
    tmp_path: Path, classifier: Build
) -> None:
    model = classifier()
    model.graph.initializer[-1].dims[0] = 1 << 40
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="'weight' holds 192 bytes"):
        read_model(tmp_path / "model.onnx")


def test_a_graph_that_breaks_the_rules_is_refused(tmp_path: Path, classifier: Build) -> None:
    model = classifier()
    model.graph.node[1].input[0] = "nowhere"
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="breaks the ONNX rules"):
        read_model(tmp_path / "model.onnx")


def test_external_data_stays_on_disk_and_is_listed(tmp_path: Path, classifier: Build) -> None:
    path = tmp_path / "model.onnx"
    save_external(classifier(), path)
    model = read_model(path)
    assert all(not tensor.raw_data for tensor in model.graph.initializer)
    assert model_files(model, path) == [path, tmp_path / "weights.bin"]


def test_a_models_own_files_are_listed_unchecked(tmp_path: Path, classifier: Build) -> None:
    path = tmp_path / "model.onnx"
    save_external(classifier(), path)
    assert own_files(path) == [path, tmp_path / "weights.bin"]
    for location in ("nowhere", "\0", "x" * 300, ""):
        save_external(classifier(), path, location=location)
        assert own_files(path) == [path]
    path.write_bytes(b"not a model at all")
    assert own_files(path) == [path]
    assert own_files(tmp_path / "missing.onnx") == [tmp_path / "missing.onnx"]


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "", "a\0b"])
def test_external_data_outside_the_folder_is_refused(
    tmp_path: Path, classifier: Build, location: str
) -> None:
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "model.onnx"
    save_external(classifier(), path, location=location)
    (tmp_path / "weights.bin").write_bytes(bytes(4096))
    with pytest.raises(ModelFileError, match="outside the model's folder"):
        read_model(path)


def test_external_data_behind_a_link_out_of_the_folder_is_refused(
    tmp_path: Path, classifier: Build
) -> None:
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "model.onnx"
    save_external(classifier(), path)
    (path.parent / "weights.bin").rename(tmp_path / "weights.bin")
    (path.parent / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ModelFileError, match="outside the model's folder"):
        read_model(path)


def test_missing_and_short_external_data_are_refused(tmp_path: Path, classifier: Build) -> None:
    path = tmp_path / "model.onnx"
    save_external(classifier(), path)
    data = tmp_path / "weights.bin"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match="too short"):
        read_model(path)
    data.unlink()
    with pytest.raises(ModelFileError, match="missing"):
        read_model(path)


def test_four_bit_tensors_are_measured_in_half_bytes(tmp_path: Path) -> None:
    codes = onnx.helper.make_tensor("codes", onnx.TensorProto.INT4, [3], b"\x21\x03", raw=True)
    node = onnx.helper.make_node("DequantizeLinear", ["codes", "scale"], ["output"])
    scale = onnx.numpy_helper.from_array(np.float32(0.5), "scale")
    output = onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [3])
    graph = onnx.helper.make_graph([node], "codes", [], [output], [codes, scale])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    write_model(model, tmp_path / "model.onnx")
    assert read_model(tmp_path / "model.onnx") == model


def test_external_data_of_a_function_outside_the_folder_is_refused(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 20, "own" : 1]>
        g (float[2] x) => (float[2] y) { y = own.shift(x) }
        <domain: "own", opset_import: ["" : 20]>
        shift (x) => (y) { c = Constant <value = float[2] {1, 2}> ()  y = Add(x, c) }
        """
    )
    (tensor,) = (a.t for n in model.functions[0].node for a in n.attribute if a.HasField("t"))
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    (tmp_path / "inner" / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="outside the model's folder"):
        read_model(tmp_path / "inner" / "model.onnx")


def test_a_broken_rule_is_told_whole_on_one_line(tmp_path: Path, classifier: Build) -> None:
    model = classifier()
    model.graph.node[1].name = "the product"
    first, second = model.graph.node[1], model.graph.node[0]
    reordered = [onnx.NodeProto.FromString(n.SerializeToString()) for n in (first, second)]
    del model.graph.node[:]
    model.graph.node.extend(reordered)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=r"sorted.* the product") as caught:
        read_model(tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
