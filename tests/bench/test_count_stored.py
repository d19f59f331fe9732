"""Weights that are not stored as they are used: sparse, masked, coded; counted as both."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekit.bench.count import Counts, count
from edgekit.bench.scores import ScoreConventions, imt, storage_bits
from edgekit.export.graph import from_proto, load_graph, save_graph
from edgekit.export.pack import pack
from edgekit.export.quantize import quantize
from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.session import open_session

Graph = Callable[..., ir.Model]

HEAD = '<ir_version: 10, opset_import: ["" : 21]>'
PRODUCT = f"{HEAD} agraph (float[n, 8] x) => (float[n, 6] y) {{ y = MatMul (x, w) }}"


def sparse_weight() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return (rng.integers(1, 5, (8, 6)) * (rng.random((8, 6)) < 0.4)).astype(np.float32)


def as_sparse(array: NDArray[Any], *, coordinates: bool = False) -> onnx.SparseTensorProto:
    places = np.argwhere(array) if coordinates else np.flatnonzero(array)
    values = numpy_helper.from_array(array[array != 0], "w")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(places), array.shape)


def outputs(model: ir.Model | onnx.ModelProto) -> NDArray[np.float32]:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    x = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    result = open_session(proto, optimize=False).run(None, {"x": x})[0]
    return np.asarray(result, np.float32)


@pytest.mark.parametrize("coordinates", [False, True])
def test_a_sparse_initializer_counts_its_values_and_is_never_lost(
    tmp_path: Path, coordinates: bool
) -> None:
    weight = sparse_weight()
    proto = onnx.parser.parse_model(PRODUCT)
    proto.graph.sparse_initializer.append(as_sparse(weight, coordinates=coordinates))
    path = tmp_path / "sparse.onnx"
    path.write_bytes(proto.SerializeToString())
    model = load_graph(path)
    counts = count(model)
    nonzero = int(np.count_nonzero(weight))
    assert (counts.params, counts.nonzero) == (48, nonzero)
    assert (counts.macs, counts.effective_macs) == (48, nonzero)
    assert counts.stored_bits == nonzero * (32 + 64 * (2 if coordinates else 1))
    save_graph(model, tmp_path / "saved.onnx")
    saved = load_graph(tmp_path / "saved.onnx")
    np.testing.assert_array_equal(saved.graph.initializers["w"].const_value.numpy(), weight)
    np.testing.assert_array_equal(outputs(saved), outputs(proto))
    assert count(saved).stored_bits == 48 * 32


def test_a_constant_with_a_sparse_value_counts_like_an_initializer() -> None:
    weight = sparse_weight()
    proto = onnx.parser.parse_model(PRODUCT)
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"]))
    attribute = helper.make_attribute("sparse_value", as_sparse(weight))
    proto.graph.node[0].attribute.append(attribute)
    model = from_proto(proto)
    assert count(model).nonzero == np.count_nonzero(weight)
    np.testing.assert_array_equal(outputs(model), outputs(proto))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.indices.CopyFrom(numpy_helper.from_array(np.array([0, 99]))), "outside"),
        (lambda s: s.indices.CopyFrom(numpy_helper.from_array(np.array([0]))), "do not fit"),
        (lambda s: s.dims.__setitem__(slice(None), [2**20, 2**20]), "larger than"),
        (lambda s: s.dims.__setitem__(slice(None), [-2, -2]), "negative"),
        (lambda s: setattr(s.values, "raw_data", b"123"), "damaged"),
        (lambda s: setattr(s.values, "data_location", TensorProto.EXTERNAL), "external file"),
    ],
)
def test_damaged_sparse_tensors_are_refused(
    change: Callable[[onnx.SparseTensorProto], None], message: str
) -> None:
    weight = np.zeros((2, 2), np.float32)
    weight[0, :] = 1
    proto = onnx.parser.parse_model(PRODUCT)
    tensor = as_sparse(weight)
    change(tensor)
    proto.graph.sparse_initializer.append(tensor)
    with pytest.raises(ModelFileError, match=f"'w'.*{message}"):
        from_proto(proto)


# The mask's bits pick the places, a running count of them picks the values.
MASKED = f"""
{HEAD}
agraph (float[n, 8] x) => (float[n, 6] y)
<int64[1] last = {{-1}}, int64[1] flat = {{-1}}, int64[2] shape = {{8, 6}}, int64 axis = {{0}},
 int64[1] start = {{0}}, int64[1] stop = {{48}}, float zero = {{0}}, int64 one = {{1}},
 uint8[8] weights_of_bits = {{1, 2, 4, 8, 16, 32, 64, 128}}>
{{
    column = Unsqueeze (mask, last)
    bits = BitwiseAnd (column, weights_of_bits)
    set = Cast <to = 9> (bits)
    row = Reshape (set, flat)
    kept = Slice (row, start, stop)
    ones = Cast <to = 7> (kept)
    counted = CumSum (ones, axis)
    places = Sub (counted, one)
    found = Gather (values, places)
    decoded = Where (kept, found, zero)
    w = Reshape (decoded, shape)
    y = MatMul (x, w)
}}
"""


def masked(graph: Graph, weight: NDArray[np.float32]) -> ir.Model:
    packed = np.packbits(weight.reshape(-1) != 0, bitorder="little")
    values = np.append(weight[weight != 0], np.float32(0))
    return graph(MASKED, mask=packed, values=values)


def test_a_mask_and_its_values_count_as_the_weight_they_make(graph: Graph) -> None:
    weight = sparse_weight()
    model = masked(graph, weight)
    plain = graph(PRODUCT, w=weight)
    np.testing.assert_array_equal(outputs(model), outputs(plain))
    counts, dense = count(model), count(plain)
    assert (counts.params, counts.nonzero) == (dense.params, dense.nonzero)
    assert (counts.macs, counts.effective_macs) == (dense.macs, dense.effective_macs)
    stored = 48 + (dense.nonzero + 1) * 32  # a bit an element, the values, one to spare
    lookup = 8 * 8 + 32 + 64  # weights of the bits, the zero, the one
    assert counts.stored_bits == stored + lookup
    assert storage_bits(counts) == counts.stored_bits
    assert [p.bits for p in counts.learned] == [32]
    assert counts.uncounted_ops == ()


CODED = f"""
{HEAD}
agraph (float[n, 8] x) => (float[n, 6] y)
<uint8 low = {{15}}, uint8 sixteen = {{16}}, int64[1] last = {{-1}}, int64[2] shape = {{8, 6}}>
{{
    first = BitwiseAnd (codes, low)
    second = Div (codes, sixteen)
    a = Unsqueeze (first, last)
    b = Unsqueeze (second, last)
    both = Concat <axis = -1> (a, b)
    wide = Cast <to = 7> (both)
    places = Reshape (wide, shape)
    w = Gather (book, places)
    y = MatMul (x, w)
}}
"""


def coded(graph: Graph) -> tuple[ir.Model, NDArray[np.float32]]:
    codes = np.random.default_rng(3).integers(0, 16, 48).astype(np.uint8)
    book = np.linspace(-2, 13, 16).astype(np.float32)  # the third is zero
    packed = (codes[::2] | codes[1::2] << 4).astype(np.uint8)
    return graph(CODED, codes=packed, book=book), book[codes].reshape(8, 6)


def test_codes_and_their_book_count_as_the_weight_they_make(graph: Graph) -> None:
    model, weight = coded(graph)
    plain = graph(PRODUCT, w=weight)
    np.testing.assert_array_equal(outputs(model), outputs(plain))
    counts, dense = count(model), count(plain)
    assert 0 < dense.nonzero < 48
    assert (counts.params, counts.nonzero) == (48, dense.nonzero)
    assert counts.effective_macs == dense.effective_macs
    assert counts.stored_bits == 24 * 8 + 16 * 32 + 2 * 8


@pytest.mark.parametrize("where", ["", "places = Cast <to = 7> (codes)"])
def test_a_weight_that_a_branch_rebuilds_is_counted(graph: Graph, where: str) -> None:
    """Both branches use the same names; what the first begins with may lie around it."""
    inside = "" if where else "places = Cast <to = 7> (codes)"
    text = f"""
    {HEAD}
    agraph (float[n, 8] x, bool c) => (float[n, 6] y)
    {{
        {where}
        y = If (c) <
            then_branch = a () => (float[n, 6] r)
            {{ {inside} w = Gather (book, places) r = MatMul (x, w) }},
            else_branch = b () => (float[n, 6] r)
            {{ w = Mul (book2, factor) r = MatMul (x, w) }}
        >
    }}
    """
    codes = np.arange(48, dtype=np.uint8).reshape(8, 6) % 4
    other = np.ones((8, 6), np.float32)
    book, factor = np.arange(4, dtype=np.float32), np.arange(6, dtype=np.float32)
    counts = count(graph(text, codes=codes, book=book, book2=other, factor=factor))
    assert (counts.params, counts.nonzero) == (48 + 48, 36 + 40)
    assert counts.stored_bits == 48 * 8 + 4 * 32 + (48 + 6) * 32
    assert counts.macs == 48


def test_each_listed_constant_of_a_decoder_is_charged(graph: Graph) -> None:
    """48 codes of 8 bits, a book of 4 values, 6 factors and 6 offsets, none of them a tensor."""
    text = f"""
    {HEAD}
    agraph (float[n, 8] x) => (float[n, 6] y)
    {{
        book = Constant <value_floats = [0.0, 1.0, 2.0, 3.0]> ()
        factors = Constant <value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]> ()
        offsets = Constant <value_floats = [7.0, 8.0, 9.0, 10.0, 11.0, 12.0]> ()
        places = Cast <to = 7> (codes)
        found = Gather (book, places)
        scaled = Mul (found, factors)
        w = Add (scaled, offsets)
        y = MatMul (x, w)
    }}
    """
    codes = np.arange(48, dtype=np.uint8).reshape(8, 6) % 4
    counts = count(graph(text, codes=codes))
    assert (counts.params, counts.nonzero) == (48, 48)
    assert counts.stored_bits == 48 * 8 + (4 + 6 + 6) * 32


@pytest.mark.parametrize(
    "weight", ["value_floats = [0.0, 1.0, 2.0]", "value = float[3] {0, 1, 2}", "value_float = 4.0"]
)
def test_a_constant_of_a_function_counts_once_for_all_calls(graph: Graph, weight: str) -> None:
    text = f"""
    {HEAD[:-2]}, "local" : 1]>
    agraph (float[n, 3] x) => (float[n, 3] y) {{ a = local.scaled (x) y = local.scaled (a) }}
    <domain: "local", opset_import: ["" : 21]>
    scaled (p) => (q) {{ k = Constant <{weight}> () q = Mul (p, k) }}
    """
    counts = count(graph(text))
    is_scalar = weight.startswith("value_float ")
    assert (counts.params, counts.nonzero) == ((0, 0) if is_scalar else (3, 2))
    assert counts.stored_bits == (32 if is_scalar else 3 * 32)


def test_another_mask_is_another_count(graph: Graph) -> None:
    weight = sparse_weight()
    fewer = weight.copy()
    fewer[np.nonzero(fewer)[0][0], np.nonzero(fewer)[1][0]] = 0
    assert count(masked(graph, fewer)).nonzero == count(masked(graph, weight)).nonzero - 1


def test_codes_before_a_dequantization_keep_their_width(graph: Graph) -> None:
    text = MASKED.replace("w = Reshape (decoded, shape)", "q = Reshape (decoded, shape)").replace(
        "y = MatMul", "w = DequantizeLinear (q, scale) y = MatMul"
    )
    text = text.replace("float zero = {0}", "int8 zero = {0}, float scale = {0.5}")
    weight = sparse_weight()
    values = np.append(weight[weight != 0], 0).astype(np.int8)
    packed = np.packbits(weight.reshape(-1) != 0, bitorder="little")
    counts = count(graph(text, mask=packed, values=values))
    assert counts.nonzero == np.count_nonzero(weight)
    assert [p.bits for p in counts.learned] == [8]
    assert counts.nodes[-1].weight_bits == 8


def test_a_table_made_of_shapes_alone_is_no_weight(graph: Graph) -> None:
    """A causal mask that the graph computes holds nothing that was learned."""
    text = f"""
    {HEAD}
    agraph (float[1, 4, 4] x) => (float[1, 4, 4] y)
    <int64[2] shape = {{4, 4}}, float low = {{-10000}}>
    {{
        ones = ConstantOfShape <value = float[1] {{1}}> (shape)
        upper = Trilu <upper = 1> (ones)
        mask = Mul (upper, low)
        y = Add (x, mask)
    }}
    """
    assert count(graph(text)).params == 0


@pytest.mark.parametrize(
    "chosen", ["some = Gather (words, k)", "j = Gather (k, k) some = Cast <to = 8> (j)"]
)
def test_strings_that_are_chosen_from_others_are_no_weight(graph: Graph, chosen: str) -> None:
    text = f"""
    {HEAD}
    agraph (int64[n] i) => (string[n] y) <int64[2] k = {{1, 0}}>
    {{ {chosen} y = Gather (some, i) }}
    """
    counts = count(graph(text, words=np.array(["a", "b", "c"], object)))
    assert (counts.params, counts.macs) == (0, 0)


@pytest.mark.parametrize(
    ("noise", "rebuilt"),
    [
        ("RandomUniformLike (w)", False),
        ("Dropout (w, ratio, on)", False),
        ("Dropout (w, ratio, off)", True),
    ],
)
def test_what_chance_makes_of_a_weight_is_none_that_the_graph_rebuilds(
    graph: Graph, noise: str, rebuilt: bool
) -> None:
    text = f"""
    {HEAD}
    agraph (float[n, 8] x) => (float[n, 6] y)
    <float ratio = {{0.5}}, bool on = {{1}}, bool off = {{0}}>
    {{ r = {noise} v = Mul (r, w) y = MatMul (x, v) }}
    """
    counts = count(graph(text, w=sparse_weight()))
    assert any(parameter.packed for parameter in counts.parameters) == rebuilt
    assert next(node.runs for node in counts.nodes if node.op_type == "Mul") == int(not rebuilt)


def test_a_product_of_constants_is_no_work_for_a_sample(graph: Graph) -> None:
    text = f"""
    {HEAD}
    agraph (float[n, 8] x) => (float[n, 6] y) {{ w = MatMul (a, b) y = MatMul (x, w) }}
    """
    ones = np.ones((8, 2), np.float32)
    counts = count(graph(text, a=ones, b=np.ones((2, 6), np.float32)))
    assert (counts.macs, counts.params, counts.stored_bits) == (48, 48, (16 + 12) * 32)


def large_model(folder: Path, layers: int) -> Path:
    """Products with 4 MiB weights in one external file."""
    size = 1024
    rng = np.random.default_rng(5)
    proto = onnx.parser.parse_model(
        f"{HEAD} agraph (float[n, {size}] x) => (float[n, {size}] y{layers - 1}) {{"
        + " ".join(f"y{i} = MatMul ({f'y{i - 1}' if i else 'x'}, w{i})" for i in range(layers))
        + "}"
    )
    for i in range(layers):
        array = rng.integers(0, 2, (size, size)).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, f"w{i}"))
    path = folder / f"{layers}.onnx"
    onnx.save(proto, path, save_as_external_data=True, location=f"{layers}.data")
    return path


def counting_memory(path: Path) -> tuple[Counts, int]:
    model = load_graph(path)
    tracemalloc.start()
    counts = count(model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return counts, peak


def test_counting_maps_weights_and_copies_none(tmp_path: Path) -> None:
    few, small = counting_memory(large_model(tmp_path, 2))
    many, large = counting_memory(large_model(tmp_path, 8))
    assert (few.params, many.params) == (2 * 2**20, 8 * 2**20)
    assert 0 < many.nonzero < many.params
    assert small < 2 * 2**20  # half of one weight
    assert large < small + 2 * 2**20


def test_conventions_keep_what_a_packed_weight_stores(graph: Graph) -> None:
    counts = count(masked(graph, sparse_weight()))
    assert storage_bits(counts, mask_bits=8, free_16_bits=True) == counts.stored_bits
    assert ScoreConventions().mask_bits == 1


def test_a_model_that_edgekit_packed_counts_as_it_did_and_stores_less(
    classifier_file: Callable[..., Path],
) -> None:
    """Its weights share streams; what they store is charged once in all."""
    model = load_graph(classifier_file(filters=64, zeros=400))
    before, after = count(model), count(pack(model).model)
    assert (after.params, after.nonzero) == (before.params, before.nonzero)
    assert (after.macs, after.effective_macs) == (before.macs, before.effective_macs)
    assert after.nonzero * 32 < after.stored_bits < before.stored_bits
    assert {parameter.bits for parameter in after.learned} == {32}
    assert imt(after) == pytest.approx(imt(before), rel=1e-9)


def test_a_packed_model_of_4_bit_codes_is_scored_at_their_width(
    classifier_file: Callable[..., Path],
) -> None:
    model = load_graph(classifier_file(filters=256))
    plain, packed = count(model), count(pack(model, codebook=4).model)
    assert packed.stored_bits < plain.stored_bits / 3
    widths = [p.bits for p in packed.learned if p.elements > 1000]
    assert widths
    assert all(4 <= width <= 10 for width in widths)
    assert imt(packed) < imt(plain)


def test_packing_narrows_no_weights_that_are_stored_in_half_precision(graph: Graph) -> None:
    weight = np.zeros((64, 64), np.float32)
    weight[::4] = np.random.default_rng(0).normal(size=(16, 64))
    text = f"{HEAD} agraph (float[n, 64] x) => (float[n, 64] y) {{ y = MatMul (x, w) }}"
    stored = quantize(graph(text, w=weight), "fp16-storage").model
    before, after = count(stored), count(pack(stored).model)
    assert after.stored_bits < before.stored_bits
    assert imt(after) <= imt(before)
