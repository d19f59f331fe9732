"""Channels that several values share: through Concat, Add, Split, Slice, Mul and their like."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.export.passes.strip_zero_channels import StripZeroChannels

ONES = np.ones((4, 4, 1, 1), np.float32)


def floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def conv(
    outs: int, ins: int, *, seed: int, dead: Any = (), unread: Any = ()
) -> NDArray[np.float32]:
    """The weights of a 1x1 convolution with zero filters and with inputs that it does not read."""
    weight = floats(outs, ins, 1, 1, seed=seed)
    weight[list(dead)] = 0
    weight[:, list(unread)] = 0
    return weight


def shapes(model: ir.Model) -> dict[str, list[int]]:
    return {
        name: list(value.const_value.shape.numpy())
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def assert_untouched(model: ir.Model, reason: str | None = None) -> None:
    before = ir.to_proto(model)
    strip = StripZeroChannels()
    assert not strip(model).modified
    assert ir.to_proto(model) == before
    if reason is not None:
        assert any(reason in refusal.reason for refusal in strip.refusals), strip.refusals


def strip(run_pass: Any, model: ir.Model) -> StripZeroChannels:
    transform = StripZeroChannels()
    run_pass(transform, model)
    return transform


HEAD = "g (float[N,4,4,4] x) => (float[N,2,4,4] y)"


def test_a_channel_that_no_reader_of_a_concat_needs_goes(text_graph, run_pass) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) b = Conv(x, u) c = Concat<axis = 1>(a, b) r = Relu(c)"
        "p = Conv(r, v) q = Conv(r, t) y = Add(p, q) }",
        w=conv(4, 4, seed=1), u=conv(4, 4, seed=2),
        v=conv(2, 8, seed=3, unread=[1, 2, 6]), t=conv(2, 8, seed=4, unread=[1, 6]),
    )  # fmt: skip
    strip(run_pass, model)
    assert shapes(model) == {
        "w": [3, 4, 1, 1], "u": [3, 4, 1, 1], "v": [2, 6, 1, 1], "t": [2, 6, 1, 1],
    }  # fmt: skip


def test_a_channel_that_one_reader_of_a_concat_needs_stays(text_graph) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) b = Conv(x, u) c = Concat<axis = 1>(a, b)"
        "p = Conv(c, v) q = Conv(c, t) y = Add(p, q) }",
        w=conv(4, 4, seed=1), u=conv(4, 4, seed=2),
        v=conv(2, 8, seed=3, unread=[1]), t=conv(2, 8, seed=4),
    )  # fmt: skip
    assert_untouched(model, "inputs that it does not read stay: others need them")


def test_a_concat_along_another_axis_is_refused(text_graph) -> None:
    model = text_graph(
        "g (float[N,4,4,4] x) => (float[N,2,8,4] y)"
        "{ a = Conv(x, w) c = Concat<axis = 2>(a, x) y = Conv(c, v) }",
        w=conv(4, 4, seed=1, dead=[1]), v=conv(2, 4, seed=3),
    )  # fmt: skip
    assert_untouched(model, "zero filters stay: c (Concat) reads them: it does not join along")


def test_a_layer_that_is_dead_goes_with_its_part_of_every_concat(text_graph, run_pass) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) b = Conv(a, u) c = Concat<axis = 1>(a, b) d = Conv(c, k)"
        "e = Concat<axis = 1>(c, d) y = Conv(e, v) }",
        w=conv(4, 4, seed=1), u=conv(4, 4, seed=2, dead=range(4)), k=conv(4, 8, seed=3),
        v=conv(2, 12, seed=4),
    )  # fmt: skip
    strip(run_pass, model)
    assert shapes(model) == {"w": [4, 4, 1, 1], "k": [4, 4, 1, 1], "v": [2, 8, 1, 1]}
    assert operators(model) == ["Conv", "Concat", "Conv", "Concat", "Conv"]


def dense(text_graph: Any, **unread: Any) -> ir.Model:
    """Three layers of a dense block, each reading all before it, through Concats of Concats."""
    return text_graph(
        f"{HEAD} {{ a = Conv(x, w) b = Conv(a, u) c = Concat<axis = 1>(a, b) n = Relu(c)"
        "d = Conv(n, k) e = Concat<axis = 1>(c, d) f = Relu(e) y = Conv(f, v) }",
        w=conv(4, 4, seed=1), u=conv(4, 4, seed=2),
        k=conv(4, 8, seed=3, unread=unread.get("k", ())),
        v=conv(2, 12, seed=4, unread=unread.get("v", ())),
    )  # fmt: skip


def test_a_reader_that_alone_needs_no_channel_of_a_value_gets_a_narrower_concat(
    text_graph, run_pass
) -> None:
    model = dense(text_graph, k=range(4))
    strip(run_pass, model)
    assert shapes(model)["k"] == [4, 4, 1, 1]
    assert shapes(model)["v"] == [2, 12, 1, 1]
    joined = {node.outputs[0].name: [v.name for v in node.inputs if v] for node in model.graph}
    assert joined["c"] == ["b"]
    assert joined["e"] == ["a", "b", "d"]


def test_a_later_reader_gets_a_narrower_concat_as_well(text_graph, run_pass) -> None:
    model = dense(text_graph, v=range(4, 8))
    strip(run_pass, model)
    joined = {node.outputs[0].name: [v.name for v in node.inputs if v] for node in model.graph}
    assert (joined["c"], joined["e"]) == (["a", "b"], ["a", "d"])


def test_a_value_is_not_parted_for_a_reader_that_needs_some_of_it(text_graph) -> None:
    assert_untouched(dense(text_graph, k=[0, 1]), "inputs that it does not read stay: others")


def residual(text_graph: Any, **constants: Any) -> ir.Model:
    return text_graph(
        f"{HEAD} {{ a = Conv(x, w) b = Conv(a, u, h) s = Add(a, b) y = Conv(s, v) }}",
        **{
            "w": conv(4, 4, seed=1), "u": conv(4, 4, seed=2), "h": floats(4, seed=3),
            "v": conv(2, 4, seed=4), **constants,
        },
    )  # fmt: skip


def test_a_channel_that_nothing_reads_leaves_all_addends(text_graph, run_pass) -> None:
    model = residual(text_graph, u=conv(4, 4, seed=2, unread=[1]), v=conv(2, 4, seed=4, unread=[1]))
    strip(run_pass, model)
    assert shapes(model) == {
        "w": [3, 4, 1, 1], "u": [3, 3, 1, 1], "h": [3], "v": [2, 3, 1, 1],
    }  # fmt: skip


def test_a_channel_with_one_addend_that_is_not_zero_stays(text_graph) -> None:
    model = residual(text_graph, u=conv(4, 4, seed=2, dead=[1]))
    assert_untouched(model, "zero filters stay: others need them, or what is tied to them")


def test_a_sum_of_constants_goes_into_the_reader(text_graph, run_pass) -> None:
    model = residual(text_graph, w=conv(4, 4, seed=1, dead=[2]), u=conv(4, 4, seed=2, dead=[2]))
    strip(run_pass, model)
    assert shapes(model)["v"] == [2, 3, 1, 1]


@pytest.mark.parametrize("bias", [0, 1])
def test_a_dead_branch_goes_with_its_add(text_graph, run_pass, bias: int) -> None:
    model = residual(text_graph, u=conv(4, 4, seed=2, dead=range(4)), h=bias * floats(4, seed=3))
    strip(run_pass, model)
    assert operators(model) == ["Conv", "Conv"]


def test_a_constant_addend_that_decides_on_the_shape_stays(text_graph, run_pass) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) p = GlobalAveragePool(x) s = Add(a, p) y = Conv(s, v) }}",
        w=conv(4, 4, seed=1, dead=range(4)), v=conv(2, 4, seed=4),
    )  # fmt: skip
    strip(run_pass, model)
    assert operators(model) == ["Conv", "GlobalAveragePool", "Add", "Conv"]


@pytest.mark.parametrize(("shape", "left"), [((4, 1, 1), 2), ((1, 1, 1, 1), 2), ((4, 4), 3)])
def test_stored_addends_go_into_the_bias_if_equal_at_all_positions(
    text_graph, run_pass, shape: tuple[int, ...], left: int
) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) s = Add(k, a) y = Conv(s, v) }}",
        w=conv(4, 4, seed=1), k=floats(*shape, seed=2), v=conv(2, 4, seed=3),
    )  # fmt: skip
    strip(run_pass, model)
    assert len(model.graph) == left


@pytest.mark.parametrize("op", ["Max", "Min", "Mul", "Add", "Sub", "Div", "PRelu"])
def test_stored_operands_lose_the_same_channels(text_graph, run_pass, op: str) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w, h) r = Sigmoid(a) s = {op}(r, k) y = Conv(s, v) }}",
        w=conv(4, 4, seed=1, dead=[0, 3]), h=floats(4, seed=5), k=floats(4, 1, 1, seed=2),
        v=conv(2, 4, seed=3),
    )  # fmt: skip
    strip(run_pass, model)
    assert shapes(model)["k"] == [2, 1, 1]


def test_what_a_stored_zero_multiplies_is_not_needed(text_graph, run_pass) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) s = Mul(a, k) y = Conv(s, v) }}",
        w=conv(4, 4, seed=1), k=np.float32([1, 0, 2, 0]).reshape(4, 1, 1), v=conv(2, 4, seed=3),
    )  # fmt: skip
    strip(run_pass, model)
    assert shapes(model) == {"w": [2, 4, 1, 1], "k": [2, 1, 1], "v": [2, 2, 1, 1]}


def test_squeeze_and_excitation_shrinks_with_what_it_scales(text_graph, run_pass) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) r = Relu(a) p = GlobalAveragePool(r) q = Conv(p, s) m = Relu(q)"
        "e = Conv(m, t) g = Sigmoid(e) z = Mul(r, g) y = Conv(z, v) }",
        w=conv(4, 4, seed=1, dead=[1]), s=conv(2, 4, seed=2), t=conv(4, 2, seed=3),
        v=conv(2, 4, seed=4),
    )  # fmt: skip
    strip(run_pass, model)
    assert [shapes(model)[name][:2] for name in "wstv"] == [[3, 4], [2, 3], [3, 2], [2, 3]]


def test_a_gate_that_is_constant_becomes_stored_numbers(text_graph, run_pass) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) p = GlobalAveragePool(a) q = Conv(p, s, t) g = Sigmoid(q)"
        "z = Mul(a, g) y = Conv(z, v) }",
        w=conv(4, 4, seed=1), s=conv(4, 4, seed=2, dead=range(4)), t=floats(4, seed=3),
        v=conv(2, 4, seed=4),
    )  # fmt: skip
    strip(run_pass, model)
    assert operators(model) == ["Conv", "Mul", "Conv"]


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("sizes", [", sizes", ""])
def test_the_parts_of_a_split_shrink_each_for_itself(
    text_graph, run_pass, opset: int, sizes: str
) -> None:
    count = ", num_outputs = 2" if opset >= 18 and not sizes else ""
    constants = {"sizes": np.array([2, 2], np.int64)} if sizes else {}
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) b, c = Split<axis = 1{count}>(a{sizes})"
        "p = Conv(b, u) q = Conv(c, v) y = Add(p, q) }",
        opset=opset, w=conv(4, 4, seed=1), u=conv(2, 2, seed=2, unread=[0]), v=conv(2, 2, seed=3),
        **constants,
    )  # fmt: skip
    strip(run_pass, model)
    assert [shapes(model)[name][:2] for name in "wuv"] == [[3, 4], [2, 1], [2, 2]]


def test_every_part_of_a_split_keeps_a_channel(text_graph, run_pass) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) b, c = Split<axis = 1, num_outputs = 2>(a) y = Conv(c, v) }}",
        w=conv(4, 4, seed=1), v=conv(2, 2, seed=3),
    )  # fmt: skip
    strip(run_pass, model)
    assert shapes(model)["w"] == [3, 4, 1, 1]


@pytest.mark.parametrize("stop", [3, -1])
def test_a_slice_takes_the_same_channels_from_fewer(text_graph, run_pass, stop: int) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) s = Slice(a, from, to, axis) y = Conv(s, v) }}",
        **{"from": np.array([1]), "to": np.array([stop]), "axis": np.array([1])},
        w=conv(4, 4, seed=1), v=conv(2, 2, seed=3),
    )  # fmt: skip
    strip(run_pass, model)
    assert shapes(model)["w"] == [2, 4, 1, 1]


def test_a_slice_in_steps_is_refused(text_graph) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) s = Slice(a, from, to, axis, step) y = Conv(s, v) }}",
        **{name: np.array([i]) for name, i in {"from": 0, "to": 4, "axis": 1, "step": 2}.items()},
        w=conv(4, 4, seed=1, dead=[1]), v=conv(2, 2, seed=3),
    )  # fmt: skip
    assert_untouched(model, "it takes channels in steps other than 1")


def test_a_slice_over_space_passes_channels_on(text_graph, run_pass) -> None:
    model = text_graph(
        "g (float[N,4,4,4] x) => (float[N,2,2,4] y)"
        "{ a = Conv(x, w) s = Slice(a, from, to, axis) y = Conv(s, v) }",
        **{"from": np.array([1]), "to": np.array([3]), "axis": np.array([2])},
        w=conv(4, 4, seed=1, dead=[1]), v=conv(2, 4, seed=3),
    )  # fmt: skip
    strip(run_pass, model)
    assert shapes(model)["w"] == [3, 4, 1, 1]


@pytest.mark.parametrize(("fill", "left"), [(0.0, 3), (0.75, 2), (0.5, 3)])
def test_padding_with_another_number_than_the_constant_keeps_the_channel(
    text_graph, run_pass, fill: float, left: int
) -> None:
    bias = np.float32([0.5, 0.0, 0.75, 0.75])
    model = text_graph(
        "g (float[N,4,4,4] x) => (float[N,2,6,4] y)"
        "{ a = Conv(x, w, b) s = Pad(a, pads, fill) y = Conv(s, v) }",
        pads=np.array([0, 0, 1, 0, 0, 0, 1, 0]), fill=np.float32(fill),
        w=conv(4, 4, seed=1, dead=[0, 1, 2, 3][: 3 if fill != 0.75 else 4]), b=bias,
        v=conv(2, 4, seed=3),
    )  # fmt: skip
    strip(run_pass, model)
    assert shapes(model)["w"][0] == left


def test_channels_go_through_a_linear_squeeze(text_graph, run_pass) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) r = Relu(a) p = ReduceMean<keepdims = 0>(r, axes)"
        "q = Gemm<transB = 1>(p, s) e = Sigmoid(q) g = Reshape(e, to) z = Mul(r, g)"
        "y = Conv(z, v) }",
        axes=np.array([2, 3]), to=np.array([-1, 4, 1, 1]),
        w=conv(4, 4, seed=1, dead=[1]), s=floats(4, 4, seed=2), v=conv(2, 4, seed=4),
    )  # fmt: skip
    strip(run_pass, model)
    assert [shapes(model)[name][:2] for name in "wsv"] == [[3, 4], [3, 3], [2, 3]]


@pytest.mark.parametrize("axes", [3, [3], -1])
def test_channels_go_through_an_unsqueeze(text_graph, run_pass, axes: int | list[int]) -> None:
    model = text_graph(
        "g (float[N,4,4] x) => (float[N,2,4,1] y) "
        "{ a = Conv(x, w) u = Unsqueeze(a, axes) y = Conv(u, v) }",
        w=conv(4, 4, seed=1, dead=[1])[..., 0], axes=np.array(axes, np.int64),
        v=conv(2, 4, seed=2),
    )  # fmt: skip
    strip(run_pass, model)
    assert shapes(model)["v"] == [2, 3, 1, 1]


def test_an_unsqueeze_before_the_channels_is_refused(text_graph) -> None:
    model = text_graph(
        "g (float[N,4,4,4] x) => (float[N,1,4,4,4] y) { a = Conv(x, w) y = Unsqueeze(a, axes) }",
        w=conv(4, 4, seed=1, dead=[1]), axes=np.array(1, np.int64),
    )  # fmt: skip
    assert_untouched(model, "its axes are not known to be behind the channels")


def test_a_product_of_matrices_becomes_a_gemm_where_it_needs_a_bias(text_graph, run_pass) -> None:
    model = text_graph(
        "g (float[N,3] x) => (float[N,5] y) { c = MatMul(x, w) a = Sigmoid(c) y = MatMul(a, v) }",
        w=floats(3, 6) * np.float32([1, 0, 1, 1, 0, 1]), v=floats(6, 5, seed=2),
    )  # fmt: skip
    strip(run_pass, model)
    assert operators(model) == ["MatMul", "Sigmoid", "Gemm"]
    assert shapes(model)["w"] == [3, 4]


def test_a_product_with_more_axes_is_refused(text_graph) -> None:
    model = text_graph(
        "g (float[N,7,3] x) => (float[N,7,5] y) { c = MatMul(x, w) y = MatMul(c, v) }",
        w=floats(3, 6) * np.float32([1, 0, 1, 1, 0, 1]), v=floats(6, 5, seed=2),
    )  # fmt: skip
    assert_untouched(model)


@pytest.mark.parametrize("group", [1, 2])
def test_transposed_convolutions_make_and_read_channels(text_graph, run_pass, group: int) -> None:
    weight = floats(4, 4 // group, 2, 2, seed=1)
    weight[:, 1] = 0
    reader = floats(4, 2 // group, 2, 2, seed=2)
    model = text_graph(
        f"g (float[N,4,2,2] x) => (float[N,2,8,8] y) {{"
        f"a = ConvTranspose<group = {group}, strides = [2, 2]>(x, w) r = Relu(a)"
        f"y = ConvTranspose<group = {group}, strides = [2, 2]>(r, v) }}",
        w=weight, v=reader,
    )  # fmt: skip
    strip(run_pass, model)
    assert shapes(model)["v"][0] == 4 - group


def test_a_constant_before_a_transposed_convolution_stays(text_graph) -> None:
    model = text_graph(
        "g (float[N,4,4,4] x) => (float[N,2,5,5] y)"
        "{ a = Conv(x, w, b) y = ConvTranspose(a, v) }",
        w=conv(4, 4, seed=1, dead=[1]), b=np.ones(4, np.float32), v=floats(4, 2, 2, 2, seed=2),
    )  # fmt: skip
    assert_untouched(model, "y pads, and sees zeros at the border")


def test_the_filters_of_a_depthwise_convolution_with_several_for_each_channel(
    text_graph, run_pass
) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) d = Conv<group = 4>(a, k) y = Conv(d, v) }}",
        w=conv(4, 4, seed=1), k=floats(8, 1, 1, 1, seed=2), v=conv(2, 8, seed=3, unread=[2, 3, 4]),
    )  # fmt: skip
    strip(run_pass, model)
    assert [shapes(model)[name][:2] for name in "wkv"] == [[3, 4], [6, 1], [2, 6]]


def test_what_a_normalization_multiplies_by_zero_is_not_needed(text_graph, run_pass) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) n = BatchNormalization(a, s, b, m, q) r = Relu(n)"
        "y = Conv(r, v) }",
        w=conv(4, 4, seed=1), s=np.float32([1, 0, 2, 0]), b=floats(4, seed=2), m=floats(4, seed=3),
        q=np.ones(4, np.float32), v=conv(2, 4, seed=4),
    )  # fmt: skip
    strip(run_pass, model)
    assert shapes(model)["w"] == [2, 4, 1, 1]


def test_a_value_that_a_subgraph_reads_stays(text_graph) -> None:
    model = text_graph(
        "g (float[1,4,4,4] x, bool z) => (float[1,4,4,4] y, float[1,2,4,4] p)"
        "{ a = Conv(x, w) p = Conv(a, v) y = If (z) <then_branch = t () => (float[1,4,4,4] e)"
        "{ e = Neg(a) }, else_branch = f () => (float[1,4,4,4] h) { h = Abs(a) }> }",
        w=conv(4, 4, seed=1, dead=[1]), v=conv(2, 4, seed=3),
    )  # fmt: skip
    reasons = StripZeroChannels()
    reasons(model)
    assert shapes(model)["w"] == [4, 4, 1, 1]
    assert "reads them in a subgraph" in reasons.refusals[0].reason


def test_weights_of_a_quantized_graph_stay(text_graph) -> None:
    codes = np.ones((4, 4, 1, 1), np.int8)
    codes[1] = 0
    model = text_graph(
        f"{HEAD} {{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"
        "k = DequantizeLinear(w, s, z) a = Conv(d, k) r = QuantizeLinear(a, s, z)"
        "e = DequantizeLinear(r, s, z) y = Conv(e, v) }",
        s=np.float32(0.1), z=np.int8(0), w=codes, v=conv(2, 4, seed=3),
    )  # fmt: skip
    assert_untouched(model)


def test_the_report_tells_channels_and_macs_of_each_layer(text_graph) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) b = Conv<group = 4>(a, k) y = Conv(b, v) }}",
        w=conv(4, 4, seed=1, dead=[1]), k=floats(4, 1, 1, 1, seed=2), v=conv(2, 4, seed=3),
    )  # fmt: skip
    transform = StripZeroChannels()
    transform(model)
    assert [(change.node, change.what) for change in transform.done] == [
        ("a", "outputs 4 to 3, MACs 256 to 192"),
        ("b", "inputs 4 to 3, outputs 4 to 3, MACs 64 to 48"),
        ("y", "inputs 4 to 3, MACs 128 to 96"),
    ]


def wide_dense(text_graph: Any, side: int, unread: Any) -> ir.Model:
    """A layer of 512 filters that does not read some channels of a map that another reads."""
    random = np.random.default_rng(0)
    narrow = random.standard_normal((512, 16, 1, 1)).astype(np.float32)
    narrow[:, list(unread)] = 0
    return text_graph(
        f"g (float[N,8,{side},{side}] x) => (float[N,512,{side},{side}] y)"
        "{ a = Conv(x, w) b = Conv(a, u) c = Concat<axis = 1>(a, b) n = Relu(c) y = Conv(n, v) }",
        w=random.standard_normal((8, 8, 1, 1)).astype(np.float32),
        u=random.standard_normal((8, 8, 1, 1)).astype(np.float32), v=narrow,
    )  # fmt: skip


def test_channels_are_parted_from_a_value_where_that_saves_more_than_it_copies(
    text_graph, run_pass
) -> None:
    model = wide_dense(text_graph, 32, [0, 2, 3, 5, 7])
    strip(run_pass, model)
    assert operators(model) == ["Conv", "Conv", "Gather", "Concat", "Relu", "Conv"]
    assert shapes(model)["v"] == [512, 11, 1, 1]


@pytest.mark.parametrize(("side", "unread"), [(32, [0]), (4, [0, 2, 3, 5, 7])])
def test_channels_are_not_parted_where_that_copies_more_than_it_saves(
    text_graph, side: int, unread: Any
) -> None:
    assert_untouched(wide_dense(text_graph, side, unread), "others need them")


def test_a_gather_of_channels_takes_the_same_from_fewer(text_graph, run_pass) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) s = Gather<axis = 1>(a, which) y = Conv(s, v) }}",
        which=np.array([3, 0, -1]), w=conv(4, 4, seed=1), v=conv(2, 3, seed=3),
    )  # fmt: skip
    strip(run_pass, model)
    assert shapes(model)["w"] == [2, 4, 1, 1]
    assert operators(model) == ["Conv", "Gather", "Conv"]


def test_a_gather_of_all_that_is_left_goes(text_graph, run_pass) -> None:
    model = text_graph(
        f"{HEAD} {{ a = Conv(x, w) s = Gather<axis = 1>(a, which) y = Conv(s, v) }}",
        which=np.array([0, 2, 3]), w=conv(4, 4, seed=1), v=conv(2, 3, seed=3),
    )  # fmt: skip
    strip(run_pass, model)
    assert operators(model) == ["Conv", "Conv"]
