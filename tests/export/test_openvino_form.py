"""The form of int8 that OpenVINO runs fastest: quantizers in front of weights and whole maps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.bench.engines import find_engine
from edgekit.export.graph import save_graph
from edgekit.export.openvino_form import unweighted_concats
from edgekit.export.quantize import quantize
from edgekit.export.static_options import StaticOptions
from edgekit.export.verify import run_outputs

NETWORK = """g (float[N, 3, 16, 16] x) => (float[N, 5] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, stem)
    n = BatchNormalization(a, scale, shift, mean, var)
    r = Relu(n)
    b = Conv<pads = [1, 1, 1, 1]>(r, grow)
    c = Concat<axis = 1>(a, b)
    p = GlobalAveragePool(c)
    f = Flatten(p)
    y = Gemm(f, head)
}"""


@pytest.fixture
def model(text_graph: Callable[..., ir.Model]) -> ir.Model:
    """A pre-activation layer: a convolution read by a normalization and a Concat."""
    rng = np.random.default_rng(0)
    arrays = {
        "stem": rng.standard_normal((8, 3, 3, 3)) / 4,
        "grow": rng.standard_normal((8, 8, 3, 3)) / 8,
        "head": rng.standard_normal((16, 5)),
        "scale": rng.uniform(0.5, 1.5, 8),
        "shift": rng.standard_normal(8) / 4,
        "mean": rng.standard_normal(8) / 4,
        "var": rng.uniform(0.5, 1.5, 8),
    }
    return text_graph(NETWORK, **{name: a.astype(np.float32) for name, a in arrays.items()})


def batch() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((64, 3, 16, 16)).astype(np.float32)


def converted(model: ir.Model, kernels: str) -> ir.Model:
    options = StaticOptions(kernels=kernels)  # type: ignore[arg-type]
    return quantize(model, "int8", reader=[{"x": batch()}], static=options).model


def readers_of_codes(model: ir.Model) -> set[str]:
    """Types of what reads activations from quantizers."""
    return {
        use.node.op_type
        for node in model.graph
        if node.op_type == "DequantizeLinear" and node.inputs[0].producer() is not None
        for use in node.outputs[0].uses()
    }


def quantized_tensors(model: ir.Model) -> dict[str, tuple[ir.DataType, int]]:
    """Type and zero point of the codes of each tensor that has a quantizer."""
    found = {}
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            zero = node.inputs[2].const_value
            found[node.inputs[0].name] = (zero.dtype, int(zero.numpy()))
    return found


def test_weights_and_maps_read_codes_and_normalization_stays(model: ir.Model) -> None:
    result = converted(model, "openvino")
    assert readers_of_codes(result) == {"Conv", "Gemm", "Concat", "BatchNormalization"}
    kinds = [node.op_type for node in result.graph]
    assert kinds.count("BatchNormalization") == kinds.count("Relu") == 1
    assert "Max" not in kinds
    assert set(quantized_tensors(result)) == {"x", "a", "r", "b", "f"}


def test_what_is_below_zero_gets_signed_codes_for_maps_alone(model: ir.Model) -> None:
    result = quantized_tensors(converted(model, "openvino"))
    assert result["a"] == result["b"] == (ir.DataType.INT8, 0)
    assert result["r"] == (ir.DataType.UINT8, 0)
    assert result["x"][0] == ir.DataType.UINT8
    assert result["x"][1] > 0


def test_sixteen_bits_stay_sixteen(model: ir.Model) -> None:
    options = StaticOptions(kernels="openvino", activations="QUInt16")
    result = quantize(model, "int16", reader=[{"x": batch()}], static=options).model
    assert {type_ for type_, _ in quantized_tensors(result).values()} == {ir.DataType.UINT16}


JOINED = """g (float[N, 3, 16, 16] x) => (float[N, 8, 8, 8] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, stem)
    p = Relu(a)
    m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(p)
    b = Conv<pads = [1, 1, 1, 1]>(m, grow)
    q = Relu(b)
    c = Concat<axis = 1>(m, q)
    y = Conv(c, last)
}"""


def joined(text_graph: Callable[..., ir.Model], factor: float) -> ir.Model:
    """A post-activation layer whose two parts meet in front of a convolution."""
    rng = np.random.default_rng(0)
    arrays = {
        "stem": rng.standard_normal((8, 3, 3, 3)) / 4,
        "grow": rng.standard_normal((8, 8, 3, 3)) / 8 * factor,
        "last": rng.standard_normal((8, 16, 1, 1)),
    }
    return text_graph(JOINED, **{name: a.astype(np.float32) for name, a in arrays.items()})


def test_codes_of_one_scale_pass_through_pool_and_concat(
    text_graph: Callable[..., ir.Model],
) -> None:
    assert set(quantized_tensors(converted(joined(text_graph, 1.0), "openvino"))) == {"x", "p", "q"}


def test_codes_of_two_scales_are_requantized_in_front_of_weights(
    text_graph: Callable[..., ir.Model],
) -> None:
    result = converted(joined(text_graph, 0.01), "openvino")
    assert set(quantized_tensors(result)) == {"x", "p", "q", "c"}


FORKED = """g (float[N, 3, 16, 16] x) => (float[N, 8, 15, 15] y) {
    a = Conv(x, stem)
    b = Conv(x, stem)
    c = Concat<axis = 1>(a, b)
    p = MaxPool<kernel_shape = [2, 2]>(c)
    r = Relu(c)
    d = Concat<axis = 1>(r, r)
    n = Conv(p, last)
    y = Conv(d, wide)
}"""


def test_scales_are_shared_where_weights_read_a_concat_through_pools(
    text_graph: Callable[..., ir.Model],
) -> None:
    rng = np.random.default_rng(0)
    shapes = {"stem": (4, 3, 1, 1), "last": (8, 8, 1, 1), "wide": (8, 16, 2, 2)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    model = text_graph(FORKED, **arrays)
    for node in model.graph:
        node.name = str(node.outputs[0].name)
    assert unweighted_concats(model) == set()
    model.graph.remove([node for node in model.graph if node.op_type == "Conv"][2], safe=True)
    assert unweighted_concats(model) == {"c"}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_it_agrees_with_the_float_model_in_either_engine(
    model: ir.Model, engine: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip(engine)
    (wanted,) = run_outputs(model, {"x": batch()}).values()

    def ratio(form: ir.Model) -> float:
        path = tmp_path_factory.mktemp("form") / "m.onnx"
        save_graph(form, path)
        found = find_engine(engine).open(path, 1).classify(batch())
        return float(10 * np.log10((wanted**2).sum() / ((wanted - found) ** 2).sum()))

    result = converted(model, "openvino")
    assert ratio(result) > 30
    scale = next(v for n, v in result.graph.initializers.items() if n.startswith("r_scale"))
    assert scale.const_value is not None
    scale.const_value = ir.tensor(scale.const_value.numpy() * np.float32(1.3), name=scale.name)
    assert ratio(result) > 15  # both quantizers of the pair have it: coarser, not wrong
    weight = next(v for n, v in result.graph.initializers.items() if n.startswith("grow_scale"))
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.3), name=weight.name)
    assert ratio(result) < 20
