from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgekit.bench.exact_integer import QuantizedConv
from edgekit.bench.saturation import audit, audit_file, can_saturate, saturating_sums
from edgekit.export.pack import pack
from edgekit.runtime.errors import ModelFileError

QDQ = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[1, 4, 2, 2] x) => (float[1, 2] y)
{
    xq = QuantizeLinear(x, s, zx)
    xd = DequantizeLinear(xq, s, zx)
    wd = DequantizeLinear<axis = 0>(w, ws, wz)
    conv = Conv(xd, wd)
    cq = QuantizeLinear(conv, s, zx)
    cd = DequantizeLinear(cq, s, zx)
    pool = GlobalAveragePool(cd)
    flat = Flatten(pool)
    fq = QuantizeLinear(flat, s, zx)
    fd = DequantizeLinear(fq, s, zx)
    vd = DequantizeLinear<axis = 0>(v, vs, vz)
    y = Gemm<transB = 1>(fd, vd)
}
"""


def qdq(
    w: NDArray[np.integer], v: NDArray[np.integer], zero: type[np.integer] = np.uint8
) -> onnx.ModelProto:
    model = onnx.parser.parse_model(QDQ)
    tensors = {
        "s": np.float32(0.1),
        "zx": zero(0),
        "w": w,
        "ws": np.ones(len(w), np.float32),
        "wz": np.zeros(len(w), w.dtype),
        "v": v,
        "vs": np.ones(len(v), np.float32),
        "vz": np.zeros(len(v), v.dtype),
    }
    for name, array in tensors.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    for name, node in zip(
        ("conv", "gemm"), (model.graph.node[3], model.graph.node[11]), strict=True
    ):
        node.name = name
    return model


def weights(*rows: list[int], dtype: type[np.integer] = np.int8) -> NDArray[np.integer]:
    return np.array(rows, dtype)


def conv_of(w: NDArray[np.integer], x: NDArray[np.integer] | None = None) -> QuantizedConv:
    """A 1x1 convolution; its input lights up the weights of one sign, then of the other."""
    if x is None:
        positive = np.where(w > 0, 255, 0)
        negative = np.where(w < 0, 255, 0)
        x = np.concatenate([positive, negative]).astype(np.uint8)[:, :, None, None]
    return QuantizedConv(
        x=x,
        w=w[:, :, None, None],
        bias=np.zeros(len(w), np.int32),
        x_scale=1.0,
        w_scale=np.ones(1, np.float32),
        y_scale=1.0,
        x_zero=0,
        w_zero=0,
        y_zero=0,
    )


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([64, 64], False),  # 255 * 128 = 32640
        ([65, 64], True),  # 32895
        ([-64, -64], False),
        ([-65, -64], True),
        ([127, -127], False),  # of opposite signs, they cannot add up
        ([127, 1, 1, 127], False),  # not neighbours
        ([127, 1, 2, 127], True),
        ([0, 127, 127, 0], False),
        ([127, 0, 127], False),  # the odd one stands alone
    ],
)
def test_a_flagged_channel_saturates_and_no_other_can(row: list[int], expected: bool) -> None:
    rows = np.array([row], np.int64)
    assert bool(can_saturate(rows)[0]) is expected
    conv = conv_of(weights(row))
    assert bool((saturating_sums(conv) != conv.accumulate()).any()) is expected


def test_no_input_overflows_a_channel_that_is_not_flagged() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(-127, 128, (400, 6)).astype(np.int8)
    flagged = can_saturate(rows.astype(np.int64))
    assert 50 < flagged.sum() < 350
    for row, can in zip(rows, flagged, strict=True):
        x = rng.choice([0, 1, 128, 254, 255], (64, 6, 1, 1)).astype(np.uint8)
        worst = conv_of(row[None])
        random = conv_of(row[None], x)
        assert bool((saturating_sums(worst) != worst.accumulate()).any()) == can
        if not can:
            np.testing.assert_array_equal(saturating_sums(random), random.accumulate())


def test_seven_bits_never_overflow() -> None:
    rng = np.random.default_rng(1)
    assert not can_saturate(rng.integers(-64, 65, (500, 32))).any()
    assert can_saturate(rng.integers(-127, 128, (500, 32))).any()


def test_the_simulation_gives_what_an_emulated_avx2_processor_gave() -> None:
    # onnxruntime 1.32 under qemu-x86_64 -cpu Haswell: full-scale codes and weights of 16 and of 3
    # channels, the exact output scaled to 200.
    for channels, seen in ((16, 101), (3, 134)):
        conv = replace(
            conv_of(np.full((1, channels), 127, np.int8)),
            y_scale=channels * 255 * 127 / 200,
        )
        assert conv.expected()[0].item() == 200
        assert conv.requantize(saturating_sums(conv))[0].item() == seen


def test_zero_points_and_bias_are_outside_the_clipping() -> None:
    conv = replace(
        conv_of(weights([100, 100, 3, 5])),
        x_zero=7,
        bias=np.array([11], np.int32),
    )
    sums = saturating_sums(conv)[0].item()
    assert sums == 32767 + 8 * 255 - 7 * 208 + 11
    assert conv.accumulate()[0].item() == 208 * 248 + 11


def test_layers_are_listed_with_their_channels() -> None:
    w = weights([127, 1, 1, 127], [65, 64, 0, 0], [1, 2, 3, 4])[:, :, None, None]
    v = weights([64, 64, 64], [-127, -127, 5])
    found = audit(ir.from_proto(qdq(w, v)))
    assert found.checked == 2
    conv, gemm = found.layers
    assert (conv.node, conv.op_type, conv.channels) == ("conv", "Conv", 3)
    assert (conv.overflowing, conv.overflowing_any_order, conv.largest_sum) == (1, 2, 129 * 255)
    assert (gemm.node, gemm.overflowing, gemm.largest_sum) == ("gemm", 1, 254 * 255)
    assert found.overflowing == 2


def test_a_layer_that_cannot_overflow_is_checked_and_not_listed() -> None:
    safe = weights([64, 64, -64, -64])[:, :, None, None]
    found = audit(ir.from_proto(qdq(safe, weights([1], [2]))))
    assert (found.checked, found.layers) == (2, ())


def test_int8_activations_count_too_and_uint8_weights_do_not() -> None:
    loud = weights([127, 127, 127, 127])[:, :, None, None]
    assert audit(ir.from_proto(qdq(loud, weights([1]), np.int8))).overflowing == 1
    unsigned = weights([255, 255, 255, 255], dtype=np.uint8)[:, :, None, None]
    found = audit(ir.from_proto(qdq(unsigned, weights([1]))))
    assert (found.checked, found.layers) == (1, ())


def test_float_and_16_bit_activations_multiply_in_float() -> None:
    loud = weights([127, 127, 127, 127])[:, :, None, None]
    model = qdq(loud, weights([1]), np.uint16)
    model.opset_import[0].version = 21
    assert audit(ir.from_proto(model)).checked == 0


def test_depthwise_convolutions_are_widened_first() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (uint8[1, 2, 4, 4] x) => (uint8[1, 2, 2, 2] y)'
        "{ y = QLinearConv<group = 2>(x, s, z, w, s, zw, s, z) }"
    )
    tensors = {"s": np.float32(1), "z": np.uint8(0), "zw": np.int8(0)}
    w = np.full((2, 1, 3, 3), 127, np.int8)
    for name, array in {**tensors, "w": w}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    assert audit(ir.from_proto(model)).checked == 0
    del model.graph.node[0].attribute[:]
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(w.reshape(1, 2, 3, 3), "w"))
    assert audit(ir.from_proto(model)).overflowing == 1


@pytest.mark.parametrize("external", [False, True])
def test_a_packed_model_is_unpacked_first(tmp_path: Path, external: bool) -> None:
    rng = np.random.default_rng(0)
    w = np.zeros((64, 4, 1, 1), np.int8)
    w[::2] = rng.choice([-127, 127], (32, 4, 1, 1))
    plain = qdq(w, rng.integers(-5, 5, (8, 64)).astype(np.int8))
    plain.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 8
    packed = ir.to_proto(pack(ir.from_proto(plain)).model)
    assert not any(tensor.dims == w.shape for tensor in packed.graph.initializer)
    path = tmp_path / "packed.onnx"
    onnx.save(packed, path, save_as_external_data=external, size_threshold=0)
    found = audit(ir.from_proto(plain))
    assert audit_file(path).layers == found.layers
    assert found.overflowing == 1


def of_one_node(body: str, w: NDArray[np.integer]) -> ir.Model:
    """A node on the uint8 input `x` or the float `f`, and int8 weights `w`."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>'
        f"g (uint8[1, 4] x) => (float[1] y) {{ f = DequantizeLinear(x, s, z) {body} }}"
    )
    for name, array in {"s": np.float32(1), "z": np.uint8(0), "w": w}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return ir.from_proto(model)


@pytest.mark.parametrize(
    ("body", "vector"),
    [
        ("v = DequantizeLinear(w, s) y = MatMul(f, v)", np.full(4, 127, np.int8)),
        ("y = MatMulInteger(x, w)", np.full(4, 127, np.int8)),
    ],
)
def test_a_vector_is_one_column(body: str, vector: NDArray[np.integer]) -> None:
    (layer,) = audit(of_one_node(body, vector)).layers
    assert (layer.channels, layer.overflowing, layer.largest_sum) == (1, 1, 254 * 255)


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("v = DequantizeLinear(w, s) y = MatMul(f, v)", (0, 3)),
        ("y = ConvInteger(x, w)", (0, 4, 1, 1)),
        ("y = com.microsoft.QGemm(x)", (4, 3)),
        ("y = MatMulInteger(x)", (4, 3)),
        ("y = MatMul()", (4, 3)),
    ],
)
def test_layers_without_weights_are_not_checked(body: str, shape: tuple[int, ...]) -> None:
    assert audit(of_one_node(body, np.ones(shape, np.int8))).checked == 0


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("y = ConvInteger(x, w)", (4,)),
        ("v = DequantizeLinear(w, s) y = Gemm(f, v)", (4,)),
        ("y = MatMulInteger(x, w)", ()),
        ("t = Transpose<perm = [1, 0, 2]>(w) y = MatMulInteger(x, t)", (4, 3)),
        ("t = Transpose<perm = [1, 1]>(w) y = MatMulInteger(x, t)", (4, 3)),
    ],
)
def test_weights_of_a_shape_that_does_not_fit_are_refused(
    body: str, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ModelFileError, match="check the model"):
        audit(of_one_node(body, np.ones(shape, np.int8)))
