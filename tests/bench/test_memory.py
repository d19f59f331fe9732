from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.bench.memory import own_peak_rss_bytes, peak_rss_bytes
from edgekit.runtime.errors import ModelFileError

MB = 1_000_000

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such figure")


def test_a_bigger_batch_needs_more_memory(tmp_path: Path) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    agraph (float[n, 3, 64, 64] x) => (float[n, 3, 64, 64] y) { y = Relu (x) }
    """
    path = tmp_path / "relu.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    before = np.ones(60 * MB, np.uint8)  # the parent's own memory must not be in the child's
    small, large = (peak_rss_bytes(path, batch_size=size) for size in (1, 1500))
    assert small is not None
    assert large is not None
    sample = 3 * 64 * 64 * 4
    assert large - small > 1.5 * 1500 * sample
    assert 20 * MB < small < 400 * MB
    del before


def test_own_peak_is_in_bytes() -> None:
    before = own_peak_rss_bytes()
    block = np.ones(before // 8 + 8 * MB)  # as large as all memory so far
    assert own_peak_rss_bytes() > block.nbytes


def test_a_model_that_does_not_run_says_why(
    tmp_path: Path, classifier_file: Callable[..., Path]
) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        peak_rss_bytes(tmp_path / "absent.onnx")
    with pytest.raises(ModelFileError, match=r"takes .* the data gives"):
        peak_rss_bytes(classifier_file(), input_shape=(1, 9, 9))
