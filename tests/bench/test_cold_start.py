from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.bench.cold_start import cold_start
from edgekit.runtime.errors import InputError, ModelFileError

MB = 1_000_000

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such figure")


def test_a_bigger_batch_needs_more_memory_and_time(tmp_path: Path) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    agraph (float[n, 3, 64, 64] x) => (float[n, 3, 64, 64] y) { y = Relu (x) }
    """
    path = tmp_path / "relu.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    before = np.ones(60 * MB, np.uint8)  # the parent's own memory must not be in the child's
    small, large = (cold_start(path, processes=1, batch_size=size).median for size in (1, 1500))
    assert small.peak_bytes is not None
    assert large.peak_bytes is not None
    assert large.peak_bytes - small.peak_bytes > 1.5 * 1500 * 3 * 64 * 64 * 4
    assert 20 * MB < small.peak_bytes < 400 * MB
    assert large.first_run_ms > small.first_run_ms
    assert min(small.import_ms, small.load_ms, small.first_run_ms) > 0
    del before


def test_the_model_s_own_memory_can_be_told_from_the_engine_s(
    classifier_file: Callable[..., Path],
) -> None:
    path = classifier_file(filters=200_000)  # 11 MB of weights
    start = cold_start(path, processes=1)
    memory = start.memory_json()
    assert memory["start"] is not None
    assert memory["loaded"] is not None
    assert memory["loaded"] - memory["start"] > 10 * MB
    assert memory["steady"] is not None
    assert start.times_json()["processes"] == 1


def test_figures_are_medians_of_several_processes(classifier_file: Callable[..., Path]) -> None:
    times = cold_start(classifier_file(), processes=3).times_json()
    assert times["processes"] == 3
    assert times["load_and_first_run"] == times["load"] + times["first_run"] > 0


def test_a_model_that_does_not_run_says_why(
    tmp_path: Path, classifier_file: Callable[..., Path]
) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        cold_start(tmp_path / "absent.onnx")
    with pytest.raises(ModelFileError, match=r"takes .* the data gives"):
        cold_start(classifier_file(), input_shape=(1, 9, 9))
    with pytest.raises(InputError, match="at least 1"):
        cold_start(classifier_file(), processes=0)
