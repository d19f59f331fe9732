from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.export.equalization.rules import find_channels
from edgekit.export.equalize import find_scaling
from edgekit.export.graph import from_proto, to_proto
from edgekit.export.verify import run_outputs

FEED = {"x": np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype(np.float32)}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def uneven(*shape: int) -> np.ndarray:
    """A weight whose outputs reach very differently far."""
    weight = normal(*shape)
    factors = np.geomspace(0.02, 2, shape[0]).astype(np.float32)
    return weight * factors.reshape(-1, *(1,) * (len(shape) - 1))


# Each has a path between two weights; the numbers of scales that may be chosen were worked out by
# hand: one for each channel between them.
FREE: dict[str, tuple[str, dict[str, np.ndarray], int]] = {
    "relu": (
        "a = Conv(x, v, b) r = Relu(a) y = Conv(r, w)",
        {"v": uneven(8, 3, 1, 1), "b": normal(8), "w": normal(5, 8, 1, 1)},
        8,
    ),
    "depthwise": (
        "a = Conv(x, v) r = LeakyRelu(a) d = Conv<group = 8>(r, k, b) s = Relu(d) y = Conv(s, w)",
        {
            "v": uneven(8, 3, 1, 1),
            "k": uneven(8, 1, 3, 3),
            "b": normal(8),
            "w": normal(5, 8, 1, 1),
        },
        16,
    ),
    "pools and Gemm": (
        "a = Conv(x, v) m = MaxPool<kernel_shape = [2, 2]>(a) p = GlobalAveragePool(m) "
        "f = Flatten(p) y = Gemm<transB = 1>(f, w, b)",
        {"v": uneven(8, 3, 1, 1), "w": normal(5, 8), "b": normal(5)},
        8,
    ),
    "Concat with thresholds": (
        "a = Conv(x, v) q = Conv(x, u) c = Concat<axis = 1>(a, q) m = Max(c, t) y = Conv(m, w)",
        {
            "v": uneven(4, 3, 1, 1),
            "u": uneven(6, 3, 1, 1),
            "t": normal(10, 1, 1),
            "w": normal(5, 10, 1, 1),
        },
        10,
    ),
    "residual": (
        "a = Conv(x, v) r = Relu(a) h = Conv(r, u) s = Add(h, r) y = Conv(s, w)",
        {"v": uneven(4, 3, 1, 1), "u": uneven(4, 4, 1, 1), "w": normal(5, 4, 1, 1)},
        4,
    ),
    "batch norm": (
        "a = Conv(x, v) n = BatchNormalization(a, g, b, m, s) r = Relu(n) y = Conv(r, w)",
        {
            "v": uneven(4, 3, 1, 1),
            "g": uneven(4),
            "b": normal(4),
            "m": normal(4),
            "s": np.float32([0.1, 1, 2, 3]),
            "w": normal(5, 4, 1, 1),
        },
        8,
    ),
    "one channel": (
        "a = Conv(x, v) r = Relu(a) c = Conv(r, k) s = Relu(c) y = Conv(s, w)",
        {"v": uneven(8, 3, 1, 1), "k": normal(1, 8, 3, 3), "w": normal(5, 1, 1, 1)},
        9,
    ),
    "a computed slope": (
        "a = Conv(x, v) q = Conv(x, k) r = PRelu(a, q) y = Conv(r, w)",
        {"v": uneven(8, 3, 1, 1), "k": uneven(8, 3, 1, 1), "w": normal(5, 8, 1, 1)},
        8,
    ),
    "groups": (
        "a = Conv(x, v) r = Relu(a) y = Conv<group = 2>(r, w)",
        {"v": uneven(8, 3, 1, 1), "w": normal(4, 4, 1, 1)},
        8,
    ),
}

HELD: dict[str, tuple[str, dict[str, np.ndarray]]] = {
    "a curve": (
        "a = Conv(x, v) s = Sigmoid(a) y = Conv(s, w)",
        {"v": uneven(8, 3, 1, 1), "w": normal(5, 8, 1, 1)},
    ),
    "a clip": (
        "a = Conv(x, v) s = Clip(a, l, h) y = Conv(s, w)",
        {
            "v": uneven(8, 3, 1, 1),
            "l": np.float32(0),
            "h": np.float32(6),
            "w": normal(5, 8, 1, 1),
        },
    ),
    "a shared weight": (
        "a = Conv(x, v) b = Conv(x, v) s = Add(a, b) y = Conv(s, w)",
        {"v": uneven(8, 3, 1, 1), "w": normal(5, 8, 1, 1)},
    ),
    "a product of values": (
        "a = Conv(x, v) s = Mul(a, a) y = Conv(s, w)",
        {"v": uneven(8, 3, 1, 1), "w": normal(5, 8, 1, 1)},
    ),
    "another reader": (
        "a = Conv(x, v) e = Exp(a) p = Conv(a, w) q = Conv(e, u) y = Add(p, q)",
        {"v": uneven(8, 3, 1, 1), "w": normal(5, 8, 1, 1), "u": normal(5, 8, 1, 1)},
    ),
}


def _inferred(model: ir.Model) -> ir.Model:
    return from_proto(onnx.shape_inference.infer_shapes(to_proto(model), strict_mode=True))


def equalized(model: ir.Model) -> ir.Model:
    scaling = find_scaling(model, [FEED])
    assert scaling is not None
    return scaling.apply(model)


def outputs(model: ir.Model) -> np.ndarray:
    return run_outputs(model, FEED)["y"]


@pytest.fixture
def build(text_graph: Any):  # type: ignore[no-untyped-def]
    def make(text: str, arrays: dict[str, Any]) -> ir.Model:
        rank = "[n,5]" if "Gemm" in text else "[n,c,h,w]"
        model = text_graph(f"g (float[n,3,6,6] x) => (float{rank} y) {{ {text} }}", **arrays)
        return _inferred(model)

    return make


@pytest.mark.parametrize("name", FREE)
def test_the_function_stays_and_channels_become_more_even(build: Any, name: str) -> None:
    text, arrays, count = FREE[name]
    model = build(text, arrays)
    before = outputs(model)
    scaling = find_scaling(model, [FEED])
    assert scaling is not None
    assert scaling.count == count
    result = scaling.apply(model)
    after = outputs(result)
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())
    assert not np.array_equal(
        result.graph.initializers["v"].const_value.numpy(),
        arrays["v"],  # type: ignore[union-attr]
    )


def test_one_scale_forgotten_changes_the_function(build: Any) -> None:
    text, arrays, _ = FREE["Concat with thresholds"]
    model = build(text, arrays)
    result = equalized(model)
    limits = result.graph.initializers["t"]
    limits.const_value = ir.tensor(arrays["t"], name="t")
    before = outputs(model)
    assert np.abs(outputs(result) - before).max() > 1e-3 * np.abs(before).max()


@pytest.mark.parametrize("name", HELD)
def test_what_cannot_pass_a_scale_on_is_left_alone(build: Any, name: str) -> None:
    model = build(*HELD[name])
    assert find_scaling(model, [FEED]) is None


def test_a_graph_output_keeps_its_scale(text_graph: Any) -> None:
    model = _inferred(
        text_graph(
            "g (float[n,3,6,6] x) => (float[n,5,6,6] y, float[n,8,6,6] a)"
            "{ a = Conv(x, v) y = Conv(a, w) }",
            v=uneven(8, 3, 1, 1),
            w=normal(5, 8, 1, 1),
        )
    )
    assert not find_channels(model).scaled()


def test_channels_of_one_tensor_come_to_reach_alike(build: Any) -> None:
    text, arrays, _ = FREE["depthwise"]
    result = equalized(build(text, arrays))

    def spread(model: ir.Model) -> float:
        name = next(n.outputs[0] for n in model.graph if n.op_type == "LeakyRelu")
        model.graph.outputs.append(name)
        extents = np.abs(run_outputs(model, FEED)[str(name.name)]).max((0, 2, 3))
        return float(extents.max() / extents.min())

    assert spread(result) < 8 < 40 < spread(build(text, arrays))


def test_a_filter_of_zeros_keeps_no_scale_from_being_found(build: Any) -> None:
    last = normal(5, 8, 1, 1)
    last[2] = 0
    model = build("a = Conv(x, v) y = Conv(a, w)", {"v": uneven(8, 3, 1, 1), "w": last})
    scaling = find_scaling(model, [FEED])
    assert scaling is not None
    assert np.isfinite(scaling.scales).all()
    assert scaling.scales.max() > 4 * scaling.scales.min()
