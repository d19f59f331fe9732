from __future__ import annotations

import sys

import numpy as np
import pytest

from edgekit.bench.memory import own_peak_rss_bytes, own_rss_bytes

MB = 1_000_000

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such figure")


def test_own_peak_is_in_bytes_and_stays() -> None:
    before = own_peak_rss_bytes()
    block = np.ones(before // 8 + 8 * MB)  # as large as all memory so far
    held, size = own_rss_bytes(), block.nbytes
    assert own_peak_rss_bytes() >= held > size
    del block
    assert own_rss_bytes() < held - size // 2
    assert own_peak_rss_bytes() > size
