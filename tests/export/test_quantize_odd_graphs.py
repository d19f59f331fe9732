"""Graphs of which a quantizer may lose a part: limits, factors, dead tensors, bodies of Ifs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.export.calibration import CalibrationReader
from edgekit.export.graph import session_source
from edgekit.export.passes.values import names
from edgekit.export.quantize import quantize
from edgekit.export.static_options import StaticOptions
from edgekit.export.verify import run_outputs
from edgekit.runtime.errors import InputError, ModelFileError
from edgekit.runtime.session import open_session

TextGraph = Callable[..., ir.Model]
Weights = dict[str, Any]

CLIPPED = """g (float[N, 4, 12, 12] x) => (float[N, 6, 10, 10] y) {
    a = Conv(x, w)
    b = Clip(a, low, high)
    y = Conv(b, v)
}"""
COMPUTED_LIMIT = """g (float[N, 4, 12, 12] x) => (float[N, 6, 10, 10] y) {
    low = ReduceMin<keepdims = 0>(x)
    a = Conv(x, w)
    b = Clip(a, low)
    y = Conv(b, v)
}"""
# What a body of the If reads, of a convolution and of its activation.
BODIES = """g (float[N, 4, 12, 12] x) => (float[N, 8, 10, 10] y) {
    s = ReduceSum<keepdims = 0>(x)
    positive = Greater(s, zero)
    a = Conv(x, w)
    r = Relu(a)
    y = If(positive) <
        then_branch = t () => (float[N, 8, 10, 10] t1) { t1 = Neg(READ) },
        else_branch = e () => (float[N, 8, 10, 10] e1) { e1 = Neg(READ) }
    >
}"""
# On all data the Relu gives zeros alone.
DEAD = """g (float[N, 4, 12, 12] x) => (float[N, 6, 10, 10] y) {
    p = Relu(x)
    a = Conv(p, w, b)
    dead = Relu(a)
    y = Conv(dead, v, c)
}"""
DEAD_SUM = """g (float[N, 4, 12, 12] x) => (float[N, 6, 10, 10] y) {
    p = Relu(x)
    a = Conv(p, w, b)
    dead = Relu(a)
    d = Conv(p, u)
    e = Add(dead, d)
    y = Conv(e, v)
}"""
FACTORS = """g (float[N, 16] x) => (float[N, 5] y) {
    h = Gemm<alpha = 0.5, beta = 2.0>(x, w, b)
    r = Relu(h)
    y = Gemm<beta = 0.5>(r, v, c)
}"""
PRODUCTS = """g (float[N, 16] x) => (float[N, 5] y) {
    h = MatMul(x, w)
    a = Add(h, b)
    r = Relu(a)
    y = MatMul(r, v)
}"""
TRANSPOSED = """g (float[N, 4, 8, 8] x) => (float[N, 6, 10, 10] y) {
    r = Relu(x)
    y = ConvTranspose<group = 2>(INPUTS)
}"""
# The second range is wider, so that the first is not clipped by it at either end.
WIDER = """g (float[N, 4, 12, 12] x) => (float[N, 6, 10, 10] y) {
    a = Conv(x, w)
    c = Clip(a, low, high)
    d = Conv(x, u)
    e = Concat<axis = 1>(c, d)
    y = Conv(e, v)
}"""
THRESHOLD = """g (float[N, 4, 12, 12] x) => (float[N, 6, 10, 10] y) {
    a = Conv(x, w)
    t = Max(a, limits)
    y = Conv(t, v)
}"""
SHARED_WEIGHT = """g (float[N, 4, 12, 12] x) => (float[N, 4, 10, 10] y) {
    a = Conv<group = 2>(x, w)
    b = Conv<group = 2, pads = [1, 1, 1, 1]>(x, w)
    c = Conv<group = 2, pads = [1, 1, 1, 1]>(b, w)
    d = Conv<group = 2>(c, w)
    y = Add(a, d)
}"""
TIED_GEMMS = """g (float[N, 16] x) => (float[N, 16] y) {
    a = Gemm(x, w, b)
    r = Relu(a)
    y = Gemm<transB = 1>(r, w, c)
}"""
TIED_CONVS = """g (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w)
    r = Relu(a)
    y = ConvTranspose<pads = [1, 1, 1, 1]>(r, w)
}"""
TIED_TRANSPOSED = """g (float[N, 16] x) => (float[N, 16] y) {
    a = MatMul(x, w)
    r = Relu(a)
    t = Transpose<perm = [1, 0]>(w)
    y = MatMul(r, t)
}"""
WEIGHT_IN_BODY = """g (float[N, 16] x) => (float[N, 16] y) {
    s = ReduceSum<keepdims = 0>(x)
    positive = Greater(s, zero)
    a = MatMul(x, w)
    r = Relu(a)
    y = If(positive) <
        then_branch = t () => (float[N, 16] t1) { t1 = Neg(r) },
        else_branch = e () => (float[N, 16] e1) { e1 = MatMul(r, w) }
    >
}"""
READ_BIAS = """g (float[N, 4, 10, 10] x) => (float[N, 8, 8, 8] y) {
    a = Conv(x, w, b)
    c = Reshape(b, shape)
    y = Add(a, c)
}"""
# Named as onnxruntime's quantizers name what they add.
NAMED_CONSTANTS = """g (float[N, 4, 10, 10] x) => (float[N, 8, 8, 8] y) {
    a = Mul(x, x_scale)
    b = Conv(a, w, w_scale)
    c = Conv(a, v, v_zero_point)
    d = Conv(a, u, u_quantized)
    e = Add(b, c)
    f = Add(e, d)
    y = Relu(f)
}"""
NAMED_RESULTS = """g (float[N, 4, 10, 10] x) => (float[N, 8, 8, 8] y) {
    x_QuantizeLinear_Output = Relu(x)
    x_DequantizeLinear_Output = Conv(x_QuantizeLinear_Output, w)
    x_scale = Relu(x_DequantizeLinear_Output)
    x_scale_quantized = Mul(x_scale, x_scale_zero_point)
    y = Sigmoid(x_scale_quantized)
}"""
NAMED_OUTPUT = """g (float[N, 4, 10, 10] x) => (float[N, 8, 8, 8] y, float[N, 8, 8, 8] x_scale) {
    x_scale = Conv(x, w)
    y = Relu(x_scale)
}"""
COMPUTED_WEIGHT = """g (float[N, 4, 12, 12] x) => (float[N, 8, 10, 10] y) {
    k = Mul(w, two)
    y = Conv(x, k, b)
}"""

SEVERAL_MATRICES = """g (float[N, 3, 8, 16] x) => (float[N, 3, 8, 5] y) {
    a = Relu(x)
    b = MatMul(a, w)
    c = Relu(b)
    y = MatMul(c, v)
}"""
ROW = """g (float[N, 8, 16] x) => (float[N, 8] y) {
    a = Relu(x)
    y = MatMul(a, w)
}"""
BIAS_OF_ROWS = """g (float[32, 16] x) => (float[32, 5] y) {
    a = Relu(x)
    y = Gemm<beta = 2.0>(a, w, c)
}"""
POOLED = """g (float[N, 4, 12, 12] x) => (float[N, 4, H, W] y) {
    a = Conv(x, w)
    r = Relu(a)
    p = AveragePool<ATTRIBUTES>(r)
    y = Conv(p, v)
}"""
CUBIC = """g (float[N, 4, 12, 12] x) => (float[N, 6, 20, 20] y) {
    a = Conv(x, w)
    r = Relu(a)
    s = Resize<mode = "cubic">(r, , scales)
    y = Conv(s, v)
}"""
LOWEST_AROUND = """g (float[N, 4, 12, 12] x) => (float[N, 6, 5, 5] y) {
    a = Conv(x, w)
    p = Pad(a, pads, lowest)
    m = MaxPool<kernel_shape = [2, 2], dilations = [2, 2], strides = [2, 2]>(p)
    y = Conv(m, v)
}"""
MASKED = """g (float[N, 8, 16] x) => (float[N, 8, 16] y) {
    a = MatMul(x, w)
    t = Transpose<perm = [0, 2, 1]>(a)
    b = MatMul(a, t)
    c = Add(b, mask)
    s = Softmax<axis = -1>(c)
    y = MatMul(s, a)
}"""


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape) + sum(shape)).normal(size=shape).astype(np.float32)


CONVS = {"w": normal(8, 4, 3, 3), "v": normal(6, 8, 1, 1)}
NEGATIVE = {"w": -abs(normal(8, 4, 3, 3)), "v": normal(6, 8, 1, 1), "b": -np.ones(8, np.float32)}
GEMMS = {"w": normal(16, 16), "v": normal(16, 5), "b": normal(16), "c": normal(1, 5)}

# Of columns that reach unlike far, so that scales along another axis would be far off.
UNLIKE = np.exp2(np.arange(16) % 7 - 3).astype(np.float32)
NAMED_WEIGHTS = {
    **{name: normal(8, 4, 3, 3) for name in "wvu"},
    **{name: normal(8) for name in ("w_scale", "v_zero_point", "u_quantized")},
    "x_scale": np.float32(3),
}


def limits(low: float, high: float) -> Weights:
    return {"low": np.float32(low), "high": np.float32(high)}


CASES = {
    "a limit above zero": (CLIPPED, CONVS | limits(2, 6)),
    "a limit below zero": (CLIPPED, CONVS | limits(-1, -0.25)),
    "a computed limit": (COMPUTED_LIMIT, CONVS),
    "a body reads the activation": (
        BODIES.replace("READ", "r"),
        {"w": CONVS["w"], "zero": np.float32(0)},
    ),
    "a body reads what it reads": (
        BODIES.replace("READ", "a"),
        {"w": CONVS["w"], "zero": np.float32(0)},
    ),
    "zeros alone": (DEAD, NEGATIVE | {"c": 0.02 * normal(6)}),
    "zeros alone in a sum": (DEAD_SUM, NEGATIVE | {"u": normal(8, 4, 3, 3)}),
    "factors": (FACTORS, GEMMS),
    "a bias of one number": (FACTORS, GEMMS | {"b": normal(1), "c": normal(1, 1)}),
    "no layer with a bias": (PRODUCTS, {name: GEMMS[name] for name in "wvb"}),
    "groups turned round": (TRANSPOSED.replace("INPUTS", "r, w"), {"w": normal(4, 3, 3, 3)}),
    "groups turned round, biased": (
        TRANSPOSED.replace("INPUTS", "r, w, b"),
        {"w": normal(4, 3, 3, 3), "b": normal(6)},
    ),
    "limits within a wider range": (
        WIDER,
        {"w": CONVS["w"], "u": 3 * normal(8, 4, 3, 3), "v": normal(6, 16, 1, 1)} | limits(-1, 1),
    ),
    "limits with a batch axis": (THRESHOLD, CONVS | {"limits": 0.1 * normal(1, 8, 1, 1)}),
    "one weight for four layers": (SHARED_WEIGHT, {"w": normal(4, 2, 3, 3)}),
    "one weight along two axes": (
        TIED_GEMMS,
        {"w": normal(16, 16) * UNLIKE, "b": normal(16), "c": normal(16)},
    ),
    "one weight for two kinds of layers": (
        TIED_CONVS,
        {"w": normal(8, 8, 3, 3) * UNLIKE[:8, None, None]},
    ),
    "a weight that is transposed too": (TIED_TRANSPOSED, {"w": normal(16, 16) * UNLIKE}),
    "a body reads the weight": (WEIGHT_IN_BODY, {"w": normal(16, 16), "zero": np.float32(9999)}),
    "a bias that is read too": (
        READ_BIAS,
        {"w": CONVS["w"], "b": normal(8), "shape": np.array([8, 1, 1], np.int64)},
    ),
    "constants' names": (NAMED_CONSTANTS, NAMED_WEIGHTS),
    "results' names": (NAMED_RESULTS, {"w": CONVS["w"], "x_scale_zero_point": np.float32(2)}),
    "an output's name": (NAMED_OUTPUT, {"w": CONVS["w"]}),
    "a computed weight": (
        COMPUTED_WEIGHT,
        {"w": CONVS["w"], "two": np.float32(2), "b": normal(8)},
    ),
    "several matrices": (SEVERAL_MATRICES, {"w": normal(3, 16, 10), "v": normal(10, 5)}),
    "a row": (ROW, {"w": normal(16)}),
    "a bias of rows": (BIAS_OF_ROWS, {"w": normal(16, 5), "c": normal(32, 5)}),
    "a bias of a column": (BIAS_OF_ROWS, {"w": normal(16, 5), "c": normal(32, 1)}),
    "a pool that rounds up": (
        POOLED.replace(
            "ATTRIBUTES",
            "kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1, count_include_pad = 1",
        ),
        {"w": CONVS["w"], "v": normal(4, 8, 1, 1)},
    ),
    "a pool with gaps": (
        POOLED.replace("ATTRIBUTES", "kernel_shape = [2, 2], dilations = [2, 2]"),
        {"w": CONVS["w"], "v": normal(4, 8, 1, 1)},
    ),
    "a cubic resize": (CUBIC, CONVS | {"scales": np.array([1, 1, 2, 2], np.float32)}),
    "the lowest number around a maximum": (
        LOWEST_AROUND,
        CONVS | {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "lowest": np.finfo(np.float32).min},
    ),
    "a mask": (
        MASKED,
        {
            "w": 0.1 * normal(16, 16),
            "mask": np.triu(np.full((8, 8), -1e9, np.float32), 1),
        },
    ),
}
# The operators that stay float32.
LEFT = {
    "a pool that rounds up": {"AveragePool"},
    "a pool with gaps": {"AveragePool"},
    "a cubic resize": {"Resize"},
    "the lowest number around a maximum": {"Pad", "MaxPool"},
    "a mask": {"Add", "Softmax"},
}


def fused_outputs(model: ir.Model, batch: Weights) -> dict[str, np.ndarray]:
    with session_source(model) as source:
        session = open_session(source)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, batch), strict=True))


def snr_db(
    text_graph: TextGraph, case: str, precision: str, *, fused: bool = False, **options: Any
) -> float:
    """Signal-to-noise ratio of the converted model's output, computed with fusions or without."""
    text, weights = CASES[case]
    model = text_graph(text, **weights)
    shape = [side if isinstance(side, int) else 32 for side in model.graph.inputs[0].shape or ()]
    batch = {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}
    reader = CalibrationReader.from_feeds([batch])
    found = quantize(model, precision, reader=reader, static=StaticOptions(**options)).model
    run = fused_outputs if fused else run_outputs
    before, after = (run(one, batch)["y"].astype(np.float64) for one in (model, found))
    assert before.shape == after.shape
    noise = float(((after - before) ** 2).sum())
    return 10 * math.log10(float((before**2).sum()) / noise) if noise else math.inf


@pytest.mark.parametrize("precision", ["int8", "int16"])
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_lost(text_graph: TextGraph, case: str, precision: str) -> None:
    assert snr_db(text_graph, case, precision) > 30


@pytest.mark.parametrize("case", [case for case in CASES if "weight" in case])
def test_fused_operators_read_the_right_weights(text_graph: TextGraph, case: str) -> None:
    # Of 8 bits the sums of a processor without VNNI could saturate.
    assert snr_db(text_graph, case, "int8", fused=True, reduce_range=True) > 25


@pytest.mark.parametrize("precision", ["int8", "int16"])
@pytest.mark.parametrize("case", LEFT)
def test_what_codes_do_not_suit_stays_float_and_says_why(
    text_graph: TextGraph, case: str, precision: str
) -> None:
    text, weights = CASES[case]
    model = text_graph(text, **weights)
    shape = [side if isinstance(side, int) else 8 for side in model.graph.inputs[0].shape or ()]
    reader = CalibrationReader.from_feeds([{"x": normal(*shape)}])
    left = quantize(model, precision, reader=reader).report.left
    computed = {"AveragePool"} if precision == "int16" else set()  # in floats then
    assert {one.op_type for one in left} == LEFT[case] - computed
    assert "its input is float32" not in {one.reason for one in left}
    # onnxruntime would find an integer kernel for some of them even so
    assert snr_db(text_graph, case, precision, fused=True, reduce_range=True) > 25


@pytest.mark.parametrize("case", ["zeros alone", "zeros alone in a sum"])
def test_zeros_alone_are_clipped_in_signed_codes_too(text_graph: TextGraph, case: str) -> None:
    assert snr_db(text_graph, case, "int8", activations="QInt8") > 30


@pytest.mark.parametrize("case", ["constants' names", "results' names", "an output's name"])
def test_dynamic_quantization_keeps_its_names_apart(text_graph: TextGraph, case: str) -> None:
    assert snr_db(text_graph, case, "dynamic-int8") > 30


@pytest.mark.parametrize("precision", ["int8", "dynamic-int8"])
@pytest.mark.parametrize("case", ["results' names", "an output's name"])
def test_names_that_were_apart_come_back(text_graph: TextGraph, case: str, precision: str) -> None:
    text, weights = CASES[case]
    batch = {"x": normal(32, 4, 10, 10)}
    reader = CalibrationReader.from_feeds([batch])
    found = quantize(text_graph(text, **weights), precision, reader=reader).model
    known = names(found)
    assert known >= {"x", "y", "x_scale"}
    assert not [name for name in known if name.startswith("renamed")]
    assert found.graph.outputs[-1].name == ("x_scale" if "output" in case else "y")


@pytest.mark.parametrize(
    "case",
    [
        "a computed weight",
        "factors",
        "several matrices",
        "a row",
        "a body reads the activation",
        "a body reads what it reads",
    ],
)
def test_dynamic_quantization_leaves_what_it_cannot_convert(
    text_graph: TextGraph, case: str
) -> None:
    assert snr_db(text_graph, case, "dynamic-int8") > 25


def test_dynamic_quantization_of_an_old_opset_holds_zero(text_graph: TextGraph) -> None:
    graph = """g (float[N, 64] x) => (float[N, 5] y) {
        h = Gemm(x, w, b)
        s = Sigmoid(h)
        y = Gemm(s, v, c)
    }"""
    weights = GEMMS | {"w": 0.01 * normal(64, 16)}
    found = []
    for opset in (10, 11):
        model = text_graph(graph, opset=opset, **weights)
        batch = {"x": normal(1, 64)}
        result = quantize(model, "dynamic-int8").model
        found.append(run_outputs(result, batch)["y"])
    np.testing.assert_allclose(*found, atol=1e-5)


@pytest.mark.parametrize("activation", ["Clip(m, low, high)", "Relu(m)"])
@pytest.mark.parametrize("precision", ["int8", "int16"])
def test_an_output_before_a_clip_is_not_clipped(
    text_graph: TextGraph, precision: str, activation: str
) -> None:
    graph = """g (float[N, 4, 12, 12] x) => (float[N, 6, 10, 10] y, float[N, 8, 10, 10] m) {
        a = Conv(x, w)
        m = LeakyRelu(a)
        c = ACTIVATION
        y = Conv(c, v)
    }"""
    model = text_graph(graph.replace("ACTIVATION", activation), **CONVS, **limits(0.5, 3))
    batch = {"x": normal(32, 4, 12, 12)}
    reader = CalibrationReader.from_feeds([batch])
    found = quantize(model, precision, reader=reader).model
    before, after = run_outputs(model, batch)["m"], run_outputs(found, batch)["m"]
    assert np.abs(after - before).max() < 0.02 * np.abs(before).max()


def test_a_result_that_does_not_run_is_refused(
    text_graph: TextGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, weights = CASES["several matrices"]
    monkeypatch.setattr("edgekit.export.to_dynamic_int8._unconvertible", lambda _: {})
    with pytest.raises(ModelFileError, match="cannot run the dynamic-int8 model"):
        quantize(text_graph(text, **weights), "dynamic-int8")


def test_old_files_whose_weights_are_inputs_too_lose_their_batch_norm(
    text_graph: TextGraph,
) -> None:
    text = """g (float[N, 4, 12, 12] x) => (float[N, 6, 10, 10] y) {
        a = Conv(x, w)
        n = BatchNormalization(a, s, b, m, v2)
        r = Relu(n)
        y = Conv(r, v)
    }"""
    weights = CONVS | {name: normal(8) for name in "sbm"} | {"v2": normal(8) ** 2 + 0.1}
    model = text_graph(text, opset=9, ir_version=3, also_inputs=tuple(weights), **weights)
    reader = CalibrationReader.from_feeds([{"x": normal(32, 4, 12, 12)}])
    report = quantize(model, "int8", reader=reader).report
    assert "BatchNormalization" not in {one.op_type for one in report.left}
    assert "1 batch normalizations were folded" in report.notes[0]


def test_minus_infinity_around_a_maximum_has_a_finite_range(text_graph: TextGraph) -> None:
    text, weights = CASES["the lowest number around a maximum"]
    model = text_graph(text, **weights | {"lowest": np.float32(-np.inf)})
    batch = {"x": normal(32, 4, 12, 12)}
    found = quantize(model, "int8", reader=CalibrationReader.from_feeds([batch])).model
    before, after = run_outputs(model, batch)["y"], run_outputs(found, batch)["y"]
    assert np.abs(after - before).max() < 0.05 * np.abs(before).max()


def test_excluding_what_was_folded_is_told(text_graph: TextGraph) -> None:
    text = """g (float[N, 4, 12, 12] x) => (float[N, 8, 12, 12] y) {
        p = Pad(x, pads)
        y = Conv(p, w)
    }"""
    model = text_graph(text, w=CONVS["w"], pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    model.graph[0].name = "stem_pad"
    reader = CalibrationReader.from_feeds([{"x": normal(32, 4, 12, 12)}])
    report = quantize(model, "int8", reader=reader, exclude="^stem_pad$").report
    assert any("was folded into what is around it (stem_pad)" in note for note in report.notes)


def test_a_padded_pool_becomes_a_convolution(text_graph: TextGraph) -> None:
    text = """g (float[N, 4, 12, 12] x) => (float[N, 4, 6, 6] y) {
        a = Conv<pads = [1, 1, 1, 1]>(x, w)
        p = Pad(a, pads)
        m = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(p)
        y = Conv(m, v)
    }"""
    weights = {"w": normal(8, 4, 3, 3), "v": normal(4, 8, 1, 1)}
    model = text_graph(text, **weights, pads=np.array([0, 0, 0, 0, 0, 0, 1, 1]))
    batch = {"x": normal(32, 4, 12, 12)}
    found = quantize(model, "int8", reader=CalibrationReader.from_feeds([batch])).model
    assert not {"Pad", "AveragePool"} & {node.op_type for node in found.graph}
    before, after = run_outputs(model, batch)["y"], run_outputs(found, batch)["y"]
    assert np.abs(after - before).max() < 0.03 * np.abs(before).max()


SCORES = """g (float[N, 8, 16] x, float[8, 8] mask) => (float[N, 8, 16] y) {
    a = MatMul(x, w)
    t = Transpose<perm = [0, 2, 1]>(a)
    b = MatMul(a, t)
    m = Mul(mask, large)
    [masked] c = Add(b, m)
    s = Softmax<axis = -1>(c)
    y = MatMul(s, a)
}"""


@pytest.mark.parametrize(
    ("precision", "left"),
    [("int8", True), ("int16", False)],
)
def test_a_computed_mask_drowns_the_scores_of_eight_bits(
    text_graph: TextGraph, precision: str, left: bool
) -> None:
    model = text_graph(SCORES, w=normal(16, 16) / 4, large=np.float32(-10000))
    batch = {"x": normal(32, 8, 16), "mask": np.triu(np.ones((8, 8), np.float32), 1)}
    result = quantize(model, precision, reader=CalibrationReader.from_feeds([batch]))
    assert ("masked" in {one.node for one in result.report.left}) == left
    before, after = run_outputs(model, batch)["y"], run_outputs(result.model, batch)["y"]
    assert np.abs(after - before).max() < 0.1 * np.abs(before).max()


def test_an_excluded_gemm_keeps_its_bias_of_rows(text_graph: TextGraph) -> None:
    text, weights = CASES["a bias of rows"]
    model = text_graph(text, **weights)
    model.graph[-1].name = "head"
    reader = CalibrationReader.from_feeds([{"x": normal(32, 16)}])
    report = quantize(model, "dynamic-int8", reader=reader, exclude="^head$").report
    assert [one.node for one in report.left if one.reason == "excluded"] == ["head"]
    assert not any(one.op_type == "Add" for one in report.left)


def test_a_name_that_is_only_in_a_body_matches_no_node(text_graph: TextGraph) -> None:
    text, weights = CASES["a body reads the activation"]
    model = text_graph(text.replace("t1 = Neg", "[inside] t1 = Neg"), **weights)
    reader = CalibrationReader.from_feeds([{"x": normal(32, 4, 12, 12)}])
    with pytest.raises(InputError, match="matches no node"):
        quantize(model, "int8", reader=reader, exclude="^inside$")
