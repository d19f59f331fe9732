from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from edgekit.export.calibration import CalibrationReader
from edgekit.export.histograms import BINS, histograms, write_calibration_report
from edgekit.export.quantize import quantize

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[batch, 4] x) => (float[batch, 3] y)
{
    hidden = Gemm <transB = 1> (x, w)
    active = Relu (hidden)
    y = Gemm <transB = 1> (active, v)
}
"""


@pytest.fixture
def model() -> ir.Model:
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(TEXT)
    for name, shape in (("w", (8, 4)), ("v", (3, 8))):
        array = rng.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


@pytest.fixture
def data() -> np.ndarray:
    values = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    values[0, 0] = 40  # an outlier for percentiles to clip
    return values


def test_every_value_is_counted_once(model: ir.Model, data: np.ndarray) -> None:
    reader = CalibrationReader.from_feeds([{"x": data[:30]}, {"x": data[30:]}])
    quantized = quantize(model, "int8", reader=reader).model
    seen: list[tuple[int, int]] = []
    found = {
        one.tensor: one
        for one in histograms(model, quantized, reader, lambda *done: seen.append(done))
    }
    assert set(found) == {"x", "active"}
    assert seen == [(1, 2), (2, 2)] * 2
    x = found["x"]
    assert (x.smallest, x.largest) == (data.min(), data.max())
    expected, _ = np.histogram(data, BINS, (float(data.min()), float(data.max())))
    assert list(x.counts) == expected.tolist()
    assert sum(found["active"].counts) == 50 * 8
    assert found["active"].smallest == 0


def test_the_range_is_the_one_that_ships(model: ir.Model, data: np.ndarray) -> None:
    reader = CalibrationReader.from_feeds([{"x": data}])
    quantized = quantize(model, "int8", reader=reader).model
    x = histograms(model, quantized, reader)[0]
    step = (x.high - x.low) / 255
    assert x.bits == 8
    assert x.outside == 0
    assert abs(x.low - data.min()) < step
    assert abs(x.high - data.max()) < step
    wide = histograms(model, quantize(model, "int16", reader=reader).model, reader)[0]
    assert wide.bits == 16


def test_clipped_values_are_counted(model: ir.Model, data: np.ndarray) -> None:
    narrow = CalibrationReader.from_feeds([{"x": data[1:]}])
    quantized = quantize(model, "int8", reader=narrow).model
    x = histograms(model, quantized, CalibrationReader.from_feeds([{"x": data}]))[0]
    assert x.outside == 1


def test_a_model_without_quantizers_has_no_histograms(model: ir.Model, data: np.ndarray) -> None:
    assert histograms(model, model, CalibrationReader.from_feeds([{"x": data}])) == ()


def test_the_report_is_one_object(model: ir.Model, data: np.ndarray, tmp_path: Path) -> None:
    reader = CalibrationReader.from_feeds([{"x": data}])
    result = quantize(model, "int8", reader=reader)
    found = histograms(model, result.model, reader)
    path = tmp_path / "calibration.json"
    write_calibration_report(found, Path("q.onnx"), result.report.settings, path)
    written = json.loads(path.read_text())
    assert written["model"] == "q.onnx"
    assert written["settings"]["method"] == "minmax"
    assert [one["tensor"] for one in written["tensors"]] == [one.tensor for one in found]
    assert all(len(one["counts"]) == BINS for one in written["tensors"])
