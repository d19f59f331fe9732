"""Every MAC rule against an oracle that knows no formula: a run on ones sums up to the MACs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekit.bench.count import count
from edgekit.bench.mac_rules import MAC_RULES, ZERO_MAC_OPS
from edgekit.runtime.session import open_session

FEW = settings(max_examples=25, deadline=None, database=None)
Array = NDArray[np.generic]


def model_of(node: onnx.NodeProto, x: Array, **stored: Array) -> onnx.ModelProto:
    floats = x.dtype == np.float32
    graph = helper.make_graph(
        [node],
        "oracle",
        [
            helper.make_tensor_value_info(
                "x", TensorProto.FLOAT if floats else TensorProto.UINT8, x.shape
            )
        ],
        [
            helper.make_tensor_value_info(
                "y", TensorProto.FLOAT if floats else TensorProto.INT32, None
            )
        ],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def output_sum(model: onnx.ModelProto, x: Array) -> int:
    return int(open_session(model, optimize=False).run(None, {"x": x})[0].sum())


def oracle(node: onnx.NodeProto, x: Array, **stored: Array) -> tuple[int, int]:
    """MACs dense and effective: the sum of the output on ones, and on the mask of the non-zeros."""
    ones = {name: np.ones_like(array) for name, array in stored.items()}
    mask = {name: (array != 0).astype(array.dtype) for name, array in stored.items()}
    return output_sum(model_of(node, x, **ones), x), output_sum(model_of(node, x, **mask), x)


def sparse(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.integers(1, 5, shape) * (rng.random(shape) < 0.6)).astype(np.float32)


def figures(model: onnx.ModelProto) -> tuple[int, int]:
    counts = count(ir.from_proto(model))
    return counts.macs, counts.effective_macs


@FEW
@given(
    group=st.sampled_from([1, 2, 4]),
    filters=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.integers(1, 2),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    seed=st.integers(0, 99),
)
def test_conv_counts_what_a_run_sums(
    group: int,
    filters: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilation: int,
    pads: tuple[int, int, int, int],
    seed: int,
) -> None:
    attributes = {"group": group, "strides": strides, "dilations": [dilation] * 2}
    weight = sparse((filters * group, 4 // group, *kernel), seed)
    x = np.ones((1, 4, 7, 6), np.float32)
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=1)
    explicit = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    shipped = helper.make_node("Conv", ["x", "w"], ["y"], pads=pads, **attributes)
    assert figures(model_of(shipped, x, w=weight)) == oracle(explicit, padded, w=weight)


@FEW
@given(
    group=st.sampled_from([1, 2]),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.integers(0, 1),
    seed=st.integers(0, 99),
)
def test_conv_transpose_counts_what_a_run_sums_before_its_output_is_cut(
    group: int, strides: tuple[int, int], pads: int, seed: int
) -> None:
    weight = sparse((4, 3, 3, 2), seed)
    x = np.ones((1, 4, 5, 3), np.float32)
    whole = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=group, strides=strides)
    cut = helper.make_node(
        "ConvTranspose", ["x", "w"], ["y"], group=group, strides=strides, pads=[pads] * 4
    )
    assert figures(model_of(cut, x, w=weight)) == oracle(whole, x, w=weight)


@FEW
@given(trans_a=st.booleans(), trans_b=st.booleans(), seed=st.integers(0, 99))
def test_gemm_counts_what_a_run_sums(trans_a: bool, trans_b: bool, seed: int) -> None:
    x = np.ones((5, 3) if trans_a else (3, 5), np.float32)
    weight = sparse((4, 5) if trans_b else (5, 4), seed)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transA=trans_a, transB=trans_b)
    assert figures(model_of(node, x, w=weight)) == oracle(node, x, w=weight)


@pytest.mark.parametrize(
    ("x_shape", "w_shape"),
    [
        ((3, 5), (5, 4)),
        ((5,), (5, 4)),
        ((3, 5), (5,)),
        ((2, 3, 5), (5, 4)),
        ((2, 1, 3, 5), (6, 5, 4)),
        ((3, 5), (2, 5, 4)),
    ],
)
def test_mat_mul_counts_what_a_run_sums(x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> None:
    x, weight = np.ones(x_shape, np.float32), sparse(w_shape, 3)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    macs, effective = figures(model_of(node, x, w=weight))
    batch = x_shape[0] if len(x_shape) == 4 else 1  # a model of images is counted per image
    assert (macs * batch, effective * batch) == oracle(node, x, w=weight)


def test_mat_mul_takes_the_stored_operand_on_either_side() -> None:
    x, weight = np.ones((5, 3), np.float32), sparse((4, 5), 3)
    node = helper.make_node("MatMul", ["w", "x"], ["y"])
    macs, effective = figures(model_of(node, x, w=weight))
    assert (macs, effective) == oracle(node, x, w=weight)
    assert effective < macs


def test_integer_operators_count_like_the_float_ones() -> None:
    x = np.ones((1, 2, 4, 4), np.uint8)
    weight = sparse((3, 2, 3, 3), 5).astype(np.uint8)
    node = helper.make_node("ConvInteger", ["x", "w"], ["y"])
    assert figures(model_of(node, x, w=weight)) == oracle(node, x, w=weight)
    flat = np.ones((2, 6), np.uint8)
    matrix = sparse((6, 3), 6).astype(np.uint8)
    product = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    assert figures(model_of(product, flat, w=matrix)) == oracle(product, flat, w=matrix)


def test_fused_operators_count_like_the_plain_ones() -> None:
    x, weight = np.ones((1, 2, 4, 4), np.float32), sparse((3, 2, 3, 3), 5)
    plain = helper.make_node("Conv", ["x", "w"], ["y"])
    fused = helper.make_node(
        "FusedConv", ["x", "w"], ["y"], domain="com.microsoft", activation="Relu"
    )
    assert figures(model_of(fused, x, w=weight)) == figures(model_of(plain, x, w=weight))


@pytest.mark.parametrize(
    ("flags", "x_shape", "w_shape"),
    [
        ("transA", (5, 3), (5, 4)),
        ("transB", (3, 5), (4, 5)),
        ("transA transB", (2, 5, 3), (4, 5)),
        ("transB", (1, 2, 3, 5), (2, 4, 5)),
        ("transBatchA", (3, 2, 5), (2, 5, 4)),
        ("transBatchA transA", (5, 2, 3), (2, 5, 4)),
        ("transBatchB transB", (2, 3, 5), (4, 2, 5)),
        ("transBatchA transBatchB", (3, 2, 6, 5), (5, 2, 6, 4)),
    ],
)
def test_fused_mat_mul_counts_what_a_run_sums(
    flags: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...]
) -> None:
    x, weight = np.ones(x_shape, np.float32), sparse(w_shape, 4)
    node = helper.make_node(
        "FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", **dict.fromkeys(flags.split(), 1)
    )
    batch = x_shape[0] if len(x_shape) == 4 else 1
    macs, effective = figures(model_of(node, x, w=weight))
    assert (macs * batch, effective * batch) == oracle(node, x, w=weight)


@pytest.mark.parametrize(
    ("equation", "x_shape", "w_shape"),
    [
        ("ij,jk->ik", (2, 3), (3, 4)),
        ("ij,jk", (2, 3), (3, 4)),
        ("bhwc,cd->bhwd", (1, 3, 2, 4), (4, 5)),
        ("...ij,jk->...ik", (2, 3, 4), (4, 5)),
        ("...ij,...jk->...ik", (6, 1, 3, 4), (6, 2, 4, 5)),
        ("bij,bjk->bik", (1, 3, 4), (2, 4, 5)),
        ("i,j->ij", (3,), (4,)),
        ("ij,ij->", (3, 4), (3, 4)),
        ("ij,k->ik", (3, 4), (5,)),
    ],
)
def test_einsum_counts_what_a_run_sums(
    equation: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...]
) -> None:
    x, weight = np.ones(x_shape, np.float32), sparse(w_shape, 7)
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation=equation)
    batch = x_shape[0] if len(x_shape) == 4 else 1
    macs, effective = figures(model_of(node, x, w=weight))
    assert (macs * batch, effective * batch) == oracle(node, x, w=weight)


def test_einsum_of_three_counts_its_pairs_from_left_to_right() -> None:
    x, one, two = np.ones((2, 3), np.float32), sparse((3, 4), 1), sparse((4, 5), 2)
    node = helper.make_node("Einsum", ["x", "a", "b"], ["y"], equation="ij,jk,kl->il")
    first = helper.make_node("Einsum", ["x", "a"], ["y"], equation="ij,jk->ik")
    second = helper.make_node("Einsum", ["x", "b"], ["y"], equation="ik,kl->il")
    pairs = oracle(first, x, a=one)[0] + oracle(second, np.ones((2, 4), np.float32), b=two)[0]
    assert figures(model_of(node, x, a=one, b=two))[0] == pairs


def test_einsum_on_a_diagonal_claims_no_share_of_zeros() -> None:
    x, weight = np.ones(3, np.float32), sparse((3, 3), 1)
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="i,ii->i")
    assert figures(model_of(node, x, w=weight)) == (3, 3)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("explicit", [False, True])
def test_packed_codes_count_what_a_run_sums(bits: int, explicit: bool) -> None:
    """On ones the output's sum is the sum of (code - zero point): codes beside it, 0 or 1 off."""
    rows, columns, block = 5, 40, 16
    blocks = -(-columns // block)
    rng = np.random.default_rng(bits)
    point = 1 if explicit else 1 << (bits - 1)
    codes = np.full((rows, blocks * block), point, np.uint8)
    codes[:, :columns] += rng.random((rows, columns)) < 0.6
    per_byte = 8 // bits
    shifts = np.arange(per_byte) * bits
    packed = (codes.reshape(rows, blocks, -1, per_byte) << shifts).sum(-1).astype(np.uint8)
    stored: dict[str, Array] = {"w": packed, "s": np.ones(rows * blocks, np.float32)}
    if explicit:
        points = np.full((rows, -(-blocks // per_byte) * per_byte), point, np.uint8)
        stored["z"] = (points.reshape(rows, -1, per_byte) << shifts).sum(-1).astype(np.uint8)
    node = helper.make_node(
        "MatMulNBits", ["x", *stored], ["y"], domain="com.microsoft", K=columns, N=rows,
        bits=bits, block_size=block,
    )  # fmt: skip
    x = np.ones((3, columns), np.float32)
    model = model_of(node, x, **stored)
    counts = count(ir.from_proto(model))
    assert counts.effective_macs == output_sum(model, x) < counts.macs == 3 * rows * columns
    learned = next(p for p in counts.learned if p.name == "w")
    assert (learned.elements, learned.bits) == (rows * columns, bits)
    assert learned.stored_bits == packed.size * 8
    assert learned.nonzero * 3 == counts.effective_macs


def test_attention_with_its_projection_counts_like_its_plain_products() -> None:
    """com.microsoft.Attention: Q, K and V from one weight, then Q K^T and P V of each head."""
    steps, size, hidden, heads = 6, 8, 12, 3
    x = np.ones((1, steps, size), np.float32)
    weight, bias = sparse((size, 3 * hidden), 1), np.zeros(3 * hidden, np.float32)
    node = helper.make_node(
        "Attention", ["x", "w", "b"], ["y"], domain="com.microsoft", num_heads=heads
    )
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    dense, effective = oracle(product, x, w=weight)
    scores = steps * steps * hidden
    expected = (dense + 2 * scores, effective + 2 * scores)
    assert figures(model_of(node, x, w=weight, b=bias)) == expected
    heads_only = helper.make_node(
        "MultiHeadAttention", ["x", "x", "x"], ["y"], domain="com.microsoft", num_heads=2
    )
    assert figures(model_of(heads_only, x)) == (2 * steps * steps * size,) * 2


@pytest.mark.parametrize(
    ("op_type", "domain", "last"),
    [
        ("Conv", "com.microsoft.nchwc", False),
        ("NhwcConv", "com.microsoft", True),
        ("NhwcFusedConv", "com.microsoft", True),
        ("Conv", "com.ms.internal.nhwc", True),
    ],
)
def test_a_convolution_counts_alike_in_every_layout(op_type: str, domain: str, last: bool) -> None:
    x, weight = np.ones((1, 8, 6, 5), np.float32), sparse((16, 4, 3, 2), 5)
    settings = {"group": 2, "strides": [2, 1], "pads": [1, 0, 1, 1]}
    plain = model_of(helper.make_node("Conv", ["x", "w"], ["y"], **settings), x, w=weight)
    node = helper.make_node(op_type, ["x", "w"], ["y"], domain=domain, **settings)
    laid_out = model_of(node, x.transpose(0, 2, 3, 1) if last else x, w=weight)
    laid_out.opset_import.add(domain=domain, version=1)
    assert figures(laid_out) == figures(plain)
    inner, outer = (count(ir.from_proto(m)).nodes[0].output_shape for m in (laid_out, plain))
    assert inner is not None
    assert outer is not None
    assert (inner[0], inner[3], *inner[1:3]) == outer if last else inner == outer


def test_the_oracle_sees_a_missing_factor() -> None:
    x, weight = np.ones((1, 2, 4, 4), np.float32), sparse((3, 2, 3, 3), 5)
    grouped = helper.make_node("Conv", ["x", "w"], ["y"], group=2)
    whole = helper.make_node("Conv", ["x", "w"], ["y"])
    half = weight[:2, :1]
    assert figures(model_of(grouped, x, w=half)) != oracle(whole, x, w=weight)


def test_every_operator_is_in_one_table_at_most() -> None:
    assert not ZERO_MAC_OPS & MAC_RULES.keys()


def test_what_onnxruntime_makes_of_a_model_counts_like_the_model(tmp_path: Path) -> None:
    """Fused and blocked operators, as onnxruntime saves them on this machine."""
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[1, 3, 16, 16] x) => (float[1, 10] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r = Relu (a)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
        c = Conv <pads = [1, 1, 1, 1]> (p, w2)
        s = Add (c, p)
        g = GlobalAveragePool (s)
        f = Flatten (g)
        m = MatMul (f, w3)
        y = Add (m, b3)
    }
    """
    proto = onnx.parser.parse_model(text)
    shapes = {"w1": (32, 3, 3, 3), "b1": (32,), "w2": (32, 32, 3, 3), "w3": (32, 10), "b3": (10,)}
    for position, (name, shape) in enumerate(shapes.items()):
        proto.graph.initializer.append(numpy_helper.from_array(sparse(shape, position), name))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = ir.load(tmp_path / "optimized.onnx")
    before, after = count(ir.from_proto(proto)), count(optimized)
    assert {n.op_type for n in after.nodes} != {n.op_type for n in before.nodes}
    assert (after.macs, after.effective_macs) == (before.macs, before.effective_macs)
    assert (after.params, after.nonzero) == (before.params, before.nonzero)
    assert after.uncounted_ops == ()


def test_operators_that_multiply_are_not_called_free() -> None:
    multiply = {"Attention", "DeformConv", "Einsum", "GRU", "LSTM", "RNN", "DFT", "STFT", "Det"}
    assert not multiply & ZERO_MAC_OPS
