"""Stored and constant numbers that are added to, or multiply, what a convolution makes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.export.passes.strip_zero_channels import StripZeroChannels

HEAD = "g (float[N,4,4,4] x) => (float[N,4,4,4] y)"


def floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("bias", ["", ", h"])
@pytest.mark.parametrize("count", [2, 3])
def test_stored_addends_in_a_row_all_go_into_the_bias(
    text_graph, run_pass, bias: str, count: int
) -> None:
    adds = " ".join(f"a{i + 1} = Add(a{i}, k{i})" for i in range(count))
    addends = {f"k{i}": floats(1, 4, 1, 1, seed=i) for i in range(count)}
    model = text_graph(
        f"{HEAD} {{ a0 = Conv(x, w{bias}) {adds} y = Relu(a{count}) }}",
        w=floats(4, 4, 1, 1, seed=8), **addends, **({"h": floats(4, seed=9)} if bias else {}),
    )  # fmt: skip
    run_pass(StripZeroChannels(), model)
    assert operators(model) == ["Conv", "Relu"]
    expected = sum(each.reshape(4).astype(np.float64) for each in addends.values())
    expected = expected + (floats(4, seed=9) if bias else 0)
    stored = model.graph[0].inputs[2].const_value.numpy()
    np.testing.assert_allclose(stored, expected, rtol=1e-6)


@pytest.mark.parametrize("product", ["MatMul(x, w)", "Gemm(x, w, h)"])
def test_stored_addends_in_a_row_go_into_the_bias_of_a_product(
    text_graph, run_pass, product: str
) -> None:
    model = text_graph(
        f"g (float[N,4] x) => (float[N,3] y) "
        f"{{ a = {product} s = Add(a, k) t = Add(j, s) y = Relu(t) }}",
        w=floats(4, 3), k=floats(3, seed=1), j=floats(1, 3, seed=2),
        **({"h": floats(3, seed=3)} if "Gemm" in product else {}),
    )  # fmt: skip
    run_pass(StripZeroChannels(), model)
    assert operators(model) == ["Gemm", "Relu"]


def test_an_addend_behind_a_sum_that_others_read_stays(text_graph, run_pass) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) b = Add(a, k) c = Add(b, j) r = Sigmoid(b) y = Mul(c, r) }}",
        w=floats(4, 4, 1, 1), k=floats(4, 1, 1, seed=1), j=floats(4, 1, 1, seed=2),
    )  # fmt: skip
    run_pass(StripZeroChannels(), model)
    assert operators(model) == ["Conv", "Add", "Sigmoid", "Mul"]


@pytest.mark.parametrize("op", ["Add", "Mul", "Max", "Sub"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_constant_operand_holds_what_was_added_to_it(
    text_graph, run_pass, op: str, count: int
) -> None:
    adds = " ".join(f"a{i + 1} = Add(a{i}, k{i})" for i in range(count))
    addends = {f"k{i}": floats(1, 4, 1, 1, seed=i) for i in range(count)}
    model = text_graph(
        f"{HEAD} {{ a0 = Conv(x, z, h) {adds} e = Conv(x, w) y = {op}(a{count}, e) }}",
        z=np.zeros((4, 4, 1, 1), np.float32), h=floats(4, seed=8), w=floats(4, 4, 1, 1, seed=9),
        **addends,
    )  # fmt: skip
    run_pass(StripZeroChannels(), model)
    assert operators(model) == ["Conv", op]


def test_a_constant_that_a_prelu_activates_stays(text_graph, run_pass) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, z, h) e = Conv(x, w) y = PRelu(a, e) }}",
        z=np.zeros((4, 4, 1, 1), np.float32), h=floats(4), w=floats(4, 4, 1, 1, seed=1),
    )  # fmt: skip
    run_pass(StripZeroChannels(), model)
    assert operators(model) == ["Conv", "Conv", "PRelu"]


def test_a_constant_slope_of_a_prelu_becomes_stored_numbers(text_graph, run_pass) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, z, h) e = Conv(x, w) y = PRelu(e, a) }}",
        z=np.zeros((4, 4, 1, 1), np.float32), h=floats(4), w=floats(4, 4, 1, 1, seed=1),
    )  # fmt: skip
    run_pass(StripZeroChannels(), model)
    assert operators(model) == ["Conv", "PRelu"]
