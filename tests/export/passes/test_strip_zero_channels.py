from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit.export.liveness.channelwise import ACTIVATIONS
from edgekit.export.passes.strip_zero_channels import StripZeroChannels
from edgekit.export.verify import TOLERANCES, largest_difference, random_inputs, run_outputs

DEAD = [1, 4]
BALANCE = "one must be left, and as many in one group as in another"


def floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def without(array: NDArray[Any], channels: list[int], axis: int = 0) -> NDArray[Any]:
    """The same array with zeros in some channels."""
    result = np.moveaxis(array.copy(), axis, 0)
    result[channels] = 0
    return np.moveaxis(result, 0, axis)


def two_convs(text_graph, between: str = "a = Relu(c)", second: str = "Conv(a, v, d)",
              made: str = "5,4,4", **constants: NDArray[Any]) -> ir.Model:  # fmt: skip
    return text_graph(
        f"g (float[N,3,8,8] x) => (float[N,{made}] y) <float[N,6,6,6] c>"
        f"{{ c = Conv(x, w, b) {between} y = {second} }}",
        **{
            "w": without(floats(6, 3, 3, 3), DEAD),
            "b": floats(6, seed=1),
            "v": floats(5, 6, 3, 3, seed=2),
            "d": floats(5, seed=3),
            **constants,
        },
    )


def shapes(model: ir.Model) -> dict[str, list[int]]:
    return {
        name: list(value.const_value.shape.numpy())
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }


def test_zero_filters_without_bias_go(text_graph, run_pass) -> None:
    model = two_convs(text_graph, b=without(floats(6, seed=1), DEAD))
    strip = StripZeroChannels()
    run_pass(strip, model)
    assert (strip.changes, strip.refusals) == (2, [])
    assert shapes(model) == {"w": [4, 3, 3, 3], "b": [4], "v": [5, 4, 3, 3], "d": [5]}
    assert model.graph[0].outputs[0].shape[1] == 4


def test_zero_filters_before_a_padded_convolution_go(text_graph, run_pass) -> None:
    model = two_convs(
        text_graph, second="Conv<pads = [1, 1, 1, 1]>(a, v, d)", made="5,6,6",
        b=without(floats(6, seed=1), DEAD),
    )  # fmt: skip
    run_pass(StripZeroChannels(), model)
    assert shapes(model)["w"] == [4, 3, 3, 3]


@pytest.mark.parametrize("second", ["Conv(a, v, d)", "Conv(a, v)"])
def test_a_constant_bias_moves_into_the_unpadded_reader(text_graph, run_pass, second: str) -> None:
    model = two_convs(text_graph, second=second)
    run_pass(StripZeroChannels(), model)
    assert shapes(model)["v"] == [5, 4, 3, 3]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_activation_of_a_constant_is_computed_as_onnxruntime_does(
    text_graph, run_pass, activation: str
) -> None:
    node = "a = Clip(c, low, high)" if activation == "Clip" else f"a = {activation}(c)"
    model = two_convs(text_graph, between=node, low=np.float32(-0.5), high=np.float32(0.5))
    strip = StripZeroChannels()
    run_pass(strip, model, tolerance=1e-5)
    assert (strip.changes, strip.refusals) == (2, [])


def test_activations_with_settings_of_their_own_are_computed_with_them(
    text_graph, run_pass
) -> None:
    model = two_convs(
        text_graph,
        between="p = LeakyRelu<alpha = 0.3>(c) q = Elu<alpha = 0.7>(p) a = Sigmoid(q)",
    )
    run_pass(StripZeroChannels(), model)
    assert shapes(model)["w"] == [4, 3, 3, 3]


@pytest.mark.parametrize(
    ("pool", "kernel"),
    [
        ("MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(c)", 3),
        ("AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(c)", 3),
        ("AveragePool<kernel_shape = [2, 2], count_include_pad = 1>(c)", 2),
        ("GlobalAveragePool(c)", 1),
        ("GlobalMaxPool(c)", 1),
        ("ReduceMean(c, axes)", 1),
    ],
)
def test_a_constant_stays_constant_through_a_pool(
    text_graph, run_pass, pool: str, kernel: int
) -> None:
    side = {3: 4, 2: 3, 1: 1}[kernel]
    model = two_convs(
        text_graph, between=f"a = {pool}", made=f"5,{side},{side}",
        v=floats(5, 6, *(3 if kernel == 3 else 3 if kernel == 2 else 1,) * 2, seed=2),
        axes=np.array([-1, 2], np.int64),
    )  # fmt: skip
    strip = StripZeroChannels()
    run_pass(strip, model)
    assert (strip.changes, strip.refusals) == (2, [])


def test_a_pool_that_counts_its_padding_blocks_constants(text_graph, run_pass) -> None:
    between = (
        "a = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(c)"
    )
    model = two_convs(text_graph, between=between)
    strip = StripZeroChannels()
    run_pass(strip, model)
    assert strip.changes == 0


@pytest.mark.parametrize(
    "flatten", ["Flatten<axis = 1>(p)", "Reshape(p, rest)", "Reshape(p, fixed)"]
)
@pytest.mark.parametrize("transposed", [0, 1])
def test_channels_go_through_flatten_into_a_gemm(
    text_graph, run_pass, flatten: str, transposed: int
) -> None:
    model = two_convs(
        text_graph,
        between=f"p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c) f = {flatten}",
        second=f"Gemm<alpha = 0.5, beta = 2.0, transB = {transposed}>(f, v, d)",
        made="5",
        v=floats(*((5, 54) if transposed else (54, 5)), seed=2),
        rest=np.array([0, -1], np.int64),
        fixed=np.array([0, 54], np.int64),
    )
    strip = StripZeroChannels()
    run_pass(strip, model)
    assert strip.changes == 2
    assert sorted(shapes(model)["v"]) == [5, 36]


def test_channels_go_between_two_gemms(text_graph, run_pass) -> None:
    model = text_graph(
        "g (float[N,3] x) => (float[N,5] y)"
        "{ c = Gemm<beta = 0.5>(x, w, b) a = Relu(c) y = Gemm<transB = 1>(a, v) }",
        w=without(floats(3, 6), DEAD, axis=1),
        b=np.abs(floats(6, seed=1)),
        v=floats(5, 6, seed=2),
    )
    strip = StripZeroChannels()
    run_pass(strip, model)
    assert strip.changes == 2


def test_channels_that_nothing_reads_go(text_graph, run_pass) -> None:
    model = two_convs(
        text_graph,
        second="Conv<pads = [1, 1, 1, 1]>(a, v, d)", made="5,6,6",
        w=floats(6, 3, 3, 3), v=without(floats(5, 6, 3, 3, seed=2), DEAD, axis=1),
    )  # fmt: skip
    strip = StripZeroChannels()
    run_pass(strip, model)
    assert (strip.changes, strip.refusals) == (2, [])
    assert shapes(model)["w"] == [4, 3, 3, 3]


def test_a_batch_norm_between_loses_the_same_channels(text_graph, run_pass) -> None:
    model = two_convs(
        text_graph,
        between="n = BatchNormalization(c, s, t, m, q) a = Relu(n)",
        s=floats(6, seed=5), t=floats(6, seed=6), m=floats(6, seed=7), q=np.abs(floats(6, seed=8)),
    )  # fmt: skip
    run_pass(StripZeroChannels(), model)
    assert {name: shape for name, shape in shapes(model).items() if name in "stmq"} == {
        name: [4] for name in "stmq"
    }


@pytest.mark.parametrize("pads", ["", "<pads = [1, 1, 1, 1], group = 6>"])
def test_a_depthwise_convolution_between_loses_the_same_channels(
    text_graph, run_pass, pads: str
) -> None:
    bias = floats(6, seed=1) if not pads else without(floats(6, seed=1), DEAD)
    side = "5,2,2" if not pads else "5,4,4"
    model = two_convs(
        text_graph, between=f"n = Relu(c) a = Conv{pads or '<group = 6>'}(n, k, h)",
        made=side, b=bias, k=floats(6, 1, 3, 3, seed=4), h=floats(6, seed=5),
    )  # fmt: skip
    strip = StripZeroChannels()
    run_pass(strip, model)
    assert strip.changes == 2
    assert shapes(model)["k"] == [4, 1, 3, 3]
    assert model.graph[2].attributes.get_int("group") == 4


def test_a_zero_depthwise_filter_makes_its_channel_dead(text_graph, run_pass) -> None:
    model = two_convs(
        text_graph, between="a = Conv<group = 6>(c, k, h)", made="5,2,2", w=floats(6, 3, 3, 3),
        k=without(floats(6, 1, 3, 3, seed=4), DEAD), h=floats(6, seed=5),
    )  # fmt: skip
    strip = StripZeroChannels()
    run_pass(strip, model)
    assert strip.changes == 2


def test_stripping_runs_on_until_nothing_is_dead(text_graph, run_pass) -> None:
    reader = without(floats(6, 6, 1, 1, seed=2), DEAD, axis=1)
    model = text_graph(
        "g (float[N,3,4,4] x) => (float[N,2,4,4] y)"
        "{ p = Conv(x, w) q = Relu(p) r = Conv(q, v) s = Relu(r) y = Conv(s, u) }",
        w=floats(6, 3, 1, 1),
        v=without(reader, [0]),
        u=floats(2, 6, 1, 1, seed=3),
    )  # fmt: skip
    strip = StripZeroChannels()
    run_pass(strip, model)
    assert strip.changes == 3
    assert shapes(model) == {"w": [4, 3, 1, 1], "v": [5, 4, 1, 1], "u": [2, 5, 1, 1]}


@pytest.mark.parametrize(
    ("producer_groups", "consumer_groups", "dead", "removed"),
    [
        (1, 2, [0, 3], 2),
        (1, 2, [0, 1], 0),
        (2, 1, [0, 1, 4], 2),
        (3, 2, [0, 2, 4], 0),
        (3, 2, [0, 1, 2, 3, 4], 0),
        (2, 2, [0, 1, 2, 3, 4], 4),
    ],
)
def test_grouped_convolutions_lose_equally_many_in_each_group(
    text_graph, run_pass, producer_groups: int, consumer_groups: int, dead: list[int], removed: int
) -> None:
    model = text_graph(
        f"g (float[N,6,4,4] x) => (float[N,4,4,4] y) {{ c = Conv<group = {producer_groups}>(x, w)"
        f"a = Relu(c) y = Conv<group = {consumer_groups}>(a, v) }}",
        w=without(floats(6, 6 // producer_groups, 1, 1), dead),
        v=floats(4, 6 // consumer_groups, 1, 1, seed=2),
    )
    strip = StripZeroChannels()
    run_pass(strip, model)
    assert shapes(model)["w"][0] == 6 - removed
    kept = [r.reason for r in strip.refusals if r.node == "c" and "zero filters" in r.reason]
    assert len(kept) == (removed < len(dead))


def test_the_last_channel_stays(text_graph, run_pass) -> None:
    model = two_convs(text_graph, w=np.zeros((6, 3, 3, 3), np.float32))
    strip = StripZeroChannels()
    run_pass(strip, model)
    assert shapes(model)["w"] == [1, 3, 3, 3]
    assert strip.refusals[0].reason == f"zero filters stay: {BALANCE}"


def test_one_constant_carries_the_others_before_a_padded_convolution(text_graph, run_pass) -> None:
    model = two_convs(
        text_graph, second="Conv<pads = [1, 1, 1, 1]>(a, v, d)", made="5,6,6",
        b=np.abs(floats(6, seed=1)),
    )  # fmt: skip
    strip = StripZeroChannels()
    run_pass(strip, model)
    assert shapes(model)["w"] == [5, 3, 3, 3]
    reasons = [refusal.reason for refusal in strip.refusals]
    assert reasons == ["zero filters stay: y pads, and sees zeros at the border"]


def test_the_last_constant_before_a_padded_convolution_is_refused(text_graph) -> None:
    model = two_convs(
        text_graph, between="a = Sigmoid(c)", second="Conv<pads = [1, 1, 1, 1]>(a, v, d)",
        made="5,6,6", w=without(floats(6, 3, 3, 3), [1]),
    )  # fmt: skip
    assert_refused(model, "zero filters stay: y pads, and sees zeros at the border")


def test_operators_that_mix_are_refused(text_graph) -> None:
    model = two_convs(text_graph, between="a = Softmax<axis = 1>(c)")
    assert_refused(model, "zero filters stay: a (Softmax) reads them: its operator is not among")


def test_graph_outputs_are_refused(text_graph) -> None:
    model = text_graph(
        "g (float[N,3,8,8] x) => (float[N,6,6,6] y) { y = Conv(x, w) }",
        w=without(floats(6, 3, 3, 3), DEAD),
    )
    assert_refused(model, "zero filters stay: y is a graph output")


def test_channels_of_the_graphs_input_are_refused(text_graph) -> None:
    model = text_graph(
        "g (float[N,3,8,8] x) => (float[N,6,6,6] y) { y = Conv(x, w) }",
        w=without(floats(6, 3, 3, 3), [1], axis=1),
    )
    assert_refused(model, "inputs that it does not read stay: others need them")


def test_shared_weights_are_refused(text_graph) -> None:
    model = text_graph(
        "g (float[N,6,8,8] x) => (float[N,6,8,8] y) { c = Conv(x, w) a = Relu(c) y = Conv(a, w) }",
        w=without(floats(6, 6, 1, 1), DEAD),
    )
    assert_refused(model, "weight w is shared")


def test_constants_that_a_caller_may_replace_stop_it(text_graph) -> None:
    for name in ("w", "v"):
        model = text_graph(
            "g (float[N,3,8,8] x) => (float[N,5,4,4] y) { c = Conv(x, w) y = Conv(c, v) }",
            also_inputs=(name,), w=without(floats(6, 3, 3, 3), DEAD), v=floats(5, 6, 3, 3),
        )  # fmt: skip
        assert not StripZeroChannels()(model).modified


def assert_refused(model: ir.Model, reason: str) -> None:
    before = ir.to_proto(model)
    strip = StripZeroChannels()
    assert not strip(model).modified
    assert any(reason in refusal.reason for refusal in strip.refusals), strip.refusals
    assert ir.to_proto(model) == before


def test_a_network_without_zeros_is_left_without_a_word(text_graph) -> None:
    strip = StripZeroChannels()
    assert not strip(two_convs(text_graph, w=floats(6, 3, 3, 3))).modified
    assert strip.refusals == []


def test_the_comparison_catches_a_constant_that_is_dropped(text_graph) -> None:
    model = two_convs(text_graph)
    inputs = random_inputs(model)
    before = run_outputs(model, inputs)
    StripZeroChannels()(model)
    bias = model.graph.initializers["d"]
    bias.const_value = ir.tensor(floats(5, seed=3), name="d")
    error = largest_difference(before, run_outputs(model, inputs))
    assert error > 100 * TOLERANCES[ir.DataType.FLOAT]


@st.composite
def sparse_chains(draw: st.DrawFn) -> tuple[str, dict[str, NDArray[Any]]]:
    """Convolutions with zero filters and unread inputs: groups, padding, biases, depthwise ones."""
    channels, side, lines = 4, 6, []
    constants: dict[str, NDArray[Any]] = {}
    value = "x"
    for i in range(draw(st.integers(2, 4))):
        kernel = draw(st.sampled_from([1, 3])) if side > 3 else 1
        pad = draw(st.sampled_from([0, kernel // 2]))
        groups = draw(st.sampled_from([1, 1, 2, 4]))
        side += 2 * pad + 1 - kernel
        weight = floats(channels, channels // groups, kernel, kernel, seed=i)
        weight[draw(st.lists(st.integers(0, 3), max_size=3))] = 0
        weight[:, draw(st.lists(st.integers(0, channels // groups - 1), max_size=2))] = 0
        constants[f"w{i}"] = weight
        bias = draw(st.sampled_from(["", f", b{i}"]))
        if bias:
            mask = draw(st.lists(st.integers(0, 3), max_size=3))
            constants[f"b{i}"] = without(floats(channels, seed=10 + i), mask)
        pads = f"pads = [{pad}, {pad}, {pad}, {pad}]"
        lines.append(f"c{i} = Conv<group = {groups}, {pads}>({value}, w{i}{bias})")
        value = f"a{i}"
        activation = draw(st.sampled_from(["Relu", "Sigmoid", "Identity", "HardSwish"]))
        lines.append(f"{value} = {activation}(c{i})")
    signature = f"(float[2,4,6,6] x) => (float[2,4,{side},{side}] {value})"
    return f"g {signature} {{ {' '.join(lines)} }}", constants


@settings(max_examples=50, deadline=None)
@given(chain=sparse_chains())
def test_random_sparse_chains_compute_the_same(text_graph, run_pass, chain: Any) -> None:
    text, constants = chain
    run_pass(StripZeroChannels(), text_graph(text, **constants), tolerance=1e-5)
