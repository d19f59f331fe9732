from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.export.agreement import agreement
from edgekit.runtime.errors import DataError, ModelFileError

GRAPH = "g (float[N, 3] x) => (float[N, 3] y) { y = Gemm(x, w) }"


@pytest.fixture
def identity(text_graph: Callable[..., ir.Model]) -> ir.Model:
    return text_graph(GRAPH, w=np.eye(3, dtype=np.float32))


FEEDS = [{"x": np.array(rows, np.float32)} for rows in ([[4, 1, 0], [0, 5, 1]], [[1, 0, 3]])]


def test_figures_are_those_computed_by_hand(
    identity: ir.Model, text_graph: Callable[..., ir.Model]
) -> None:
    weight = np.eye(3, dtype=np.float32)
    weight[0, 1] = 2  # the second output of the first sample becomes 9, of the third 2
    other = text_graph(GRAPH, w=weight)
    found = agreement(identity, other, FEEDS)
    assert found.samples == 3
    assert found.held_out
    assert found.top1 == pytest.approx(2 / 3)
    signal, noise = 17 + 26 + 10, 8**2 + 2**2
    assert found.snr_db == pytest.approx(10 * np.log10(signal / noise))


def test_a_model_agrees_with_itself(identity: ir.Model) -> None:
    found = agreement(identity, identity, FEEDS, held_out=False)
    assert (found.top1, found.snr_db, found.held_out) == (1.0, None, False)
    assert "no difference, on 3 calibration images" in str(found)


def test_what_cannot_be_compared_is_refused(
    identity: ir.Model, text_graph: Callable[..., ir.Model]
) -> None:
    with pytest.raises(DataError, match="no sample"):
        agreement(identity, identity, [])
    broken = text_graph(GRAPH.replace("Gemm(x, w)", "Div(x, w)"), w=np.zeros(3, np.float32))
    with pytest.raises(ModelFileError, match="not finite"):
        agreement(identity, broken, FEEDS)
    with pytest.raises(ModelFileError, match="cannot be run"):
        agreement(identity, identity, [{"x": np.zeros((2, 5), np.float32)}])


def test_outputs_that_are_not_one_row_a_sample_are_refused(
    identity: ir.Model, text_graph: Callable[..., ir.Model]
) -> None:
    graph = "g (float[N, 3] x) => (float[1, 1] y) { y = ReduceSum<keepdims = 1>(x) }"
    one_row, scalar = text_graph(graph), text_graph(graph)
    scalar.graph.node(0).attributes["keepdims"] = ir.AttrInt64("keepdims", 0)
    scalar.graph.outputs[0].shape = ir.Shape([])
    for model in (one_row, scalar):
        with pytest.raises(ModelFileError, match="one row a sample"):
            agreement(model, identity, FEEDS)
