from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.runtime.errors import DataError, ModelFileError
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
