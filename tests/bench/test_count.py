"""Counts worked out by hand, and the same counts in every form that a weight can take."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.bench.count import count
from edgekit.bench.roles import Role
from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.preprocessing import Preprocessing

Graph = Callable[..., ir.Model]

HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"

CONV = f"""
{HEAD}
agraph (float[batch, 2, 4, 4] x) => (float[batch, 3, 4, 4] y)
{{
    y = Conv <pads = [1, 1, 1, 1]> (x, w, b)
}}
"""


def weights(zeros: int = 5) -> NDArray[np.float32]:
    weight = np.arange(1, 55, dtype=np.float32).reshape(3, 2, 3, 3)
    weight.reshape(-1)[:zeros] = 0
    return weight


BIAS = np.array([1, 0, 2], np.float32)


def test_conv_by_hand(graph: Graph) -> None:
    counts = count(graph(CONV, w=weights(), b=BIAS))
    assert (counts.params, counts.nonzero) == (54 + 3, 49 + 2)
    assert (counts.macs, counts.effective_macs) == (16 * 54, 16 * 49)
    assert counts.stored_bits == 57 * 32
    assert counts.peak_activation_bytes == (2 * 16 + 3 * 16) * 4
    (node,) = counts.nodes
    assert (node.name, node.op_type, node.output_shape) == ("y", "Conv", (1, 3, 4, 4))
    assert (node.params, node.nonzero, node.macs, node.effective_macs) == (57, 51, 864, 784)
    assert (node.weight_bits, node.activation_bits, node.has_bias) == (32, 32, True)
    assert (counts.uncounted_ops, counts.precision) == ((), "fp32")


def test_the_collector_is_left_as_it_was(graph: Graph) -> None:
    count(graph(CONV, w=weights(), b=BIAS))
    assert gc.isenabled()
    with pytest.raises(ModelFileError):
        count(graph(CONV, w=weights(), b=BIAS), {"nope": (1,)})
    assert gc.isenabled()


def test_the_model_is_left_as_it_was(graph: Graph) -> None:
    model = graph(CONV, w=weights(), b=BIAS)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    count(model, {"x": (5, 2, 4, 4)})
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


QUANTIZED = f"""
{HEAD}
agraph (float[batch, 2, 4, 4] x) => (float[batch, 3, 4, 4] y)
<float xs = {{0.1}}, uint8 xz = {{128}}>
{{
    xq = QuantizeLinear (x, xs, xz)
    xd = DequantizeLinear (xq, xs, xz)
    wd = DequantizeLinear <axis = 0> (w, ws, wz)
    bd = DequantizeLinear <axis = 0> (b, bs)
    yf = Conv <pads = [1, 1, 1, 1]> (xd, wd, bd)
    yq = QuantizeLinear (yf, xs, xz)
    y = DequantizeLinear (yq, xs, xz)
}}
"""


def quantized_conv(graph: Graph, dtype: type[np.generic], zero_points: list[int]) -> ir.Model:
    points = np.array(zero_points, dtype)
    return graph(
        QUANTIZED,
        w=(weights() + points.reshape(3, 1, 1, 1)).astype(dtype),
        ws=np.array([0.5, 1, 2], np.float32),
        wz=points,
        b=BIAS.astype(np.int32),
        bs=np.array([1, 1, 1], np.float32),
    )


@pytest.mark.parametrize("zero_points", [[0, 0, 0], [3, 3, 3], [1, 2, 3]])
def test_a_code_is_zero_where_it_equals_the_zero_point_of_its_channel(
    graph: Graph, zero_points: list[int]
) -> None:
    counts = count(quantized_conv(graph, np.int8, zero_points))
    assert (counts.params, counts.nonzero) == (57, 51)
    assert (counts.macs, counts.effective_macs) == (864, 784)
    scales_and_zero_points = 32 + 8 + 3 * 32 + 3 * 8 + 3 * 32
    assert counts.stored_bits == 54 * 8 + 3 * 32 + scales_and_zero_points
    conv = next(node for node in counts.nodes if node.op_type == "Conv")
    assert (conv.weight_bits, conv.activation_bits, counts.precision) == (8, 8, "int8")


def test_a_code_of_zero_is_no_zero_under_another_zero_point(graph: Graph) -> None:
    model = quantized_conv(graph, np.int8, [0, 0, 0])
    model.graph.initializers["wz"].const_value = ir.tensor(np.array([7, 7, 7], np.int8))
    assert count(model).effective_macs != 784


def test_quantized_activations_count_at_their_own_width(graph: Graph) -> None:
    counts = count(quantized_conv(graph, np.int8, [0, 0, 0]))
    # the conversions at both ends: float input beside its 8-bit copy, 8-bit output has its
    # float copy's buffer
    assert counts.peak_activation_bytes == 32 * 4 + 32


def test_zero_points_of_a_transposed_weight_stay_on_their_axis(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[batch, 4] x) => (float[batch, 3] y)
    {{
        wd = DequantizeLinear <axis = 0> (w, ws, wz)
        wt = Transpose <perm = [1, 0]> (wd)
        y = MatMul (x, wt)
    }}
    """
    codes = np.array([[1, 1, 2, 3], [2, 2, 2, 1], [3, 4, 5, 6]], np.int8)
    model = graph(text, w=codes, ws=np.ones(3, np.float32), wz=np.array([1, 2, 3], np.int8))
    counts = count(model)
    assert (counts.params, counts.nonzero) == (12, 2 + 1 + 3)
    assert (counts.macs, counts.effective_macs) == (12, 6)


def test_four_bit_weights_count_four_bits(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[batch, 4] x) => (float[batch, 2] y)
    <float s = {{0.5}}>
    {{
        wd = DequantizeLinear (w, s)
        y = MatMul (x, wd)
    }}
    """
    model = graph(text)
    proto = ir.to_proto(model)
    codes = np.array([0, 1, 2, -3, 0, 5, -8, 7])
    proto.graph.initializer.append(
        onnx.helper.make_tensor("w", onnx.TensorProto.INT4, (4, 2), codes)
    )
    counts = count(ir.from_proto(proto))
    assert (counts.params, counts.nonzero, counts.stored_bits) == (8, 6, 8 * 4 + 32)
    assert counts.effective_macs == 6
    assert counts.nodes[-1].weight_bits == 4


def test_half_storage_counts_like_float_and_multiplies_at_32_bits(graph: Graph) -> None:
    text = CONV.replace(
        "y = Conv <pads = [1, 1, 1, 1]> (x, w, b)",
        "wf = Cast <to = 1> (w) bf = Cast <to = 1> (b) y = Conv <pads=[1, 1, 1, 1]> (x, wf, bf)",
    )
    counts = count(graph(text, w=weights().astype(np.float16), b=BIAS.astype(np.float16)))
    assert (counts.params, counts.nonzero, counts.stored_bits) == (57, 51, 57 * 16)
    assert (counts.macs, counts.effective_macs) == (864, 784)
    assert counts.nodes[-1].weight_bits == 32
    assert counts.precision == "fp16-storage"
    assert counts.peak_activation_bytes == (2 * 16 + 3 * 16) * 4


def test_a_precision_that_no_tensor_bears_out_is_not_believed(graph: Graph) -> None:
    model = graph(CONV, w=weights(), b=BIAS)
    model.metadata_props["edgekit.precision"] = "int8"
    assert count(model).precision == "fp32"
    arrays = {"w": weights().astype(np.float16), "b": BIAS.astype(np.float16)}
    half = graph(CONV.replace("float[", "float16["), **arrays)
    half.metadata_props["edgekit.precision"] = "noted"
    assert count(half).precision == "noted"


def test_half_precision_multiplies_at_16_bits(graph: Graph) -> None:
    model = graph(
        CONV.replace("float[", "float16["),
        w=weights().astype(np.float16),
        b=BIAS.astype(np.float16),
    )
    counts = count(model)
    assert (counts.nodes[0].weight_bits, counts.nodes[0].activation_bits) == (16, 16)
    assert (counts.precision, counts.peak_activation_bytes) == ("fp16", 80 * 2)


def test_weights_in_constants_and_quantized_at_run_time_are_found(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[batch, 2] x) => (float[batch, 2] y)
    <float s = {{1.0}}, int8 z = {{0}}>
    {{
        w = Constant <value = float[2, 2] {{0.2, 3.0, 4.0, 0.0}}> ()
        q = QuantizeLinear (w, s, z)
        d = DequantizeLinear (q, s, z)
        y = MatMul (x, d)
    }}
    """
    counts = count(graph(text))
    assert (counts.params, counts.nonzero) == (4, 2)  # 0.2 rounds to the zero point
    assert counts.effective_macs == 2
    assert counts.stored_bits == 4 * 32 + 32 + 8


def test_a_constant_of_shape_counts_what_it_stands_for(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[batch, 2] x) => (float[batch, 3] y)
    <int64[2] shape = {{2, 3}}>
    {{
        w = ConstantOfShape <value = float[1] {{0.5}}> (shape)
        y = MatMul (x, w)
    }}
    """
    counts = count(graph(text))
    assert (counts.params, counts.nonzero, counts.stored_bits) == (6, 6, 32)


def test_a_weight_used_twice_counts_once(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[batch, 3] x) => (float[batch, 3] y)
    {{
        a = MatMul (x, w)
        y = MatMul (a, w)
    }}
    """
    counts = count(graph(text, w=np.ones((3, 3), np.float32)))
    assert (counts.params, counts.macs) == (9, 18)
    assert [node.params for node in counts.nodes] == [9, 0]


def test_only_learned_values_are_parameters(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[batch, 2, 4, 4] x) => (float[batch, 32] y)
    <float low = {{0.0}}, float high = {{6.0}}, float half = {{0.5}}, int64[2] shape = {{-1, 32}}>
    {{
        n = BatchNormalization (x, scale, shift, mean, var)
        p = PRelu (n, slope)
        t = Max (p, threshold)
        c = Clip (t, low, high)
        h = Mul (c, half)
        y = Reshape (h, shape)
    }}
    """
    two = np.array([1, 2], np.float32)
    column = two.reshape(2, 1, 1)
    model = graph(text, scale=two, shift=two, mean=two, var=two, slope=column, threshold=column)
    counts = count(model)
    assert counts.params == 4 * 2 + 2 + 2
    assert counts.stored_bits == (12 + 3) * 32
    roles = {parameter.name: parameter.role for parameter in counts.parameters}
    assert roles["half"] is Role.CONSTANT
    assert roles["shape"] is Role.STRUCTURE


DYNAMIC = f"""
{HEAD}
agraph (float[batch, 4] x) => (float[batch, 2] y)
<int8 wz = {{0}}>
{{
    xq, xs, xz = DynamicQuantizeLinear (x)
    yi = MatMulInteger (xq, w, xz, wz)
    yf = Cast <to = 1> (yi)
    s = Mul (xs, ws)
    ys = Mul (yf, s)
    y = Add (ys, b)
}}
"""


def test_dynamic_quantization_counts_its_scales_as_scales(graph: Graph) -> None:
    counts = count(
        graph(
            DYNAMIC,
            w=np.array([[0, 1], [2, 0], [3, 4], [5, 6]], np.int8),
            ws=np.array([0.5, 0.25], np.float32),
            b=np.array([1, 2], np.float32),
        )
    )
    assert (counts.params, counts.nonzero) == (8 + 2, 6 + 2)
    assert (counts.macs, counts.effective_macs, counts.precision) == (8, 6, "dynamic-int8")


def test_bodies_and_functions_are_entered(graph: Graph) -> None:
    text = f"""
    {HEAD[:-1].replace('"com.microsoft"', '"local" : 1, "com.microsoft"')}>
    agraph (float[batch, 3] x, bool c) => (float[batch, 3] y)
    <int64 trips = {{4}}, bool on = {{1}}>
    {{
        a = If (c) <
            then_branch = yes () => (float[batch, 3] r) {{ r = MatMul (x, w) }},
            else_branch = no () => (float[batch, 3] r) {{ r = Identity (x) }}
        >
        b = Loop (trips, on, a) <
            body = step (int64 i, bool k, float[batch, 3] v) => (bool l, float[batch, 3] u)
            {{ l = Identity (k) u = MatMul (v, w) }}
        >
        d = local.twice (b)
        y = local.twice (d)
    }}
    <domain: "local", opset_import: ["" : 21]>
    twice (p) => (q)
    {{
        k = Constant <value = float[3, 3] {{1, 2, 3, 4, 5, 6, 7, 8, 0}}> ()
        m = MatMul (p, k)
        q = MatMul (m, k)
    }}
    """
    counts = count(graph(text, w=np.ones((3, 3), np.float32)))
    assert counts.macs == 9 + 4 * 9 + 4 * 9
    assert counts.effective_macs == 9 + 4 * 9 + 4 * 8
    assert (counts.params, counts.nonzero) == (18, 17)
    assert counts.uncounted_ops == ()


@pytest.mark.parametrize("swapped", [False, True])
def test_of_branches_with_equal_macs_the_one_with_more_operations_runs(
    graph: Graph, swapped: bool
) -> None:
    names = ("else_branch", "then_branch") if swapped else ("then_branch", "else_branch")
    text = f"""
    {HEAD}
    agraph (float[batch, 3] x, bool c) => (float[batch, 3] y)
    {{
        y = If (c) <
            {names[0]} = a () => (float[batch, 3] r) {{ r = Identity (x) }},
            {names[1]} = b () => (float[batch, 3] r) {{ r = Relu (x) }}
        >
    }}
    """
    runs = {node.op_type: node.runs for node in count(graph(text)).nodes}
    assert (runs["Identity"], runs["Relu"]) == (0, 1)


def test_the_cheaper_branch_does_not_run(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[batch, 3] x, bool c) => (float[batch, 3] y)
    {{
        y = If (c) <
            then_branch = yes () => (float[batch, 3] r) {{ a = MatMul (x, w) r = MatMul (a, w) }},
            else_branch = no () => (float[batch, 3] r) {{ r = MatMul (x, w) }}
        >
    }}
    """
    counts = count(graph(text, w=np.ones((3, 3), np.float32)))
    assert (counts.macs, counts.params) == (18, 9)
    assert [node.runs for node in counts.nodes] == [1, 1, 1, 0]


def test_what_has_no_rule_is_named(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[2, 3, 3] x) => (float[2] y)
    {{
        y = Det (x)
    }}
    """
    counts = count(graph(text))
    assert (counts.uncounted_ops, counts.macs) == (("Det",), 0)


OPEN = CONV.replace("[batch, 2, 4, 4]", "[batch, 2, h, wide]").replace(
    "[batch, 3, 4, 4]", "[batch, 3, h, wide]"
)


def test_open_axes_are_asked_for_by_the_node_that_needs_them(graph: Graph) -> None:
    with pytest.raises(ModelFileError, match=r"'y' \(Conv\).*--input-shape"):
        count(graph(OPEN, w=weights(), b=BIAS))


def test_sizes_that_the_graph_computes_are_computed(graph: Graph) -> None:
    """Half of the channels, by a division, as exporters write it."""
    text = f"""
    {HEAD}
    agraph (float[batch, 4, 4, 4] x) => (float[batch, 3, 4, 4] y)
    <int64 one = {{1}}, int64 two = {{2}}, int64[1] zero = {{0}}, int64[1] axis = {{1}}>
    {{
        sizes = Shape (x)
        channels = Gather (sizes, one)
        half = Div (channels, two)
        stop = Unsqueeze (half, zero)
        part = Slice (x, zero, stop, axis)
        y = Conv <pads = [1, 1, 1, 1]> (part, w, b)
    }}
    """
    counts = count(graph(text, w=weights(), b=BIAS))
    assert (counts.macs, counts.params, counts.uncounted_ops) == (864, 57, ())
    assert counts.peak_activation_bytes == 4 * (64 + 32)


def test_a_shape_that_cannot_be_inferred_is_taken_from_the_file(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[batch, 4] x) => (float[batch, 3] y)
    {{
        odd = local.unknown (x)
        y = MatMul (odd, w)
    }}
    """.replace('"com.microsoft" : 1', '"local" : 1')
    model = graph(text, w=np.ones((4, 3), np.float32))
    with pytest.raises(ModelFileError, match="cannot be inferred"):
        count(model)
    model.graph.node(0).outputs[0].shape = ir.Shape(["batch", 4])
    counts = count(model)
    assert (counts.macs, counts.uncounted_ops) == (12, ("local.unknown",))


@pytest.mark.parametrize(
    ("first", "size", "cause"),
    [
        ("Conv (x, w)", 1, "kernel"),
        ("Conv (x, w)", 2, "kernel"),
        ("MaxPool <kernel_shape = [3, 3]> (x)", 2, "kernel"),
        ("Pad (x, cut)", 1, "input"),
        ("Conv (x, w)", 3, ""),
        ("Pad (x, cut)", 2, ""),
    ],
)
def test_an_input_that_is_too_small_is_refused(
    graph: Graph, first: str, size: int, cause: str
) -> None:
    text = f"""
    {HEAD}
    agraph (float[n, 3, h, v] x) => (float[n, 3, p, q] y)
    <int64[8] cut = {{0, 0, -1, -1, 0, 0, -1, -1}}>
    {{ [first] a = {first} y = Relu (a) }}
    """
    model, shapes = graph(text, w=np.ones((3, 3, 3, 3), np.float32)), {"x": (1, 3, size, size)}
    if not cause:
        count(model, shapes)
        return
    with pytest.raises(ModelFileError, match=f"'first'.*its {cause} is.*give a larger --input"):
        count(model, shapes)


def test_open_axes_are_bound_by_input_shapes(graph: Graph) -> None:
    counts = count(graph(OPEN, w=weights(), b=BIAS), {"x": (1, 2, 4, 4)})
    assert counts.macs == 864


def test_open_axes_of_the_image_come_from_the_metadata(graph: Graph) -> None:
    model = graph(OPEN, w=weights()[:, :1], b=BIAS)
    model.metadata_props.update(Preprocessing(4, 4, (0.5,), (0.5,)).to_metadata())
    value = model.graph.inputs[0]
    value.shape = ir.Shape(["batch", 1, "h", "wide"])
    assert count(model).macs == 432


def test_figures_are_for_one_sample_of_a_fixed_batch(graph: Graph) -> None:
    model = graph(CONV.replace("[batch", "[8"), w=weights(), b=BIAS)
    counts = count(model)
    assert (counts.macs, counts.effective_macs) == (864, 784)
    assert counts.peak_activation_bytes == 320
    assert [node.output_shape for node in counts.nodes] == [(1, 3, 4, 4)]


def test_shapes_are_of_one_sample_of_a_fixed_batch(graph: Graph) -> None:
    """Also where the batch is merged into another axis; what is no sample's keeps its shape."""
    text = f"""
    {HEAD}
    agraph (float[4, 2, 4, 4] x) => (float[64, 8] y)
    <float s = {{0.5}}, int64[2] shape = {{64, 8}}>
    {{
        w = DequantizeLinear (q, s)
        c = Conv (x, w)
        size = Shape (c)
        y = Reshape (c, shape)
    }}
    """
    counts = count(graph(text, q=np.ones((8, 2, 1, 1), np.int8)))
    shapes = {node.name: node.output_shape for node in counts.nodes}
    assert (shapes["w"], shapes["c"]) == ((8, 2, 1, 1), (1, 8, 4, 4))
    assert (shapes["size"], shapes["y"]) == ((4,), (16, 8))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"nope": (1,)}, "no input 'nope'; it has x"),
        ({"x": (1, 2)}, "has 4 axes, 2 sizes"),
        ({"x": (1, 3, 4, 4)}, "axis 1 of 'x' is fixed to 2"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    graph: Graph, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        count(graph(CONV, w=weights(), b=BIAS), shapes)


def test_16_bit_pairs_of_the_contrib_domain_are_seen_through(graph: Graph) -> None:
    text = QUANTIZED.replace("QuantizeLinear", "com.microsoft.QuantizeLinear").replace(
        "DequantizeLinear", "com.microsoft.DequantizeLinear"
    )
    text = text.replace("Decom.microsoft.QuantizeLinear", "DequantizeLinear")
    text = text.replace("com.microsoft.com.microsoft.", "com.microsoft.").replace(
        "uint8 xz = {128}", "uint16 xz = {32768}"
    )
    counts = count(
        graph(
            text,
            w=weights().astype(np.int8),
            ws=np.ones(3, np.float32),
            wz=np.zeros(3, np.int8),
            b=BIAS.astype(np.int32),
            bs=np.ones(3, np.float32),
        )
    )
    conv = next(node for node in counts.nodes if node.op_type == "Conv")
    assert (conv.weight_bits, conv.activation_bits, counts.precision) == (8, 16, "int16")
    assert (counts.effective_macs, counts.nonzero) == (784, 51)


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("light_densenet121", 8_146_152, 2_834_161_664),
        ("light_resnet50", 25_610_152, 4_089_184_256),
        ("light_vgg19", 143_667_240, 19_632_062_464),
    ],
)
def test_models_whose_weights_are_all_constants_of_shape(name: str, params: int, macs: int) -> None:
    model = ir.from_proto(onnx.load(LIGHT / f"{name}.onnx"))
    start = time.process_time()
    counts = count(model)
    assert time.process_time() - start < 5  # a guard against materializing, not a benchmark
    assert (counts.params, counts.macs) == (params, macs)


@pytest.mark.parametrize(
    ("lookup", "index"),
    [("GatherND", [[1], [3]]), ("GatherElements <axis = 0>", [[1, 1, 0], [2, 0, 1]])],
)
def test_a_table_is_learned_however_it_is_looked_up(
    graph: Graph, lookup: str, index: list[list[int]]
) -> None:
    text = f"""
    {HEAD}
    agraph (int64[2, k] i) => (float[2, 3] y) {{ y = {lookup} (table, i) }}
    """.replace("k]", f"{len(index[0])}]")
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert (count(graph(text, table=table)).params, count(graph(text, table=table)).nonzero) == (
        12,
        11,
    )


def test_shapes_may_be_made_of_a_fill(graph: Graph) -> None:
    """Padding as torch's older exporter writes it: sizes out of a ConstantOfShape."""
    text = f"""
    {HEAD}
    agraph (float[batch, 4, 4, 4] x) => (float[batch, 3, h, w] y)
    <int64[1] eight = {{8}}, float none = {{0}}>
    {{
        rank = Shape (x)
        count = Shape (rank)
        pads = ConstantOfShape <value = int64[1] {{1}}> (eight)
        size = Mul (count, count)
        half = Div (pads, pads)
        none_yet = Sub (pads, half)
        padded = Pad (x, none_yet, none)
        y = Conv (padded, w, b)
    }}
    """
    assert count(graph(text, w=weights(), b=BIAS)).macs == 2 * 2 * 54


def test_sizes_are_computed_in_bodies_and_from_floats(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[batch, 2, 4, 4] x, bool c) => (float[batch, 3, h, w] y)
    {{
        y = If (c) <
            then_branch = t () => (float[batch, 3, h, w] ty)
            {{
                scales = Constant <value_floats = [1.0, 1.0, 0.5, 0.5]> ()
                sizes = Shape (x)
                floats = Cast <to = 1> (sizes)
                halves = Mul (floats, scales)
                wanted = Cast <to = 7> (halves)
                small = Resize (x, , , wanted)
                ty = Conv <pads = [1, 1, 1, 1]> (small, w, b)
            }},
            else_branch = e () => (float[batch, 3, h, w] ey)
            {{ ey = Conv <strides = [2, 2]> (x, w, b) }}
        >
    }}
    """
    assert count(graph(text, w=weights(), b=BIAS)).macs == 2 * 2 * 54
