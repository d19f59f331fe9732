"""The form of int8 that OpenVINO runs fastest: quantizers in front of weights, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.bench.engines import find_engine
from edgekit.export.graph import save_graph
from edgekit.export.quantize import quantize
from edgekit.export.static import StaticOptions
from edgekit.export.verify import run_outputs
from edgekit.export.weighted_inputs import WEIGHTED_OPS

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


def test_only_what_has_weights_reads_codes(model: ir.Model) -> None:
    result = converted(model, "openvino")
    assert readers_of_codes(result) == {"Conv", "Gemm"} <= set(WEIGHTED_OPS)
    kinds = [node.op_type for node in result.graph]
    assert kinds.count("QuantizeLinear") == 3
    assert kinds.count("BatchNormalization") == 1
    assert "Max" not in kinds
    assert "Concat" in readers_of_codes(converted(model, "keep"))


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
