from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgekit.export.graph import to_proto
from edgekit.export.half import MIN_STORED_ELEMENTS, to_fp16, to_fp16_storage
from edgekit.export.to_onnx import to_onnx
from edgekit.export.verify import run_outputs
from edgekit.runtime.data.load import load_split
from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.runtime.session import open_session, run_batch
from edgekit.train.models.table import build_model

DIGITS = Preprocessing(8, 8, (0.3,), (0.36,), tuple("0123456789"))
CLOSE = 5e-3  # relative to the largest logit: half precision has 11 bits, and errors add up


@pytest.fixture(scope="module")
def batch() -> np.ndarray:
    return DIGITS(load_split("digits", "test").images.read(np.arange(50)))


@pytest.fixture(scope="module")
def model(batch: np.ndarray) -> ir.Model:
    torch.manual_seed(0)
    module: nn.Module = build_model("resnet", {}, in_channels=1, num_classes=10)
    with torch.no_grad():
        for _ in range(5):
            module.train()(torch.from_numpy(batch))
    return to_onnx(module, DIGITS)


def relative(model: ir.Model, other: ir.Model, batch: np.ndarray) -> float:
    before = run_batch(open_session(to_proto(model)), batch)
    after = run_batch(open_session(to_proto(other)), batch)
    return float(np.abs(after - before).max() / np.abs(before).max())


def set_weight(model: ir.Model, name: str, index: int, value: float) -> ir.Model:
    changed = ir.from_proto(to_proto(model))
    tensor = changed.graph.initializers[name].const_value
    assert tensor is not None
    weights = tensor.numpy().copy()
    weights.flat[index] = value
    changed.graph.initializers[name].const_value = ir.tensor(weights, name=name)
    return changed


@pytest.mark.parametrize("convert", [to_fp16, to_fp16_storage])
def test_logits_stay_close_and_the_model_given_is_unchanged(
    model: ir.Model, batch: np.ndarray, convert: Callable[..., tuple[ir.Model, object]]
) -> None:
    before = to_proto(model).SerializeToString()
    half, _ = convert(model)
    onnx.checker.check_model(to_proto(half), full_check=True)
    assert 0 < relative(model, half, batch) < CLOSE
    assert to_proto(model).SerializeToString() == before


@pytest.mark.parametrize("convert", [to_fp16, to_fp16_storage])
def test_a_wrong_weight_is_not_close(
    model: ir.Model, batch: np.ndarray, convert: Callable[..., tuple[ir.Model, object]]
) -> None:
    weights = next(n for n in model.graph.initializers if n.endswith(".weight"))
    half, _ = convert(set_weight(model, weights, 0, 5.0))
    assert relative(model, half, batch) > CLOSE


@pytest.mark.parametrize("convert", [to_fp16, to_fp16_storage])
def test_the_file_has_about_half_the_bytes(
    model: ir.Model, convert: Callable[..., tuple[ir.Model, object]]
) -> None:
    half, _ = convert(model)
    ratio = to_proto(half).ByteSize() / to_proto(model).ByteSize()
    assert 0.5 <= ratio < 0.55


def test_fp16_keeps_input_and_output_float32_unless_asked(
    model: ir.Model, batch: np.ndarray
) -> None:
    for keep_io, wanted in ((True, ir.DataType.FLOAT), (False, ir.DataType.FLOAT16)):
        half, _ = to_fp16(model, keep_io=keep_io)
        assert [v.dtype for v in (*half.graph.inputs, *half.graph.outputs)] == [wanted, wanted]
        assert relative(model, half, batch) < CLOSE


def test_fp16_storage_computes_in_float32_behind_one_cast_for_each_weight(model: ir.Model) -> None:
    half, report = to_fp16_storage(model)
    casts = [node for node in half.graph if node.op_type == "Cast"]
    assert len(casts) == report.tensors
    assert {node.inputs[0].name for node in casts if node.inputs[0]} == {
        name
        for name, value in model.graph.initializers.items()
        if value.dtype == ir.DataType.FLOAT
        and value.const_value is not None
        and value.const_value.size >= MIN_STORED_ELEMENTS
    }
    assert all(node.outputs[0].dtype == ir.DataType.FLOAT for node in casts)
    before = [node.op_type for node in model.graph]
    assert [node.op_type for node in half.graph if node.op_type != "Cast"] == before


def test_fp16_storage_rounds_each_weight_to_the_nearest_half(model: ir.Model) -> None:
    half, _ = to_fp16_storage(model)
    for name, value in model.graph.initializers.items():
        stored = half.graph.initializers[name].const_value
        assert stored is not None
        assert value.const_value is not None
        if stored.dtype == ir.DataType.FLOAT16:
            expected = value.const_value.numpy().astype(np.float16)
            np.testing.assert_array_equal(stored.numpy(), expected)


@pytest.mark.parametrize("convert", [to_fp16, to_fp16_storage])
def test_a_value_above_halfs_range_stays_float32_and_is_reported_not_clipped(
    model: ir.Model, batch: np.ndarray, convert: Callable[..., tuple[ir.Model, object]]
) -> None:
    name = next(node.inputs[1].name for node in model.graph if node.op_type == "Gemm")  # type: ignore[union-attr]
    large = set_weight(model, str(name), 3, 1e5)
    half, report = convert(large)
    (found,) = report.out_of_range  # type: ignore[attr-defined]
    assert (found.tensor, found.largest) == (name, 1e5)
    assert "65504" in str(found)
    kept = half.graph.initializers[str(name)].const_value
    assert kept is not None
    assert kept.numpy().flat[3] == np.float32(1e5)
    assert relative(large, half, batch) < CLOSE


@pytest.mark.parametrize("convert", [to_fp16, to_fp16_storage])
def test_values_that_become_zero_are_counted(
    model: ir.Model, convert: Callable[..., tuple[ir.Model, object]]
) -> None:
    name = next(node.inputs[1].name for node in model.graph if node.op_type == "Gemm")  # type: ignore[union-attr]
    tiny = set_weight(set_weight(model, str(name), 0, 2e-8), str(name), 1, -1e-12)
    half, report = convert(tiny)
    (found,) = [f for f in report.flushed if f.tensor == name]  # type: ignore[attr-defined]
    assert (found.count, found.largest) == (2, pytest.approx(2e-8))
    stored = half.graph.initializers[str(name)].const_value
    assert stored is not None
    assert stored.numpy().flat[0] == 0


def test_an_excluded_node_stays_float32(model: ir.Model) -> None:
    gemm = next(node for node in model.graph if node.op_type == "Gemm")
    half, _ = to_fp16(model, exclude=[str(gemm.name)])
    kept = next(node for node in half.graph if node.name == gemm.name)
    assert kept.inputs[1] is not None
    assert kept.inputs[1].dtype == ir.DataType.FLOAT


def test_resize_keeps_its_scales_float32(text_graph: Callable[..., ir.Model]) -> None:
    model = text_graph(
        """g (float[N, 1, 4, 4] x) => (float[N, 1, 8, 8] y) {
            c = Conv(x, w)
            y = Resize<mode = "nearest">(c, , s)
        }""",
        w=np.full((1, 1, 1, 1), 0.5, np.float32),
        s=np.array([1, 1, 2, 2], np.float32),
    )
    half, _ = to_fp16(model)
    x = np.random.default_rng(0).standard_normal((2, 1, 4, 4), np.float32)
    before, after = run_outputs(model, {"x": x})["y"], run_outputs(half, {"x": x})["y"]
    np.testing.assert_allclose(after, before, atol=1e-3)


# Both bodies name their constant alike; a Resize stays float32 whatever it stands in.
BODIES = """g (float[N, 4, 8, 8] x) => (float[N, 4, A, B] y) {
    s = ReduceSum<keepdims = 0>(x)
    positive = Greater(s, zero)
    y = If(positive) <
        then_branch = t () => (float[N, 4, A, B] t1) <float[4] c = {1, 1, 2, 2}> { t1 = FIRST },
        else_branch = e () => (float[N, 4, A, B] e1) <float[4] c = {1, 1, 3, 3}> { e1 = SECOND }
    >
}"""


@pytest.mark.parametrize("operator", ["Resize(x, , c)", 'Resize<mode = "linear">(x, , c)'])
def test_bodies_with_constants_are_converted(
    text_graph: Callable[..., ir.Model], operator: str
) -> None:
    text = BODIES.replace("FIRST", operator).replace("SECOND", operator)
    model = text_graph(text, zero=np.float32(0))
    found, _ = to_fp16(model)
    for sign in (-1, 1):
        inputs = {"x": sign * np.abs(np.random.default_rng(0).normal(size=(2, 4, 8, 8)))}
        inputs = {name: array.astype(np.float32) for name, array in inputs.items()}
        before, after = (run_outputs(one, inputs)["y"] for one in (model, found))
        np.testing.assert_allclose(after, before, rtol=2e-3)


def test_a_large_constant_of_a_body_is_refused(text_graph: Callable[..., ir.Model]) -> None:
    text = BODIES.replace("FIRST", "Resize(x, , c)").replace("{1, 1, 3, 3}", "{1e9, 1, 1, 1}")
    model = text_graph(
        text.replace("SECOND", "Unsqueeze(c, axes)"), zero=np.float32(0), axes=np.array([0, 1, 2])
    )
    with pytest.raises(ModelFileError, match=r"the body of an If or a Loop reads.*fp16-storage"):
        to_fp16(model)
