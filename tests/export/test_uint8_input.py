from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.export.calibration import single_input
from edgekit.export.graph import model_preprocessing, to_proto
from edgekit.export.quantize import quantize
from edgekit.export.uint8_input import take_pixels
from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.runtime.session import open_session, run_batch

DIFFERENT = Preprocessing(8, 8, (0.49, 0.32, 0.2), (0.25, 0.2, 0.3))
EQUAL = Preprocessing(8, 8, (0.5,) * 3, (0.25,) * 3)
NETWORK = """g (float[N, 3, 8, 8] x) => (float[N, 4] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w)
    b = Relu(a)
    c = Conv<pads = [1, 1, 1, 1]>(b, v)
    p = GlobalAveragePool(c)
    f = Flatten(p)
    y = Gemm(f, m)
}"""


@pytest.fixture
def model(text_graph: Callable[..., ir.Model]) -> ir.Model:
    generator = np.random.default_rng(0)
    shapes = {"w": (8, 3, 3, 3), "v": (8, 8, 3, 3), "m": (8, 4)}
    return text_graph(
        NETWORK,
        **{name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
    )


def images(count: int = 64) -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)


def logits(model: ir.Model, batch: NDArray[np.generic]) -> NDArray[np.float32]:
    return run_batch(open_session(to_proto(model)), batch)


def sqnr_db(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    return float(10 * np.log10((first**2).sum() / ((first - second) ** 2).sum()))


@pytest.mark.parametrize("how", [DIFFERENT, EQUAL])
def test_pixels_and_normalized_floats_give_the_same(model: ir.Model, how: Preprocessing) -> None:
    pixels = take_pixels(model, how)
    assert single_input(pixels).dtype == ir.DataType.UINT8
    wanted = logits(model, how(images()))
    assert sqnr_db(wanted, logits(pixels, images())) > 45
    wrong = take_pixels(model, Preprocessing(8, 8, (0.4,) * 3, (0.25,) * 3))
    assert sqnr_db(wanted, logits(wrong, images())) < 30


@pytest.mark.parametrize("how", [DIFFERENT, EQUAL])
def test_the_quantized_model_takes_pixels_as_codes(model: ir.Model, how: Preprocessing) -> None:
    pixels = take_pixels(model, how)
    found = model_preprocessing(pixels)
    assert found is not None
    assert np.array_equal(np.rint(found(images())), images())
    result = quantize(pixels, "int8", reader=[{"x": images()}])
    plain = quantize(model, "int8", reader=[{"x": how(images())}])
    assert result.report.executed is not None
    assert "QuantizeLinear" not in result.report.executed.nodes
    assert "Cast" not in result.report.executed.nodes
    wanted = logits(model, how(images()))
    own, theirs = (
        sqnr_db(wanted, logits(result.model, images())),
        sqnr_db(wanted, logits(plain.model, how(images()))),
    )
    assert own > theirs - 2


def test_a_constant_bias_is_kept_and_a_computed_one_is_refused(
    text_graph: Callable[..., ir.Model],
) -> None:
    graph = """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {
        b = MAKER
        y = Conv(x, w, b)
    }"""
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    constant = "Constant<value = float[4] {10.0, -20.0, 30.0, -40.0}>()"
    model = text_graph(graph.replace("MAKER", constant), w=weight)
    wanted = logits(model, DIFFERENT(images()))
    assert sqnr_db(wanted, logits(take_pixels(model, DIFFERENT), images())) > 100
    computed = text_graph(graph.replace("MAKER", "Neg(c)"), w=weight, c=np.ones(4, np.float32))
    with pytest.raises(ModelFileError, match="stored weights and bias"):
        take_pixels(computed, DIFFERENT)


def test_an_input_that_no_convolution_reads_is_refused(text_graph: Callable[..., ir.Model]) -> None:
    model = text_graph(
        "g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { a = Relu(x) y = Conv(a, w) }",
        w=np.ones((3, 3, 1, 1), np.float32),
    )
    with pytest.raises(ModelFileError, match="--uint8-input needs"):
        take_pixels(model, EQUAL)


def test_an_old_opset_and_a_pad_of_its_own_are_taken(
    text_graph: Callable[..., ir.Model],
) -> None:
    generator = np.random.default_rng(0)
    model = text_graph(
        """g (float[N, 3, 8, 8] x) => (float[N, 8] y) {
            p = Pad<pads = [0, 0, 0, 0, 0, 0, 1, 1]>(x)
            a = Conv<strides = [2, 2], pads = [1, 1, 0, 0]>(p, w)
            m = GlobalAveragePool(a)
            y = Flatten(m)
        }""",
        opset=9,
        w=generator.normal(size=(8, 3, 3, 3)).astype(np.float32),
    )
    pixels = take_pixels(model, DIFFERENT)
    assert sqnr_db(logits(model, DIFFERENT(images())), logits(pixels, images())) > 40


def test_a_mean_that_is_no_pixel_cannot_be_padded_with(model: ir.Model) -> None:
    with pytest.raises(ModelFileError, match="must be a pixel, within 0 and 1"):
        take_pixels(model, Preprocessing(8, 8, (1.5, 0.5, 0.5), (0.25,) * 3))


def test_weights_that_are_inputs_too_are_taken(text_graph: Callable[..., ir.Model]) -> None:
    generator = np.random.default_rng(0)
    model = text_graph(
        """g (float[N, 3, 8, 8] x) => (float[N, 8, 6, 6] y) { y = Conv(x, w) }""",
        opset=8,
        ir_version=3,
        also_inputs=("w",),
        w=generator.normal(size=(8, 3, 3, 3)).astype(np.float32),
    )
    pixels = take_pixels(model, EQUAL)
    assert [value.name for value in pixels.graph.inputs] == ["x"]
