"""Images of 1 or 3 channels get the channels that onnxruntime convolves directly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.export.executed import executed
from edgekit.export.graph import from_proto, to_proto
from edgekit.export.image_channels import fit_image_channels
from edgekit.export.quantize import quantize
from edgekit.export.static_options import StaticOptions
from edgekit.export.verify import run_outputs

TextGraph = Callable[..., ir.Model]

NETWORK = """g (float[N, {channels}, 12, 12] x) => (float[N, 5] y) {{
    a = Conv<pads = [1, 1, 1, 1]>(x, stem)
    r = Relu(a)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    y = Gemm(f, head)
}}"""


def network(text_graph: TextGraph, channels: int, filters: int = 16, side: int = 3) -> ir.Model:
    rng = np.random.default_rng(0)
    stem = rng.standard_normal((filters, channels, side, side)).astype(np.float32)
    head = rng.standard_normal((filters, 5)).astype(np.float32)
    text = NETWORK.format(channels=channels)
    return text_graph(
        text if side == 3 else text.replace("<pads = [1, 1, 1, 1]>", ""),
        stem=stem,
        head=head,
    )


def images(channels: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    return rng.uniform(-1, 2, (64, channels, 12, 12)).astype(np.float32)


def kept(model: ir.Model, channels: int, **options: Any) -> ir.Model:
    """Quantized, its shapes as they were."""
    static = StaticOptions(kernels="keep", **options)
    return quantize(model, "int8", reader=[{"x": images(channels)}], static=static).model


def weight_shape(model: ir.Model) -> list[int]:
    """Of the first convolution's codes."""
    conv = next(node for node in model.graph if node.op_type == "Conv")
    codes = conv.inputs[1].producer().inputs[0].const_value
    return list(codes.shape.numpy())


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_results_are_the_same_to_the_bit(text_graph: TextGraph, channels: int) -> None:
    plain = kept(network(text_graph, channels), channels)
    padded = from_proto(to_proto(plain))
    assert fit_image_channels(padded) == 1
    assert weight_shape(plain) == [16, channels, 3, 3]
    assert weight_shape(padded) == [16, 4, 3, 3]
    (before,) = run_outputs(plain, {"x": images(channels)}).values()
    (after,) = run_outputs(padded, {"x": images(channels)}).values()
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("channels", "filters", "side"), [(4, 16, 3), (3, 12, 3), (3, 18, 3), (3, 16, 1)]
)
def test_what_would_not_gain_stays(
    text_graph: TextGraph, channels: int, filters: int, side: int
) -> None:
    model = kept(network(text_graph, channels, filters, side), channels)
    assert fit_image_channels(model) == 0
    assert weight_shape(model) == [filters, channels, side, side]


def test_without_avx_512_outputs_come_in_eights(text_graph: TextGraph) -> None:
    assert fit_image_channels(kept(network(text_graph, 3, 20), 3), outputs=8) == 0
    assert fit_image_channels(kept(network(text_graph, 3, 24), 3), outputs=8) == 1


def test_unsigned_weights_stay(text_graph: TextGraph) -> None:
    assert fit_image_channels(kept(network(text_graph, 3), 3, weights="QUInt8")) == 0


STRIDED = """g (float[N, {channels}, {side}, {side}] x) => (float[N, 16, H, W] y) {{
    y = Conv<{attributes}>(x, stem)
}}"""


def strided(
    text_graph: TextGraph, channels: int, side: int | str, window: int, attributes: str
) -> ir.Model:
    stem = np.random.default_rng(0).standard_normal((16, channels, window, window))
    text = STRIDED.format(channels=channels, side=side, attributes=attributes)
    return text_graph(text, stem=stem.astype(np.float32))


def image_operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if node.op_type in ("Pad", "SpaceToDepth")]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("side", "window", "pads", "folded"),
    [
        (96, 3, [1, 1, 1, 1], 2),
        (96, 3, [0, 0, 1, 1], 2),
        (96, 2, [0, 0, 0, 0], 1),
        (16, 5, [2, 2, 2, 2], 3),
        (16, 5, [1, 2, 2, 1], 3),
        (16, 7, [3, 3, 3, 3], 4),
        (16, 7, [2, 3, 3, 2], 4),
        (16, 4, [1, 1, 1, 1], 3),
        (18, 5, [0, 0, 0, 0], 3),
    ],
)
def test_a_stride_of_two_is_folded_exactly(
    text_graph: TextGraph, channels: int, side: int, window: int, pads: list[int], folded: int
) -> None:
    attributes = f"strides = [2, 2], pads = {pads}"
    model = strided(text_graph, channels, side, window, attributes)
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 2, (8, channels, side, side)).astype(np.float32)
    options = StaticOptions(kernels="keep")
    plain = quantize(model, "int8", reader=[{"x": x}], static=options).model
    fitted = from_proto(to_proto(plain))
    assert fit_image_channels(fitted) == 1
    assert image_operators(fitted) == ["SpaceToDepth"]
    assert weight_shape(fitted) == [16, 4 * channels, folded, folded]
    (before,) = run_outputs(plain, {"x": x}).values()
    (after,) = run_outputs(fitted, {"x": x}).values()
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-4)  # sums in another order


@pytest.mark.parametrize(
    ("side", "window", "attributes"),
    [
        (17, 7, "strides = [2, 2], pads = [3, 3, 3, 3]"),
        (32, 3, "strides = [2, 2], pads = [1, 1, 1, 1]"),
        (16, 5, "pads = [2, 2, 2, 2]"),
        (16, 5, "strides = [2, 1], pads = [2, 2, 2, 2]"),
        (16, 5, "strides = [2, 2], dilations = [2, 2], pads = [4, 4, 4, 4]"),
        (16, 5, 'strides = [2, 2], auto_pad = "SAME_UPPER"'),
    ],
)
def test_what_does_not_fold_is_padded(
    text_graph: TextGraph, side: int, window: int, attributes: str
) -> None:
    model = strided(text_graph, 3, side, window, attributes)
    x = np.random.default_rng(1).uniform(-1, 2, (8, 3, side, side)).astype(np.float32)
    options = StaticOptions(kernels="keep")
    plain = quantize(model, "int8", reader=[{"x": x}], static=options).model
    fitted = from_proto(to_proto(plain))
    assert fit_image_channels(fitted) == 1
    assert image_operators(fitted) == ["Pad"]
    (before,) = run_outputs(plain, {"x": x}).values()
    (after,) = run_outputs(fitted, {"x": x}).values()
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-4)  # sums in another order


def test_weights_in_two_places_stay(text_graph: TextGraph) -> None:
    text = """g (float[N, 3, 12, 12] x) => (float[N, 32, 10, 10] y) {
        a = Conv(x, stem)
        z = Neg(x)
        b = Conv(z, stem)
        y = Concat<axis = 1>(a, b)
    }"""
    stem = np.random.default_rng(0).standard_normal((16, 3, 3, 3)).astype(np.float32)
    assert fit_image_channels(kept(text_graph(text, stem=stem), 3)) == 0


def test_two_convolutions_read_one_image(text_graph: TextGraph) -> None:
    text = """g (float[N, 3, 12, 12] x) => (float[N, 36, 10, 10] y) {
        a = Conv(x, left)
        b = Conv(x, right)
        y = Concat<axis = 1>(a, b)
    }"""
    rng = np.random.default_rng(0)
    left = rng.standard_normal((16, 3, 3, 3)).astype(np.float32)
    right = rng.standard_normal((20, 3, 3, 3)).astype(np.float32)
    plain = kept(text_graph(text, left=left, right=right), 3)
    padded = from_proto(to_proto(plain))
    assert fit_image_channels(padded) == 2
    assert [node.op_type for node in padded.graph].count("Pad") == 1
    (before,) = run_outputs(plain, {"x": images(3)}).values()
    (after,) = run_outputs(padded, {"x": images(3)}).values()
    np.testing.assert_array_equal(before, after)


def test_onnxruntime_pads_codes(text_graph: TextGraph) -> None:
    model = network(text_graph, 3)
    result = quantize(model, "int8", reader=[{"x": images(3)}], static=StaticOptions())
    assert weight_shape(result.model) == [16, 4, 3, 3]
    pads = [node for node in result.model.graph if node.op_type == "Pad"]
    assert [pad.outputs[0].dtype for pad in pads] == [ir.DataType.UINT8]
    run = executed(result.model)
    assert run.nodes["Pad"] == run.nodes["QuantizeLinear"] == run.nodes["QLinearConv"] == 1
    assert not run.in_float


@pytest.mark.parametrize(
    ("precision", "options"),
    [
        ("int16", StaticOptions(activations="QUInt16")),
        ("int8", StaticOptions(kernels="keep")),
        ("int8", StaticOptions(kernels="openvino")),
        ("int8", StaticOptions(target="arm64")),
    ],
)
def test_other_kernels_get_images_as_they_are(
    text_graph: TextGraph, precision: str, options: StaticOptions
) -> None:
    made = quantize(network(text_graph, 3), precision, reader=[{"x": images(3)}], static=options)
    assert weight_shape(made.model) == [16, 3, 3, 3]


def test_an_excluded_convolution_stays_as_it_is(text_graph: TextGraph) -> None:
    model = network(text_graph, 3)
    name = next(str(node.name) for node in model.graph if node.op_type == "Conv")
    made = quantize(model, "int8", reader=[{"x": images(3)}], exclude=name, static=StaticOptions())
    assert "Pad" not in [node.op_type for node in made.model.graph]
