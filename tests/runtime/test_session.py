from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.runtime.errors import DataError, ModelFileError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.runtime.session import open_session, run_batch

Build = Callable[..., onnx.ModelProto]
BATCH = np.random.default_rng(0).normal(size=(5, 1, 4, 4)).astype(np.float32)


def test_a_fixed_batch_gives_what_a_dynamic_one_gives(classifier: Build) -> None:
    dynamic = run_batch(open_session(classifier("batch")), BATCH)
    for size in (1, 2, 5, 8):
        fixed = run_batch(open_session(classifier(size)), BATCH)
        np.testing.assert_allclose(fixed, dynamic, rtol=1e-6)
    other = run_batch(open_session(classifier("batch", seed=1)), BATCH)
    assert not np.allclose(other, dynamic, rtol=1e-6)


def test_samples_of_another_shape_are_refused(classifier: Build) -> None:
    with pytest.raises(DataError, match="use data of that size"):
        run_batch(open_session(classifier()), np.zeros((2, 3, 4, 4), np.float32))


def test_a_model_with_two_inputs_is_no_classifier() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "g (float[2] a, float[2] b) => (float[2] c) { c = Add(a, b) }"
    )
    with pytest.raises(ModelFileError, match=r"2 inputs \(a, b\)"):
        run_batch(open_session(model), BATCH)


def test_an_operator_that_onnxruntime_lacks_is_named() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "far.away" : 1]> '
        "g (float[2] a) => (float[2] b) { b = far.away.Unheard(a) }"
    )
    with pytest.raises(ModelFileError, match="Unheard"):
        open_session(model)


def test_a_damaged_file_is_refused_before_onnxruntime_sees_it(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(ModelFileError, match="not an ONNX file"):
        open_session(tmp_path / "model.onnx")


PIXELS = """
<ir_version: 8, opset_import: ["" : 17]>
pixels (uint8[batch, 1, 4, 4] input) => (float[batch, 16] logits)
{
    values = Cast<to = 1>(input)
    logits = Flatten(values)
}
"""


def test_a_model_of_pixels_gets_them_whole() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), dtype=np.uint8)
    session = open_session(onnx.parser.parse_model(PIXELS))
    as_they_are = Preprocessing(4, 4, (0.0,), (0.003921569,))
    np.testing.assert_array_equal(run_batch(session, as_they_are(images)), images.reshape(5, 16))


@pytest.mark.parametrize("std", [1.0, 0.003])
def test_a_model_of_pixels_gets_nothing_else(std: float) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), dtype=np.uint8)
    session = open_session(onnx.parser.parse_model(PIXELS))
    with pytest.raises(DataError, match=r"--mean 0 --std 0\.003921569"):
        run_batch(session, Preprocessing(4, 4, (0.0,), (std,))(images))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(float[N, 4] x) => (float y) { y = ReduceSum<keepdims = 0>(x) }", "not one row a sample"),
        ("(float[0, 4] x) => (float[0, 4] y) { y = Relu(x) }", "batches of no sample"),
    ],
)
def test_what_gives_no_row_for_each_sample_is_no_classifier(text: str, message: str) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    with pytest.raises(ModelFileError, match=message):
        run_batch(open_session(model), np.ones((3, 4), np.float32))
