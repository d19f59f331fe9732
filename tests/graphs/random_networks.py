"""Random convolutional networks, small enough to run by the thousand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from growing_network import GrowingNetwork, Map
from hypothesis import strategies as st

from edgekit.export.opset import max_opset

_MOST_CHANNELS = 24
_MOST_SIDE = 9


class Network(GrowingNetwork):
    """A network that grows by random operators on random values."""

    def conv(self) -> None:
        x = self.any_map()
        kernel, stride, dilation = self.pick((1, 1, 1), (1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 1, 1),
                                             (3, 2, 1), (3, 1, 2))  # fmt: skip
        pad = self.pick(0, 1, 1, 2) if kernel == 3 else 0
        side = (x.side + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        if side < 1:
            return
        groups = self.pick(1, 1, *(g for g in (2, x.channels) if x.channels % g == 0))
        outs = groups * self.pick(1, 2, 3)
        weight = self.floats(outs, x.channels // groups, kernel, kernel)
        weight /= np.sqrt(weight[0].size)
        inputs = [x.name, self.shared(self.with_zeros(self.with_zeros(weight, 0), 1))]
        if self.pick(0, 1):
            inputs.append(self.shared(self.with_zeros(self.floats(outs), 0)))
        self.add("Conv", inputs, outs, side, group=groups, pads=[pad] * 4, strides=[stride] * 2,
                 dilations=[dilation] * 2)  # fmt: skip

    def conv_with_shared_weight(self) -> None:
        """A convolution again, on this map or another one, and a normalization of its own."""
        made = {m.name: m for m in self.maps}
        convs = [node for node in self.nodes if node.op_type == "Conv"]
        if not convs:
            return
        old = self.pick(*convs)
        read, wrote = made[old.input[0]], made[old.output[0]]
        x = self.pick(*(m for m in self.maps if (m.channels, m.side) == (read.channels, read.side)))
        node = onnx.NodeProto()
        node.CopyFrom(old)
        node.input[0], node.name, node.output[0] = x.name, *[f"v{len(self.nodes)}"] * 2
        self.nodes.append(node)
        self.maps.append(Map(node.name, wrote.channels, wrote.side))
        if self.pick(0, 1):
            self.batch_norm()

    def conv_transpose(self) -> None:
        x = self.any_map()
        kernel, stride = self.pick((1, 1), (2, 1), (2, 2))
        side = (x.side - 1) * stride + kernel
        groups = self.pick(1, *(g for g in (2,) if x.channels % g == 0))
        outs = groups * self.pick(1, 2)
        if side > _MOST_SIDE:
            return
        weight = self.floats(x.channels, outs // groups, kernel, kernel) / np.sqrt(x.channels)
        inputs = [x.name, self.shared(self.with_zeros(weight.astype(np.float32), 1))]
        if self.pick(0, 1):
            inputs.append(self.shared(self.floats(outs)))
        self.add("ConvTranspose", inputs, outs, side, group=groups, strides=[stride] * 2)

    def batch_norm(self, x: Map | None = None) -> None:
        x = x or self.any_map()
        c = x.channels
        variance = 10 ** self.random.uniform(self.least_variance, 1, c)
        scale = self.with_zeros(self.floats(c), 0)
        arrays = (scale, self.with_zeros(self.floats(c), 0), self.floats(c))
        inputs = [x.name, *map(self.shared, arrays), self.constant(variance.astype(np.float32))]
        self.add("BatchNormalization", inputs, c, x.side, epsilon=self.pick(1e-5, 1e-3))

    def conv_batch_norm(self) -> None:
        before = self.maps[-1]
        self.conv()
        if self.maps[-1] is not before:
            self.batch_norm()

    def pool_batch_norm(self) -> None:
        """A convolution, a pool and a normalization that alone read each other."""
        x = self.any_map()
        channels, op = self.pick(1, 2), self.pick("GlobalMaxPool", "GlobalAveragePool")
        weight = self.floats(channels, x.channels, 1, 1) / np.float32(np.sqrt(x.channels))
        made = self.add("Conv", [x.name, self.shared(weight)], channels, x.side)
        self.batch_norm(self.add(op, [made.name], channels, 1))

    def concat_batch_norm(self) -> None:
        """Branches that only a normalization reads."""
        x, parts = self.any_map(), []
        for _ in range(2):
            channels = self.pick(1, 2, 4)
            weight = self.floats(channels, x.channels, 1, 1) / np.float32(np.sqrt(x.channels))
            parts.append(self.add("Conv", [x.name, self.shared(weight)], channels, x.side))
        total = sum(part.channels for part in parts)
        self.add("Concat", [part.name for part in parts], total, x.side, axis=1)
        self.batch_norm(self.maps[-1])

    def pre_activation(self) -> None:
        self.batch_norm()
        self.activate()
        self.conv()

    def activate(self) -> None:
        x = self.any_map()
        choices = ["Relu", "Relu", "Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu"]
        op = self.pick(*choices, *["HardSwish"][self.opset < 14 :])
        limits = [self.constant(np.array(limit, np.float32)) for limit in (0, 6) if op == "Clip"]
        self.add(op, [x.name, *limits], x.channels, x.side)

    def pool(self) -> None:
        x = self.any_map()
        pad, stride = self.pick((0, 1), (1, 1), (0, 2))
        settings: dict[str, Any] = {
            "kernel_shape": [2, 2], "pads": [pad] * 4, "strides": [stride] * 2
        }  # fmt: skip
        op = self.pick("MaxPool", "AveragePool")
        if op == "AveragePool":
            settings["count_include_pad"] = self.pick(0, 1)
        if 2 <= x.side < _MOST_SIDE:
            self.add(op, [x.name], x.channels, (x.side + 2 * pad - 2) // stride + 1, **settings)

    def pad(self) -> None:
        x = self.any_map()
        if x.side >= _MOST_SIDE:
            return
        pads = self.constant(np.array([0, 0, 1, 0, 0, 0, 0, 1], np.int64))
        fill = self.constant(np.array(self.pick(0, 0.5), np.float32))
        self.add("Pad", [x.name, pads, fill], x.channels, x.side + 1)

    def combine(self) -> None:
        x = self.any_map()
        same = [m for m in self.maps if (m.channels, m.side) == (x.channels, x.side)]
        op = self.pick("Add", "Add", "Add", "Mul", "Max")
        self.add(op, [x.name, self.pick(*same).name], x.channels, x.side)

    def combine_constant(self, x: Map | None = None, *ops: str) -> None:
        x = x or self.any_map()
        shape = self.pick((x.channels, 1, 1), (1, x.channels, 1, 1), (1,))
        name = self.shared(self.with_zeros(self.floats(*shape), len(shape) - 3 if shape[1:] else 0))
        op = self.pick(*ops or ("Add", "Mul", "Max", "Min"))
        pair = [x.name, name]
        self.add(op, pair if self.pick(1, 1, 0) else pair[::-1], x.channels, x.side)

    def conv_constants(self) -> None:
        """Stored numbers behind a convolution, dead or alive, and what it read beside the result.

        Here lie what a rewrite of several nodes knows no more once it has changed the first.
        """
        x = self.any_map()
        weight = self.floats(x.channels, x.channels, 1, 1) / np.float32(np.sqrt(x.channels))
        inputs = [x.name, self.constant(weight * np.float32(self.pick(0, 1, 1)))]
        if self.pick(0, 1):
            inputs.append(self.constant(self.floats(x.channels)))
        self.add("Conv", inputs, x.channels, x.side)
        for _ in range(self.pick(1, 2, 3)):
            self.combine_constant(self.maps[-1], "Add", "Add", "Add", "Mul")
        op, last = self.pick("Add", "Mul", "Max"), self.maps[-1].name
        self.add(op, self.pick([last, x.name], [x.name, last]), x.channels, x.side)

    def computed_constant(self) -> None:
        x = self.any_map()
        parts = [self.shared(self.floats(x.channels, 1, 1)) for _ in range(2)]
        self.nodes.append(onnx.helper.make_node("Mul", parts, [f"v{len(self.nodes)}"]))
        self.add("Add", [x.name, self.nodes[-1].output[0]], x.channels, x.side)

    def concat(self) -> None:
        x = self.any_map()
        same = [m for m in self.maps if m.side == x.side]
        parts = [x, *(self.pick(*same) for _ in range(self.pick(1, 2)))]
        channels = sum(part.channels for part in parts)
        if channels <= _MOST_CHANNELS:
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
        gate = self.add("Conv", inputs, x.channels, 1)
        gate = self.add("HardSigmoid", [gate.name], x.channels, 1)
        self.add("Mul", [x.name, gate.name], x.channels, x.side)

    def do_nothing(self) -> None:
        x = self.any_map()
        op = self.pick("Identity", "Dropout", "Cast", "Transpose")
        settings = {"Cast": {"to": 1}, "Transpose": {"perm": [0, 1, 2, 3]}}.get(op, {})
        self.add(op, [x.name], x.channels, x.side, **settings)

    def repeat(self) -> None:
        """An operator again, on what it read before."""
        made = {m.name: m for m in self.maps}
        single = (node for node in self.nodes if len(node.output) == 1)
        old = [node for node in single if node.output[0] in made]
        if not old:
            return
        node = onnx.NodeProto()
        node.CopyFrom(self.pick(*old))
        first = made[node.output[0]]
        node.name = node.output[0] = f"v{len(self.nodes)}"
        self.nodes.append(node)
        self.maps.append(Map(node.name, first.channels, first.side))


@st.composite
def networks(draw: st.DrawFn, longest: int = 14) -> onnx.ModelProto:
    """A network of up to so many steps, at any opset from 13 on, with pruned weights."""
    network = Network(
        draw,
        np.random.default_rng(draw(st.integers(0, 1 << 16))),
        opset=draw(st.integers(13, max_opset())),
        least_variance=draw(st.sampled_from([-1, -1, -6])),
    )
    steps: list[Callable[[], None]] = [
        network.conv, network.conv, network.conv, network.conv_batch_norm, network.conv_batch_norm,
        network.batch_norm, network.pre_activation, network.activate, network.pool, network.pad,
        network.combine, network.combine_constant, network.concat, network.concat, network.split,
        network.slice, network.excite, network.conv_transpose, network.do_nothing, network.repeat,
        network.computed_constant, network.concat_batch_norm, network.pool_batch_norm,
        network.conv_with_shared_weight, network.conv_constants,
    ]  # fmt: skip
    for _ in range(draw(st.integers(2, longest))):
        draw(st.sampled_from(steps))()
    return network.finish()
