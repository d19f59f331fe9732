"""Which elements of a constant are zero, whatever lies between the file and the operator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.bench.count import count
from edgekit.runtime.errors import ModelFileError

Graph = Callable[..., ir.Model]

HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'


@pytest.mark.parametrize(
    ("zero_points", "axis", "fit"),
    [
        (np.ones(8, np.uint8), 0, True),
        (np.ones(5, np.uint8), 0, False),
        (np.ones(8, np.uint8), 7, False),
        (np.ones((2, 3, 4), np.uint8), 0, False),
    ],
)
def test_zero_points_that_do_not_fit_are_refused(
    graph: Graph, zero_points: NDArray[np.uint8], axis: int, fit: bool
) -> None:
    text = f"""
    {HEAD}
    agraph (float[n, 4] x) => (float[n, 8] y)
    <float s = {{0.5}}>
    {{
        w = DequantizeLinear <axis = {axis}> (q, s, z)
        y = Gemm <transB = 1> (x, w)
    }}
    """
    model = graph(text, q=np.arange(32, dtype=np.uint8).reshape(8, 4), z=zero_points)
    if fit:
        assert count(model).nonzero == 31
    else:
        with pytest.raises(ModelFileError, match=r"do not fit a tensor of shape \[8, 4\]"):
            count(model)


@pytest.mark.parametrize(("zero", "nonzero"), [(3, 0), (2, 10**12)])
def test_a_fill_counts_without_its_elements(graph: Graph, zero: int, nonzero: int) -> None:
    """A terabyte that the file fills with one code."""
    text = f"""
    {HEAD}
    agraph (float[1, 1000000] x) => (float[1, 1000000] y)
    <float s = {{0.5}}, uint8 z = {{{zero}}}, int64[2] shape = {{1000000, 1000000}}>
    {{
        q = ConstantOfShape <value = uint8[1] {{3}}> (shape)
        w = DequantizeLinear (q, s, z)
        y = MatMul (x, w)
    }}
    """
    counts = count(graph(text))
    assert (counts.params, counts.nonzero) == (10**12, nonzero)
    assert (counts.macs, counts.effective_macs) == (10**12, nonzero)
