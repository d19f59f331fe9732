from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx_ir.passes.common import ShapeInferencePass

from edgekit.export.calibration import CalibrationReader
from edgekit.export.calibrators import CALIBRATORS, calibrator, observe
from edgekit.export.calibrators.observe import Observations
from edgekit.export.graph import from_proto, session_source, to_proto
from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.session import open_session

OPERATORS = ("Conv", "Relu", "Clip", "Concat", "MaxPool", "Flatten", "Gemm", "Add", "Transpose")
GRAPH = """g (float[batch, 2, 8, 8] x) => (float[batch, 3] y) {
    a = Conv(x, w)
    r = Relu(a)
    b = Conv<pads = [1, 1, 1, 1]>(r, v)
    n = Neg(b)
    k = Clip(n, zero, six)
    j = Concat<axis = 1>(r, k, b)
    t = Transpose<perm = [0, 2, 3, 1]>(j)
    s = Add(j, one)
    p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(s)
    f = Flatten(p)
    y = Gemm(f, m)
}"""


@pytest.fixture
def model(text_graph: Callable[..., ir.Model]) -> ir.Model:
    generator = np.random.default_rng(0)
    return text_graph(
        GRAPH,
        w=generator.standard_normal((4, 2, 3, 3), np.float32),
        v=generator.standard_normal((4, 4, 3, 3), np.float32) / 3,
        m=generator.standard_normal((108, 3), np.float32),
        zero=np.float32(0),
        six=np.float32(6),
        one=np.float32(1),
    )


def feeds(count: int = 5, size: int = 7, seed: int = 0) -> list[dict[str, NDArray[np.float32]]]:
    generator = np.random.default_rng(seed)
    return [{"x": generator.standard_normal((size, 2, 8, 8), np.float32)} for _ in range(count)]


def everything(model: ir.Model, data: list[dict[str, Any]]) -> Mapping[str, NDArray[np.float32]]:
    """Every value of every tensor, kept."""
    probe = from_proto(to_proto(model))
    probe.graph.outputs[:] = [value for node in probe.graph for value in node.outputs]
    with session_source(probe) as source:
        session = open_session(source, optimize=False)
    names = [output.name for output in session.get_outputs()]
    runs = [session.run(None, feed) for feed in data]
    found = {name: np.concatenate(parts) for name, *parts in zip(names, *runs, strict=True)}
    return {**found, "x": np.concatenate([feed["x"] for feed in data])}


def seen(model: ir.Model, data: list[dict[str, Any]]) -> Observations:
    reader = CalibrationReader.from_feeds(data)
    return observe.observe(model, reader, OPERATORS, histograms=True)


@pytest.mark.parametrize("budget", [1, 100_000, 1 << 24])
def test_every_tensor_is_as_if_all_values_had_been_kept(
    model: ir.Model, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe, "ACTIVATION_BYTES", budget)
    data = feeds()
    kept = everything(model, data)
    found = seen(model, data).tensors
    assert set(found) == set(kept) - {"one"}
    for name, tensor in found.items():
        values = kept["s"] if name in ("p", "f") else kept[name]  # a max pool has its input's range
        assert (tensor.low, tensor.high) == (values.min(), values.max()), name
        assert tensor.histogram is not None
        assert tensor.histogram.counts.sum() == values.size
        counted = np.repeat(tensor.histogram.centers, tensor.histogram.counts)
        apart = np.abs(counted - np.sort(values, axis=None)).max() / tensor.histogram.step
        assert apart <= 1.01, name
        others = everything(model, feeds(seed=1))[name]
        assert others.max() != tensor.high or name == "k"


def test_what_others_hold_is_not_computed_again(model: ir.Model) -> None:
    work = from_proto(to_proto(model))
    ShapeInferencePass()(work)
    plan = observe._plan(work, OPERATORS)
    assert set(plan.counted) == {"x", "a", "b", "n", "s", "y"}
    assert list(plan.derived) == ["r", "k", "j", "t", "p", "f"]


def test_averages_are_those_of_samples_whatever_the_batches(model: ir.Model) -> None:
    (whole,) = feeds(1, 30)
    parts = [{"x": whole["x"][start : start + 4]} for start in range(0, 30, 4)]
    one, other = seen(model, [whole]).tensors, seen(model, parts).tensors
    for name, tensor in one.items():
        assert tensor.average_low == pytest.approx(other[name].average_low, rel=1e-6)
        assert tensor.average_high == pytest.approx(other[name].average_high, rel=1e-6)
    assert one["x"].average_high < one["x"].high


def test_a_tensor_that_is_not_finite_is_named(text_graph: Callable[..., ir.Model]) -> None:
    broken = text_graph(
        "g (float[N, 4] x) => (float[N, 4] y) { l = Log(x) r = Relu(l) y = Gemm(r, w) }",
        w=np.eye(4, dtype=np.float32),
    )
    for method in CALIBRATORS:
        for bad in (0.0, -1.0):  # the logarithm is infinite, or no number
            array = np.full((6, 4), 2, np.float32)
            array[3, 2] = bad
            reader = CalibrationReader.from_feeds([{"x": array}])
            with pytest.raises(ModelFileError, match="'l' is not finite") as caught:
                calibrator(method).ranges(broken, reader, ("Relu", "Gemm"))
            assert "\n" not in str(caught.value)


def test_an_outlier_is_named_with_its_sample(model: ir.Model) -> None:
    data = feeds(20, 10)
    quiet = calibrator("minmax")
    quiet.ranges(model, CalibrationReader.from_feeds(data), OPERATORS)
    assert quiet.warnings == ()
    data[3]["x"][4] *= 50
    loud = calibrator("minmax")
    loud.ranges(model, CalibrationReader.from_feeds(data), OPERATORS)
    (warning,) = loud.warnings
    assert warning.startswith("calibration sample 34 alone stretches the range of '")
    assert "other tensors" in warning


def test_a_fixed_batch_is_run_whole(text_graph: Callable[..., ir.Model]) -> None:
    fixed = text_graph(
        "g (float[4, 3] x) => (float[4, 3] y) { r = Relu(x) y = Gemm(r, w) }",
        w=np.eye(3, dtype=np.float32),
    )
    data = [{"x": np.random.default_rng(i).standard_normal((4, 3), np.float32)} for i in range(3)]
    found = seen(fixed, data).tensors
    assert found["y"].high == max(feed["x"].max() for feed in data)


def test_memory_does_not_grow_with_the_data(model: ir.Model) -> None:
    import tracemalloc

    def peak(count: int) -> int:
        def batches() -> Any:
            generator = np.random.default_rng(0)
            for _ in range(count):
                yield {"x": generator.standard_normal((16, 2, 8, 8), np.float32)}

        reader = CalibrationReader(batches, count, {"data": "noise", "samples": 16 * count})
        tracemalloc.start()
        calibrator("percentile").ranges(model, reader, OPERATORS)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(5), peak(100)
    one_batch = 16 * 2 * 8 * 8 * 4
    assert many - few < 3 * one_batch
