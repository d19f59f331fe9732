"""Models whose large tensors stay in their file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.model_file import map_model, read_model, write_parted

FLOAT = onnx.TensorProto.FLOAT
SHAPES = ((3, 700), (2,), (1024,), (40, 40))


def model(shapes: tuple[tuple[int, ...], ...] = SHAPES) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    tensors = [onnx.numpy_helper.from_array(a, f"w{i}") for i, a in enumerate(arrays)]
    nodes = [
        onnx.helper.make_node("Identity", [tensor.name], [f"y{i}"])
        for i, tensor in enumerate(tensors)
    ]
    outputs = [
        onnx.helper.make_tensor_value_info(f"y{i}", FLOAT, shape) for i, shape in enumerate(shapes)
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], outputs, tensors)
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    onnx.helper.set_model_props(made, {"key": "value"})
    return made


def arrays_of(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}


def test_large_tensors_are_mapped_and_the_rest_is_as_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(), path)
    proto, mapped = map_model(path)
    assert list(mapped) == ["w0", "w2", "w3"]
    for name, array in mapped.items():
        np.testing.assert_array_equal(array, arrays_of(model())[name])
    whole = read_model(path)
    for tensor in whole.graph.initializer:
        if tensor.name in mapped:
            tensor.ClearField("raw_data")
    assert proto == whole


def test_a_mapped_model_outlives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(), path)
    _, mapped = map_model(path)
    path.unlink()
    np.testing.assert_array_equal(mapped["w3"], arrays_of(model())["w3"])


class Data:
    """A tensor that writes itself."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.nbytes = array.nbytes

    def tofile(self, file) -> None:
        file.write(self._array.tobytes())


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=6), st.data())
def test_what_is_written_in_parts_is_the_whole(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    whole = model(tuple((size,) for size in sizes))
    apart = data.draw(st.sets(st.integers(0, len(sizes) - 1)))
    skeleton, tensors = onnx.ModelProto(), {}
    skeleton.CopyFrom(whole)
    for index in apart:
        tensor = skeleton.graph.initializer[index]
        tensors[index] = Data(onnx.numpy_helper.to_array(tensor))
        tensor.raw_data = b""
    path = tmp_path_factory.mktemp("parts") / "model.onnx"
    write_parted(skeleton, tensors, path)
    assert onnx.load(path) == whole


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = model().SerializeToString()
    path = tmp_path / "model.onnx"
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match=r"model\.onnx: "):
            map_model(path)


@given(st.data())
def test_a_changed_byte_is_read_as_it_is_without_mapping(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(model().SerializeToString())
    heads = [i for i in range(len(whole)) if i < 300 or i > len(whole) - 200]
    whole[data.draw(st.sampled_from(heads))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("changed") / "model.onnx"
    path.write_bytes(whole)
    try:
        expected = read_model(path)
    except ModelFileError:
        with pytest.raises(ModelFileError):
            map_model(path)
        return
    proto, mapped = map_model(path)
    for tensor in proto.graph.initializer:
        if tensor.name in mapped:
            tensor.raw_data = mapped[tensor.name].tobytes()
    assert proto == expected


def test_a_mapped_tensor_whose_bytes_do_not_fill_its_shape_is_refused(tmp_path: Path) -> None:
    damaged = model()
    damaged.graph.initializer[0].dims[0] = 1 << 40
    (tmp_path / "model.onnx").write_bytes(damaged.SerializeToString())
    with pytest.raises(ModelFileError, match="'w0' holds 8400 bytes"):
        map_model(tmp_path / "model.onnx")


def test_a_mapped_graph_that_breaks_the_rules_is_refused(tmp_path: Path) -> None:
    damaged = model()
    damaged.graph.node[1].input[0] = "nowhere"
    (tmp_path / "model.onnx").write_bytes(damaged.SerializeToString())
    with pytest.raises(ModelFileError, match="breaks the ONNX rules"):
        map_model(tmp_path / "model.onnx")


def test_a_graph_in_two_pieces_is_read_whole(tmp_path: Path) -> None:
    first, second = model(), onnx.ModelProto()
    second.graph.initializer.append(first.graph.initializer.pop(0))
    path = tmp_path / "model.onnx"
    path.write_bytes(first.SerializeToString() + second.SerializeToString())
    proto, mapped = map_model(path)
    assert not mapped
    assert arrays_of(proto).keys() == arrays_of(model()).keys()
