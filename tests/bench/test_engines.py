"""The engines agree with onnxruntime on the same files, and say when they cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.bench.compare import bench_models
from edgekit.bench.engines import ENGINES, find_engine
from edgekit.bench.settings import BenchSettings
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import DataError, InputError, MissingExtraError, ModelFileError

ModelFile = Callable[..., Path]
SAMPLES = np.random.default_rng(0).normal(size=(5, 1, 8, 8)).astype(np.float32)
QUICK = BenchSettings(warmup=1, iterations=3, cold_starts=0)
QUANTIZED = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (float[n, 1, 8, 8] x) => (float[n, 64] y)
<float scale = {0.01}, uint8 zero = {128}>
{
    [quantize] q = QuantizeLinear (x, scale, zero)
    [dequantize] d = DequantizeLinear (q, scale, zero)
    [flatten] y = Flatten (d)
}
"""

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch",  # torch's own, met while the converter imports it
)


@pytest.fixture(params=["openvino", "torch"])
def engine(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    try:
        find_engine(name).prepare()
    except MissingExtraError as error:
        pytest.skip(str(error))
    return name


def test_an_engine_gives_onnxruntime_s_outputs(classifier_file: ModelFile, engine: str) -> None:
    path = classifier_file()
    expected = ENGINES["onnxruntime"].open(path, 1).classify(SAMPLES)
    loaded = find_engine(engine).open(path, 1)
    assert loaded.input.shape[1:] == (1, 8, 8)
    assert loaded.input.dtype == np.float32
    found = loaded.classify(SAMPLES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    again = loaded.classify(SAMPLES[::-1].copy())
    np.testing.assert_allclose(found, expected, atol=1e-4)  # not the engine's own buffer
    assert not np.allclose(again, expected, atol=1e-4)
    other = find_engine(engine).open(classifier_file("other.onnx", zeros=20), 1)
    assert not np.allclose(other.classify(SAMPLES), expected, atol=1e-4)


def test_samples_of_another_size_are_refused(classifier_file: ModelFile, engine: str) -> None:
    loaded = find_engine(engine).open(classifier_file(), 1)
    with pytest.raises(DataError, match="use data of that size"):
        loaded.classify(np.zeros((2, 3, 8, 8), np.float32))


def test_a_comparison_runs_on_an_engine(
    classifier_file: ModelFile, images: Split, engine: str
) -> None:
    settings = replace(QUICK, engine=engine, sweep_batch_sizes=(4,))
    report = bench_models([classifier_file()], images, settings)
    plain = bench_models([classifier_file()], images, QUICK)
    (model,) = report.models
    assert model.accuracy is not None
    assert plain.models[0].accuracy is not None
    assert model.accuracy.correct == plain.models[0].accuracy.correct
    assert model.difference_to_onnxruntime is not None
    assert model.difference_to_onnxruntime < 1e-5
    assert [timing.batch_size for timing in model.sweep] == [1, 4]
    printed = report.to_json()["settings"]
    assert printed["engine"] == engine
    assert printed["engine_version"]


def test_a_shape_is_given_by_the_file_s_own_input_name(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    agraph (float[n, c, h, w] picture) => (float[n, k] y) {
        half = Cast <to = 10> (picture)
        flat = Flatten (half)
        y = Cast <to = 1> (flat)
    }
    """
    path = tmp_path / "half.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    settings = replace(QUICK, engine="openvino", input_shapes={"picture": (1, 1, 8, 8)})
    (model,) = bench_models([path], None, settings).models
    assert model.difference_to_onnxruntime is not None
    assert model.difference_to_onnxruntime < 1e-3  # half precision, kept or not


NO_NETWORK = """
import pathlib, sys

def refuse(event, arguments):
    if event.startswith("socket."):
        print(event, arguments)

sys.addaudithook(refuse)
from edgekit.bench.engines import find_engine

engine = find_engine("openvino")
engine.prepare()
engine.open(pathlib.Path(sys.argv[1]), 1)
print("done", "openvino_telemetry" in sys.modules)
"""


def test_openvino_tells_nobody_that_it_is_used(classifier_file: ModelFile, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, str(classifier_file())],
        env={**environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "done False\n"
    assert not (home / "intel").exists()


def quantized_file(tmp_path: Path) -> Path:
    path = tmp_path / "quantized.onnx"
    path.write_bytes(onnx.parser.parse_model(QUANTIZED).SerializeToString())
    return path


def test_openvino_runs_a_quantized_file(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = quantized_file(tmp_path)
    expected = ENGINES["onnxruntime"].open(path, 1).classify(SAMPLES)
    found = ENGINES["openvino"].open(path, 1).classify(SAMPLES)
    np.testing.assert_allclose(found, expected, atol=0.011)  # one step of the scale


def test_torch_refuses_a_quantized_file_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(ModelFileError, match=r"no QuantizeLinear \(node 'quantize'\)") as caught:
        ENGINES["torch"].open(quantized_file(tmp_path), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("openvino", "openvino", "openvino"),
        ("torch", "onnx2torch", "torch-engine"),
        ("torch", "torch", "torch-engine"),
    ],
)
def test_a_missing_engine_names_its_extra(
    name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package != "torch":
        pytest.importorskip("torch" if name == "torch" else package)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package}.*edgekit\[{extra}\]"):
        find_engine(name).prepare()


def test_an_unknown_engine_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="onnxruntime, openvino, torch"):
        find_engine("abacus")
