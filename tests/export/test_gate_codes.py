"""HardSigmoid as a Clip of codes: HardSwish and squeeze and excitation in integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.export import static
from edgekit.export.executed import executed
from edgekit.export.gate_codes import put_gates_on_codes, reach_gates
from edgekit.export.quantize import quantize
from edgekit.export.static_options import StaticOptions
from edgekit.export.verify import run_outputs

TextGraph = Callable[..., ir.Model]

GATE = """g (float[N] x) => (float[N] y) {
    xq = QuantizeLinear(x, s, z)
    xd = DequantizeLinear(xq, s, z)
    g = HardSigmoid<ATTRIBUTES>(xd)
    gq = QuantizeLinear(g, t, u)
    y = DequantizeLinear(gq, t, u)
}"""


def gate(
    text_graph: TextGraph,
    *,
    attributes: str = "alpha = 0.16666667",
    scale: float = 0.05,
    zero: int = 100,
    kind: type[np.integer] = np.uint8,
) -> ir.Model:
    return text_graph(
        GATE.replace("ATTRIBUTES", attributes),
        opset=21,
        s=np.float32(scale),
        z=kind(zero),
        t=np.float32(1 / 255),
        u=np.uint8(0),
    )


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(("kind", "zero"), [(np.uint8, 100), (np.int8, -20), (np.uint8, 60)])
def test_a_gate_is_a_clip_of_codes(
    text_graph: TextGraph, kind: type[np.integer], zero: int
) -> None:
    model = gate(text_graph, kind=kind, zero=zero)
    inputs = np.linspace(-8, 12, 4001, dtype=np.float32)
    (before,) = run_outputs(model, {"x": inputs}).values()
    assert put_gates_on_codes(model) == 1
    assert operators(model) == ["QuantizeLinear", "Clip", "DequantizeLinear"]
    (after,) = run_outputs(model, {"x": inputs}).values()
    np.testing.assert_allclose(after, before, atol=0.05 / 6)
    assert after[inputs < -3.1].max() == 0
    assert after[inputs > 3.1].min() == 1


def test_slope_and_offset_are_the_node_s(text_graph: TextGraph) -> None:
    model = gate(text_graph, attributes="alpha = 0.25, beta = 0.4")
    inputs = np.linspace(-4, 6, 2001, dtype=np.float32)
    assert put_gates_on_codes(model) == 1
    (found,) = run_outputs(model, {"x": inputs}).values()
    wanted = np.clip(0.25 * inputs + 0.4, 0, 1)
    np.testing.assert_allclose(found, wanted, atol=0.05 * 0.25)


@pytest.mark.parametrize(
    "changes",
    [
        {"zero": 59},  # -3 has no code
        {"scale": 0.2},  # 30 codes from closed to open
        {"attributes": "alpha = -0.2"},
        {"kind": np.uint16},
    ],
)
def test_what_codes_cannot_say_stays_float(
    text_graph: TextGraph, changes: dict[str, object]
) -> None:
    model = gate(text_graph, **changes)  # type: ignore[arg-type]
    assert put_gates_on_codes(model) == 0
    assert "HardSigmoid" in operators(model)


ALONE = "g (float[N] x) => (float[N] y) { y = HardSigmoid<alpha = 0.16666667>(x) }"
SWISH = """g (float[N] x) => (float[N] y) {
    g = HardSigmoid<alpha = 0.16666667>(x)
    y = Mul(g, x)
}"""
SHARED = """g (float[N] x) => (float[N] y, float[N] z) {
    g = HardSigmoid<alpha = 0.16666667>(x)
    y = Mul(g, x)
    z = Neg(x)
}"""


@pytest.mark.parametrize("text", [ALONE, SWISH, SHARED])
@pytest.mark.parametrize(
    ("low", "high", "reached"), [(-1.0, 4.0, -3.0), (-0.5, 0.5, -0.5), (-9.0, -4.0, -9.0)]
)
def test_a_range_reaches_the_closed_end_if_it_is_near(
    text_graph: TextGraph, text: str, low: float, high: float, reached: float
) -> None:
    ranges = reach_gates(text_graph(text), {"x": (low, high), "other": (0.0, 1.0)})
    assert ranges["x"] == pytest.approx((reached, high))
    assert ranges["other"] == (0.0, 1.0)


@pytest.mark.parametrize(("text", "reached"), [(ALONE, -3.0), (SWISH, -3.0), (SHARED, -9.0)])
def test_no_codes_are_spent_below_the_closed_end(
    text_graph: TextGraph, text: str, reached: float
) -> None:
    ranges = reach_gates(text_graph(text), {"x": (-9.0, 4.0)})
    assert ranges["x"] == pytest.approx((reached, 4.0))


NETWORK = """g (float[N, 4, 8, 8] x) => (float[N, 4] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w)
    b = ACTIVATION(a)
    c = Conv<pads = [1, 1, 1, 1]>(b, v)
    d = HardSwish(c)
    p = GlobalAveragePool(d)
    f = Flatten(p)
    y = Gemm(f, m)
}"""


def images() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(128, 4, 8, 8)).astype(np.float32)


def network(text_graph: TextGraph, activation: str) -> ir.Model:
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 4, 3, 3), "v": (8, 8, 3, 3), "m": (8, 4)}
    return text_graph(
        NETWORK.replace("ACTIVATION", activation),
        **{name: (rng.normal(size=shape) / 3).astype(np.float32) for name, shape in shapes.items()},
    )


def ratio(model: ir.Model, wanted: NDArray[np.float32]) -> float:
    (found,) = run_outputs(model, {"x": images()}).values()
    return float(10 * np.log10((wanted**2).sum() / ((wanted - found) ** 2).sum()))


@pytest.mark.parametrize("activation", ["HardSwish", "Relu"])
def test_hard_swish_runs_in_integers_and_costs_no_accuracy(
    text_graph: TextGraph, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(text_graph, activation)
    (wanted,) = run_outputs(model, {"x": images()}).values()
    options = StaticOptions(kernels="keep")
    on_codes = quantize(model, "int8", reader=[{"x": images()}], static=options).model
    assert not executed(on_codes).in_float
    monkeypatch.setattr(static, "put_gates_on_codes", lambda *_: 0)
    in_float = quantize(model, "int8", reader=[{"x": images()}], static=options).model
    assert {node.op_type for node in executed(in_float).in_float} == {"HardSigmoid"}
    assert ratio(on_codes, wanted) > max(30, ratio(in_float, wanted) - 1)


def test_hard_swish_of_wide_negative_inputs_keeps_its_bits(text_graph: TextGraph) -> None:
    model = network(text_graph, "HardSwish")
    weights = model.graph.initializers["w"]
    wide = weights.const_value.numpy() * 2 - 0.5  # type: ignore[union-attr]
    weights.const_value = ir.tensor(wide.astype(np.float32), name="w")
    (wanted,) = run_outputs(model, {"x": images()}).values()
    options = StaticOptions(kernels="keep")
    quantized = quantize(model, "int8", reader=[{"x": images()}], static=options).model
    assert not executed(quantized).in_float
    assert ratio(quantized, wanted) > 30


def test_an_excluded_gate_stays_float_and_others_count_as_converted(text_graph: TextGraph) -> None:
    model = network(text_graph, "HardSwish")
    gates = [f"{node.name}/gate" for node in model.graph if node.op_type == "HardSwish"]
    options = StaticOptions(kernels="keep")
    whole = quantize(model, "int8", reader=[{"x": images()}], static=options)
    assert whole.report.converted["HardSigmoid"] == len(gates)
    spared = quantize(model, "int8", reader=[{"x": images()}], static=options, exclude="/gate$")
    left = {one.node: one.reason for one in spared.report.left}
    assert {name for name, reason in left.items() if reason == "excluded"} == {
        str(node.name) for node in spared.model.graph if node.op_type == "HardSigmoid"
    }
    assert not any(node.op_type == "Clip" for node in spared.model.graph)
