"""Random graphs around one batch norm, or two: every policy computes what was computed before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit.export.optimize import optimize
from edgekit.export.passes import turn_batch_norm_into_threshold as module
from edgekit.export.passes.batch_norm_forms import Thresholds, thresholds
from edgekit.export.verify import largest_difference, random_inputs, run_outputs

PASSES = (
    "fold-batch-norm-into-next",
    "fold-batch-norm-through-concat",
    "fold-batch-norm-through-pool",
    "turn-batch-norm-into-threshold",
)
READERS = ("1x1", "3x3", "padded", "grouped", "average", "counted", "max", "gemm", "twice")


@dataclass
class Builder:
    """A graph under construction, a line an operator."""

    rng: np.random.Generator
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op_type, inputs, [name], name, **attributes))
        return name

    def constant(self, array: NDArray[Any]) -> str:
        name = f"c{len(self.arrays)}"
        kind = np.int64 if array.dtype.kind == "i" else np.float32
        self.arrays[name] = array.astype(kind)
        return name

    def conv(self, value: str, made: int, read: int, size: int, **attributes: Any) -> str:
        weight = self.rng.standard_normal((made, read, size, size)) / (size * np.sqrt(read))
        inputs = [value, self.constant(weight)]
        if self.rng.random() < 0.5:
            inputs.append(self.constant(self.rng.standard_normal(made)))
        return self.add("Conv", *inputs, **attributes)

    def batch_norm(self, value: str, scale: NDArray[Any], least_variance: float) -> str:
        shift, mean = self.rng.standard_normal((2, len(scale)))
        variance = 10 ** self.rng.uniform(least_variance, 1, len(scale))
        stored = [self.constant(array) for array in (scale, shift, mean, variance)]
        return self.add("BatchNormalization", value, *stored)

    def read(self, value: str, kind: str, channels: int) -> None:
        """Add one reader of a value, or a small chain, and make its result an output."""
        pool = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        if kind == "gemm":
            flat = self.add("Flatten", self.add("GlobalAveragePool", value))
            weight = self.constant(self.rng.standard_normal((channels, 5)))
            self.outputs.append(self.add("Gemm", flat, weight, alpha=0.5))
            return
        if kind in ("average", "counted"):
            value = self.add("AveragePool", value, count_include_pad=int(kind == "counted"), **pool)
        if kind == "max":
            value = self.add("MaxPool", value, **pool)
        if kind == "twice":
            value = self.conv(value, channels, channels, 1)
            self.outputs.append(self.conv(value, 3, channels, 3, pads=[1, 1, 1, 1]))
            self.outputs.append(self.conv(value, 3, channels, 1))
        elif kind == "grouped":
            self.outputs.append(self.conv(value, channels, channels // 2, 3, group=2))
        else:
            size = 3 if kind in ("3x3", "padded") else 1
            pads = [1, 1, 1, 1] if kind == "padded" else [0, 0, 0, 0]
            self.outputs.append(self.conv(value, 3, channels, size, pads=pads))

    def model(self) -> ir.Model:
        def value(name: str, shape: list[Any] | None) -> onnx.ValueInfoProto:
            return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

        graph = onnx.helper.make_graph(
            self.nodes,
            "random",
            [value("x", ["N", 3, 6, 6])],
            [value(name, None) for name in self.outputs],
            [onnx.numpy_helper.from_array(array, name) for name, array in self.arrays.items()],
        )
        imports = [onnx.helper.make_opsetid("", self.opset)]
        proto = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)
        proto = onnx.shape_inference.infer_shapes(proto)
        onnx.checker.check_model(proto)
        return ir.from_proto(proto)


@st.composite
def models(draw: st.DrawFn) -> ir.Model:
    """Two convolutions, perhaps Concat, a normalization, an activation, one to three readers."""
    graph = Builder(
        np.random.default_rng(draw(st.integers(0, 1 << 16))), draw(st.sampled_from([13, 17, 20]))
    )
    first, second = draw(st.sampled_from([(2, 4), (4, 4), (8, 8)]))
    channels = first + second
    parts = (graph.conv("x", first, 3, 3, pads=[1, 1, 1, 1]), graph.conv("x", second, 3, 1))
    value = graph.add("Concat", *parts, axis=1)
    if draw(st.integers(0, 3)):  # read by others too, as in a dense block
        graph.outputs.append(graph.add("Abs", value))
    signs = draw(st.sampled_from([(1,), (-1,), (-1, 1), (-1, 0, 1), (0, 1)]))
    scale = graph.rng.uniform(0.3, 2, channels) * graph.rng.choice(signs, channels)
    value = graph.batch_norm(value, scale, draw(st.sampled_from([-6, -1])))
    activation = draw(st.sampled_from(["Relu", "Clip", ""]))
    if activation == "Clip":
        limits = [graph.constant(np.array(float(limit))) for limit in (0, 6)]
        value = graph.add("Clip", value, *limits)
    elif activation:
        value = graph.add(activation, value)
    for kind in draw(st.lists(st.sampled_from(READERS), min_size=1, max_size=3)):
        graph.read(value, kind, channels)
    return graph.model()


def largest_error(model: ir.Model, policy: module.Policy) -> float:
    inputs = random_inputs(model)
    before = run_outputs(model, inputs)
    report = optimize(model, PASSES, batch_norm=policy, verify=False)
    left = {node.op_type for node in model.graph}
    assert policy != "threshold" or "BatchNormalization" not in left
    again = optimize(model, PASSES, batch_norm=policy, verify=False)
    assert not any(step.changed for step in again.steps)
    assert report.batch_norm == policy
    return largest_difference(before, run_outputs(model, inputs))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(models(), st.sampled_from(["auto", "threshold"]))
def test_random_graphs_compute_the_same(model: ir.Model, policy: module.Policy) -> None:
    assert largest_error(model, policy) <= 2e-5


@pytest.mark.slow
@settings(max_examples=500, deadline=None, derandomize=True)
@given(models(), st.sampled_from(["auto", "threshold"]))
def test_many_random_graphs_compute_the_same(model: ir.Model, policy: module.Policy) -> None:
    assert largest_error(model, policy) <= 1e-4


def test_the_random_graphs_catch_a_wrong_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(factor: Any, shift: Any, limits: Any, dtype: ir.DataType) -> Thresholds:
        return thresholds(np.abs(factor), shift, limits, dtype)

    monkeypatch.setattr(module, "thresholds", wrong)

    @settings(max_examples=100, deadline=None, derandomize=True, database=None)
    @given(models())
    def search(model: ir.Model) -> None:
        assume("BatchNormalization" in {node.op_type for node in model.graph})
        assert largest_error(model, "threshold") <= 1e-4

    with pytest.raises(AssertionError):
        search()
