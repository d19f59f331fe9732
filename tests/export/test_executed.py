from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgekit.export.executed import executed
from edgekit.export.quantize import quantize

NETWORK = """g (float[N, 4, 8, 8] x) => (float[N, 4] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w)
    b = ACTIVATION(a)
    c = Conv<pads = [1, 1, 1, 1]>(b, v)
    p = GlobalAveragePool(c)
    f = Flatten(p)
    y = Gemm(f, m)
}"""


def network(text_graph: Callable[..., ir.Model], activation: str) -> ir.Model:
    generator = np.random.default_rng(0)
    shapes = {"w": (4, 4, 3, 3), "v": (4, 4, 3, 3), "m": (4, 4)}
    return text_graph(
        NETWORK.replace("ACTIVATION", activation),
        **{name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
    )


def feeds() -> list[dict[str, np.ndarray]]:
    return [{"x": np.random.default_rng(1).standard_normal((16, 4, 8, 8), np.float32)}]


def test_a_network_of_integers_converts_its_input_alone(
    text_graph: Callable[..., ir.Model],
) -> None:
    report = quantize(network(text_graph, "Relu"), "int8", reader=feeds()).report
    assert report.executed is not None
    assert report.executed.in_float == ()
    assert report.executed.nodes["QLinearConv"] == 2
    assert "Relu" not in report.executed.nodes
    (quantizer,) = [n for n in report.executed.conversions if n.op_type == "QuantizeLinear"]
    assert quantizer.reads == "input"
    assert "--uint8-input" in quantizer.reason


def test_what_has_no_integer_kernel_is_named_with_the_conversions_around_it(
    text_graph: Callable[..., ir.Model],
) -> None:
    report = quantize(network(text_graph, "Softplus"), "int8", reader=feeds()).report
    assert report.executed is not None
    assert [node.op_type for node in report.executed.in_float] == ["Softplus"]
    reasons = {node.reason for node in report.executed.conversions}
    assert "Softplus computes float32" in reasons


def test_an_excluded_node_is_told_so(text_graph: Callable[..., ir.Model]) -> None:
    model = network(text_graph, "Relu")
    result = quantize(model, "int8", reader=feeds(), exclude="conv_2|Conv_2|node_2|^conv_2$")
    assert result.report.executed is not None
    told = {node.reason for node in result.report.executed.in_float}
    assert "excluded" in told
    again = executed(result.model)
    assert "excluded" not in {node.reason for node in again.in_float}
