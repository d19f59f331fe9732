"""Random networks: EDGEKIT_RANDOM_GRAPHS says how many (the slow run takes 2000)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from numpy.typing import NDArray

from edgekit.export.graph import to_proto
from edgekit.export.liveness import channelwise, joins, mixers
from edgekit.export.liveness.state import Liveness
from edgekit.export.passes.strip_zero_channels import StripZeroChannels
from edgekit.export.verify import largest_difference, random_inputs, run_outputs

TOLERANCE = 2e-5
EXAMPLES = int(os.environ.get("EDGEKIT_RANDOM_GRAPHS", "60"))
SIDE = 6

Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(frozen=True)
class Map:
    name: str
    channels: int
    side: int


@dataclass
class Network:
    """A network that grows by random operators on random values."""

    draw: Draw
    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    maps: list[Map] = field(default_factory=list)

    def pick(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def any_map(self) -> Map:
        """The last value, mostly; sometimes an old one, which then has several readers."""
        return self.maps[-1] if self.pick(0, 0, 0, 1) == 0 else self.pick(*self.maps)

    def constant(self, array: NDArray[Any]) -> str:
        name = f"k{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(array, name))
        return name

    def floats(self, *shape: int, low: float | None = None) -> NDArray[np.float32]:
        array = self.random.standard_normal(shape).astype(np.float32)
        return array if low is None else np.abs(array) + np.float32(low)

    def with_zeros(self, array: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
        """Zero whole slices along an axis: none, some or all."""
        share = self.pick(0, 0.3, 0.3, 0.6, 1)
        dead = self.random.random(array.shape[axis]) < share
        np.moveaxis(array, axis, 0)[dead] = 0
        return array

    def add(self, op: str, inputs: Sequence[str], channels: int, side: int, **settings: Any) -> Map:
        made = Map(f"v{len(self.nodes)}", channels, side)
        self.nodes.append(onnx.helper.make_node(op, inputs, [made.name], **settings))
        self.maps.append(made)
        return made

    def conv(self) -> None:
        x = self.any_map()
        kernel = self.pick(1, 3) if x.side >= 3 else 1
        pad = self.pick(0, 1, 1) if kernel == 3 else 0
        groups = self.pick(1, 1, *(g for g in (2, x.channels) if x.channels % g == 0))
        outs = groups * self.pick(1, 2, 3)
        weight = self.floats(outs, x.channels // groups, kernel, kernel)
        weight /= np.sqrt(weight[0].size)
        inputs = [x.name, self.constant(self.with_zeros(self.with_zeros(weight, 0), 1))]
        if self.pick(0, 1):
            inputs.append(self.constant(self.with_zeros(self.floats(outs), 0)))
        side = x.side + 2 * pad + 1 - kernel
        self.add("Conv", inputs, outs, side, group=groups, pads=[pad] * 4)

    def batch_norm(self) -> None:
        x = self.any_map()
        c = x.channels
        scale = self.with_zeros(self.floats(c), 0)
        arrays = (
            scale,
            self.with_zeros(self.floats(c), 0),
            self.floats(c),
            self.floats(c, low=0.1),
        )
        inputs = [x.name, *map(self.constant, arrays)]
        self.add("BatchNormalization", inputs, c, x.side)

    def activate(self) -> None:
        x = self.any_map()
        self.add(self.pick("Relu", "Sigmoid", "HardSwish", "Tanh"), [x.name], x.channels, x.side)

    def pool(self) -> None:
        x = self.any_map()
        settings: dict[str, Any] = {"kernel_shape": [2, 2], "pads": self.pick([0] * 4, [1] * 4)}
        op = self.pick("MaxPool", "AveragePool")
        if op == "AveragePool":
            settings["count_include_pad"] = self.pick(0, 1)
        if x.side >= 2:
            self.add(op, [x.name], x.channels, x.side - 1 + 2 * settings["pads"][0], **settings)

    def pad(self) -> None:
        x = self.any_map()
        if x.side > 8:
            return
        pads = self.constant(np.array([0, 0, 1, 0, 0, 0, 0, 1], np.int64))
        fill = self.constant(np.float32(self.pick(0, 0.5)))
        self.add("Pad", [x.name, pads, fill], x.channels, x.side + 1)

    def combine(self) -> None:
        x = self.any_map()
        same = [m for m in self.maps if (m.channels, m.side) == (x.channels, x.side)]
        op = self.pick("Add", "Add", "Sub", "Mul", "Max")
        self.add(op, [x.name, self.pick(*same).name], x.channels, x.side)

    def combine_constant(self) -> None:
        x = self.any_map()
        array = self.with_zeros(self.floats(x.channels, 1, 1), 0)
        op = self.pick("Add", "Mul", "Max", "Min")
        self.add(op, [x.name, self.constant(array)], x.channels, x.side)

    def concat(self) -> None:
        x = self.any_map()
        same = [m for m in self.maps if m.side == x.side]
        parts = [x, *(self.pick(*same) for _ in range(self.pick(1, 2)))]
        channels = sum(part.channels for part in parts)
        if channels <= 24:
            self.add("Concat", [part.name for part in parts], channels, x.side, axis=1)

    def split(self) -> None:
        x = self.any_map()
        if x.channels < 2:
            return
        first = self.pick(1, x.channels // 2)
        sizes = self.constant(np.array([first, x.channels - first], np.int64))
        made = [
            Map(f"v{len(self.nodes)}_{i}", c, x.side)
            for i, c in enumerate((first, x.channels - first))
        ]
        names = [each.name for each in made]
        self.nodes.append(onnx.helper.make_node("Split", [x.name, sizes], names, axis=1))
        self.maps += made

    def slice(self) -> None:
        x = self.any_map()
        start = self.pick(0, x.channels // 2)
        bounds = [np.array([bound], np.int64) for bound in (start, x.channels, 1)]
        self.add("Slice", [x.name, *map(self.constant, bounds)], x.channels - start, x.side)

    def excite(self) -> None:
        """Squeeze and excitation."""
        x = self.any_map()
        pooled = self.add("GlobalAveragePool", [x.name], x.channels, 1)
        weight = self.with_zeros(self.floats(x.channels, x.channels, 1, 1), self.pick(0, 1))
        bias = self.with_zeros(self.floats(x.channels), 0)
        inputs = [pooled.name, self.constant(weight), self.constant(bias)]
        gate = self.add(
            "HardSigmoid", [self.add("Conv", inputs, x.channels, 1).name], x.channels, 1
        )
        self.add("Mul", [x.name, gate.name], x.channels, x.side)

    def classify(self) -> onnx.ModelProto:
        x = self.maps[-1]
        flat = f"v{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node("Flatten", [x.name], [flat]))
        weight = self.with_zeros(self.floats(x.channels * x.side**2, 3), 0)
        inputs = [flat, self.constant(weight), self.constant(self.floats(3))]
        self.nodes.append(onnx.helper.make_node("Gemm", inputs, ["y"]))
        outputs = {"y": ["N", 3]}
        if self.pick(0, 0, 0, 1):
            extra = self.any_map()
            outputs[extra.name] = ["N", extra.channels, extra.side, extra.side]
        infos = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in outputs.items()
            if name != "x"
        ]
        start = onnx.helper.make_tensor_value_info(
            "x", onnx.TensorProto.FLOAT, ["N", 4, SIDE, SIDE]
        )
        graph = onnx.helper.make_graph(self.nodes, "g", [start], infos, self.constants)
        return onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
        )


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    network = Network(draw, np.random.default_rng(draw(st.integers(0, 1000))))
    network.maps.append(Map("x", 4, SIDE))
    steps: list[Callable[[], None]] = [
        network.conv, network.conv, network.conv, network.batch_norm, network.activate,
        network.pool, network.pad, network.combine, network.combine_constant, network.concat,
        network.concat, network.split, network.slice, network.excite,
    ]  # fmt: skip
    for _ in range(draw(st.integers(3, 14))):
        draw(st.sampled_from(steps))()
    proto = network.classify()
    onnx.checker.check_model(proto, full_check=True)
    return proto


def error_of(proto: onnx.ModelProto) -> float:
    """The error of a strip, which must leave a valid model that a second strip leaves alone."""
    model = ir.from_proto(proto)
    inputs = random_inputs(model)
    before = run_outputs(model, inputs)
    StripZeroChannels()(model)
    onnx.checker.check_model(to_proto(model), full_check=True)
    again = to_proto(model).SerializeToString(deterministic=True)
    assert not StripZeroChannels()(model).modified
    assert to_proto(model).SerializeToString(deterministic=True) == again
    return largest_difference(before, run_outputs(model, inputs))


def has_meaning(proto: onnx.ModelProto) -> bool:
    """Whether the outputs are of the size of what is added up in them: no products that explode."""
    model = ir.from_proto(proto)
    outputs = run_outputs(model, random_inputs(model)).values()
    return all(1e-3 < np.abs(output).max() < 1e3 for output in outputs if output.size)


THOROUGH = settings(
    max_examples=EXAMPLES, deadline=None, derandomize="EDGEKIT_RANDOM_GRAPHS" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip


@THOROUGH
@given(proto=networks().filter(has_meaning))
def test_random_networks_compute_the_same(proto: onnx.ModelProto) -> None:
    assert error_of(proto) <= TOLERANCE


@THOROUGH
@given(proto=networks().filter(has_meaning))
def test_random_networks_compute_the_same_where_copies_cost_nothing(
    proto: onnx.ModelProto,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joins, "MACS_PER_COPY", 0)
        patch.setattr(joins, "MACS_PER_NODE", -1)
        assert error_of(proto) <= TOLERANCE


def fold_beside_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixers, "is_padded", lambda *_: False)
    monkeypatch.setattr(channelwise, "is_padded", lambda *_: False)


def forget_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixers.Mixer, "_sums", lambda self, *_: np.zeros((self.groups, self.outs)))


def see_one_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    def need(self: Liveness, value: ir.Value | None, why: Any) -> None:
        channels = self.of(value)
        if channels is not None:
            channels.needs[:] = why

    monkeypatch.setattr(Liveness, "need", need)


def ignore_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Liveness, "join", lambda *_: None)


def is_wrong(proto: onnx.ModelProto) -> bool:
    try:
        return has_meaning(proto) and not error_of(proto) <= 100 * TOLERANCE
    except Exception:  # a graph that does not load, or cannot be rewritten, is wrong as well
        return True


@pytest.mark.parametrize(
    "naive", [fold_beside_padding, forget_constants, see_one_reader, ignore_joins]
)
def test_a_naive_strip_fails_on_the_same_networks(
    monkeypatch: pytest.MonkeyPatch, naive: Callable[[pytest.MonkeyPatch], None]
) -> None:
    naive(monkeypatch)
    search = settings(
        max_examples=1500, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    try:
        find(networks(), is_wrong, settings=search)
    except NoSuchExample:
        pytest.fail("1500 random networks did not tell the naive strip from the right one")
