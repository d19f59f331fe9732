"""A network that grows node by node: its values, its stored arrays, how it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray

CHANNELS = 4
SIDE = 6

Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(frozen=True)
class Map:
    """A value [N, channels, side, side]."""

    name: str
    channels: int
    side: int


@dataclass
class GrowingNetwork:
    """What there is of a network so far."""

    draw: Draw
    random: np.random.Generator
    opset: int
    least_variance: int = -1
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    maps: list[Map] = field(default_factory=lambda: [Map("x", CHANNELS, SIDE)])

    def pick(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def any_map(self) -> Map:
        """The last value, mostly; sometimes an old one, which then has several readers."""
        return self.maps[-1] if self.pick(0, 0, 0, 1) == 0 else self.pick(*self.maps)

    def constant(self, array: NDArray[Any]) -> str:
        """A stored array: as an initializer, or now and then as a Constant."""
        name = f"k{len(self.constants) + len(self.nodes)}"
        if self.pick(*[0] * 15, 1):
            tensor = onnx.numpy_helper.from_array(array, name)
            self.nodes.append(onnx.helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.constants[name] = array
        return name

    def shared(self, array: NDArray[Any]) -> str:
        """A stored array, or one in its place that others of its kind read already."""
        same = [
            name
            for name, other in self.constants.items()
            if other.shape == array.shape and other.dtype == array.dtype and (other > 0).all() == 0
        ]
        return self.pick(*same) if same and self.pick(0, 0, 1) else self.constant(array)

    def floats(self, *shape: int) -> NDArray[np.float32]:
        return self.random.standard_normal(shape).astype(np.float32)

    def with_zeros(self, array: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
        """Zero whole slices along an axis: none, some or all."""
        share = self.pick(0, 0, 0, 0.3, 0.3, 0.3, 0.6, 1)
        dead = self.random.random(array.shape[axis]) < share
        np.moveaxis(array, axis, 0)[dead] = 0
        return array

    def add(self, op: str, inputs: Sequence[str], channels: int, side: int, **settings: Any) -> Map:
        made = Map(f"v{len(self.nodes)}", channels, side)
        self.nodes.append(onnx.helper.make_node(op, inputs, [made.name], made.name, **settings))
        self.maps.append(made)
        return made

    def mean_of_map(self, x: Map) -> Map:
        """By the pool for it, or as exporters write it."""
        if self.pick(0, 1):
            return self.add("GlobalAveragePool", [x.name], x.channels, 1)
        axes = self.pick([2, 3], [-1, -2])
        if self.opset < 18:
            return self.add("ReduceMean", [x.name], x.channels, 1, axes=axes)
        stored = self.constant(np.array(axes, np.int64))
        return self.add("ReduceMean", [x.name, stored], x.channels, 1)

    def classify(self) -> dict[str, list[Any]]:
        """End with a matrix product; some of the maps become outputs too."""
        x = self.maps[-1]
        flat = "flat"
        if self.pick(0, 1):
            x = self.mean_of_map(x)
        self.nodes.append(onnx.helper.make_node("Flatten", [x.name], [flat]))
        features = x.channels * x.side**2
        transposed = self.pick(0, 1)
        weight = self.with_zeros(self.floats(*((3, features) if transposed else (features, 3))), 0)
        inputs = [flat, self.constant(weight / np.float32(np.sqrt(features)))]
        if self.pick(0, 1, 1):
            inputs.append(self.constant(self.floats(3)))
        self.nodes.append(onnx.helper.make_node("Gemm", inputs, ["y"], transB=transposed))
        outputs: dict[str, list[Any]] = {"y": ["N", 3]}
        for _ in range(self.pick(0, 0, 0, 1, 2)):
            extra = self.any_map()
            if extra.name != "x":
                outputs[extra.name] = ["N", extra.channels, extra.side, extra.side]
        return outputs

    def callers_inputs(self) -> dict[str, list[Any]]:
        """The initializers that a caller may replace: none, mostly, or some of those of floats."""
        share = self.pick(0, 0, 0, 0.2)
        return {
            name: list(array.shape)
            for name, array in self.constants.items()
            if array.dtype == np.float32 and array.ndim and self.random.random() < share
        }

    def finish(self) -> onnx.ModelProto:
        def values(shapes: dict[str, list[Any]]) -> list[onnx.ValueInfoProto]:
            return [
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
                for name, shape in shapes.items()
            ]

        outputs = self.classify()
        graph = onnx.helper.make_graph(
            self.nodes,
            "random",
            values({"x": ["N", CHANNELS, SIDE, SIDE], **self.callers_inputs()}),
            values(outputs),
            [onnx.numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        imports = [onnx.helper.make_opsetid("", self.opset)]
        proto = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
        if self.pick(0, 1):  # a file may note the shapes between, or leave them out
            proto = onnx.shape_inference.infer_shapes(proto)
        onnx.checker.check_model(proto, full_check=True)
        return proto
