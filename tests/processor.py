"""What tests need of the processor that runs them."""

from __future__ import annotations

import pytest

from edgekit.bench.doctor import overflows_here

needs_exact_int8 = pytest.mark.skipif(
    overflows_here(),
    reason="onnxruntime clips sums of uint8 by int8 on this processor, see edgekit doctor",
)
