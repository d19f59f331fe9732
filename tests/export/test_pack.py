from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from edgekit.bench.count import count
from edgekit.bench.scores import storage_bits
from edgekit.export import pack as pack_module
from edgekit.export.calibration import CalibrationReader
from edgekit.export.graph import from_proto, model_preprocessing, to_proto
from edgekit.export.pack import METADATA_KEY, pack
from edgekit.export.packing.builder import Builder
from edgekit.export.packing.check import FOLDING_LIMIT, load
from edgekit.export.packing.codebook import share_values
from edgekit.export.packing.decoder import Blob, write_blob
from edgekit.export.packing.storage import STORAGES, Packable, Storage
from edgekit.export.quantize import quantize
from edgekit.export.to_onnx import to_onnx
from edgekit.export.verify import random_inputs, run_outputs
from edgekit.runtime.data.load import load_split
from edgekit.runtime.errors import InputError, ModelFileError, PassError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.train.models.table import build_model
from edgekit.train.recipe import load_recipe

DIGITS = Preprocessing(8, 8, (0.3,), (0.36,), tuple("0123456789"))
SMALL = {"order": "post", "blocks": (2, 2), "growth": 12, "stem_width": 16}
WHOLE = load_recipe("densenet-cifar10-grouped").model_options


@cache
def float_model(whole: bool, sparsity: float) -> ir.Model:
    """A DenseNet of random weights, the smallest of each layer set to zero."""
    torch.manual_seed(0)
    module = build_model("densenet", WHOLE if whole else SMALL, in_channels=1, num_classes=10)
    images = DIGITS(load_split("digits", "train").images.read(np.arange(64)))
    with torch.no_grad():
        for _ in range(5):
            module.train()(torch.from_numpy(images))
        for weights in module.parameters():
            if weights.ndim > 1:
                weights.mul_(weights.abs() > torch.quantile(weights.abs().flatten(), sparsity))
    return to_onnx(module, DIGITS)


@cache
def int8_model(whole: bool, sparsity: float) -> ir.Model:
    model = float_model(whole, sparsity)
    pack_ready = from_proto(to_proto(model))
    fold(pack_ready)
    reader = CalibrationReader.from_split(load_split("digits", "train"), DIGITS, model, samples=64)
    return quantize(pack_ready, "int8", reader=reader).model


def fold(model: ir.Model) -> None:
    from edgekit.export.optimize import optimize

    optimize(model, ["fold-batch-norm"], verify=False)


def initializers(model: ir.Model) -> dict[str, NDArray[np.generic]]:
    values = model.graph.initializers.values()
    return {str(v.name): v.const_value.numpy() for v in values if v.const_value is not None}


@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_an_int8_file_is_within_a_tenth_of_what_its_values_need(sparsity: float) -> None:
    model = int8_model(True, sparsity)
    bits = storage_bits(count(model))
    size = pack(model).report.bytes_after
    assert size < 1.10 * bits / 8
    assert to_proto(model).ByteSize() > 2.5 * bits / 8


def test_a_file_of_4_bit_codes_is_within_a_tenth_of_what_they_need() -> None:
    model = int8_model(True, 0.5)
    report = pack(model, codebook=4).report
    pools = {name for name in report.tensors if "pool" in name}  # of one value each
    assert {report.tensors[name] for name in pools} == {"codes1"}
    assert {report.tensors[name] for name in report.tensors.keys() - pools} == {"mask+codes4"}
    bits = 0
    for tensor in count(model).parameters:
        name = tensor.name.removesuffix("_quantized")
        if name in pools:
            bits += tensor.elements + tensor.bits
        elif name in report.tensors:
            bits += 4 * tensor.nonzero + tensor.elements + 16 * tensor.bits
        else:
            bits += tensor.stored_bits
    assert report.bytes_after < 1.10 * bits / 8


@pytest.mark.parametrize("form", ["inline", "function"])
@pytest.mark.parametrize("precision", ["float", "int8"])
def test_what_runs_is_what_ran_before(precision: str, form: pack_module.Form) -> None:
    model = (float_model if precision == "float" else int8_model)(False, 0.5)
    result = pack(model, form=form)
    onnx.checker.check_model(to_proto(result.model), full_check=True)
    inputs = random_inputs(model, batch=5, seed=1)
    before, after = load(model, inputs), load(result.model, inputs)
    assert after.operators == before.operators
    assert after.same_outputs(before)
    if precision == "int8":
        convolutions = sum(node.op_type == "Conv" for node in model.graph)
        assert sum(n for op, n in after.operators.items() if "QLinearConv" in op) == convolutions
    unoptimized = run_outputs(model, inputs), run_outputs(result.model, inputs)
    assert np.array_equal(unoptimized[0]["logits"], unoptimized[1]["logits"])
    assert bool(result.model.functions) == (form == "function")
    assert set(result.report.tensors.values()) == {"mask"}
    assert result.report.notes == ()


def test_a_wrong_mask_is_found_by_its_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Blob.nonzero.func  # type: ignore[attr-defined]
    monkeypatch.setattr(Blob, "nonzero", property(lambda blob: np.roll(right(blob), 1)))
    with pytest.raises(PassError, match=r"its outputs differ.*leave out --pack"):
        pack(float_model(False, 0.5))


def test_weights_keep_their_names_behind_a_reshape_and_metadata_stays() -> None:
    model = float_model(False, 0.5)
    packed = pack(model).model
    weights = {name: array for name, array in initializers(model).items() if array.ndim > 1}
    reshapes = {str(n.name): n for n in packed.graph if n.op_type == "Reshape" and n.name}
    assert weights.keys() == reshapes.keys()
    for name, array in weights.items():
        (user, index), *_ = reshapes[name].outputs[0].uses()
        original = next(n for n in model.graph if n.name == user.name)
        assert original.inputs[index] is model.graph.initializers[name]
        assert array.ndim > 1
    assert model_preprocessing(packed) == DIGITS
    noted = json.loads(packed.metadata_props[METADATA_KEY])
    assert noted == {"form": "inline", "codebook": None, "storage": {"mask": len(weights)}}
    left = dict(packed.metadata_props)
    del left[METADATA_KEY]
    assert left == dict(model.metadata_props)
    convolutions = [n.name for n in model.graph if n.op_type == "Conv"]
    assert [n.name for n in packed.graph if n.op_type == "Conv"] == convolutions
    for before, after in ((model.graph.inputs, packed.graph.inputs),):
        assert [(v.name, v.dtype, v.shape) for v in before] == [
            (v.name, v.dtype, v.shape) for v in after
        ]


def test_the_model_given_is_unchanged_and_packing_is_reproducible() -> None:
    model = int8_model(False, 0.5)
    before = to_proto(model).SerializeToString(deterministic=True)
    first, second = pack(model, codebook=3), pack(model, codebook=3)
    assert to_proto(model).SerializeToString(deterministic=True) == before
    assert to_proto(first.model) == to_proto(second.model)


def test_an_int8_model_counts_the_same_packed() -> None:
    model = int8_model(False, 0.5)
    before, after = count(model), count(pack(model).model)
    for figure in ("elements", "nonzero"):
        totals = [sum(getattr(t, figure) for t in c.learned) for c in (before, after)]
        assert totals[0] == totals[1]
    macs = [[(n.macs, n.effective_macs) for n in c.nodes if n.macs] for c in (before, after)]
    assert macs[0] == macs[1]


@pytest.mark.parametrize(("sparsity", "masked_mask"), [(0.5, False), (0.95, True)])
def test_openvino_computes_the_same(sparsity: float, masked_mask: bool) -> None:
    openvino = pytest.importorskip("openvino", reason="a peer, not needed to use edgekit")
    model = float_model(False, sparsity)
    packed = pack(model).model
    assert (sum(node.op_type == "CumSum" for node in packed.graph) == 2) == masked_mask
    inputs = random_inputs(model)
    results = []
    for each in (model, packed):
        core = openvino.Core()
        read = core.read_model(to_proto(each).SerializeToString())
        compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        results.append(compiled(list(inputs.values()))[0].copy())
    assert np.array_equal(results[0], results[1])


DTYPES = [np.float32, np.float16, np.int8, np.uint8, np.int32]


@pytest.mark.parametrize("storage", STORAGES, ids=str)
@pytest.mark.parametrize("in_function", [False, True])
def test_every_storage_gives_every_type_back(storage: Storage, in_function: bool) -> None:
    generator = np.random.default_rng(0)
    for dtype in DTYPES:
        symbols = (1 << storage.code_bits) if storage.code_bits else 200
        levels = generator.permutation(np.arange(1, 256))[: min(symbols, 127)].astype(dtype)
        arrays = []
        for shape in ((3, 5, 2, 2), (7,), (1, 1), (130, 3)):
            array = generator.choice(levels, shape)
            if storage.masked:
                array[generator.random(shape) < 0.6] = 0
            arrays.append(array)
        decoded = unpacked(arrays, storage, in_function)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(arrays, decoded, strict=True))


@pytest.mark.parametrize("in_function", [False, True])
@pytest.mark.parametrize("storage", [Storage(True, 0), Storage(True, 3)], ids=str)
def test_a_mask_of_many_zero_bytes_has_a_mask(storage: Storage, in_function: bool) -> None:
    generator = np.random.default_rng(0)
    sparse = generator.integers(1, 8, (61, 149)).astype(np.int8) * (np.arange(149) < 40)
    tiny = generator.integers(1, 8, 3).astype(np.int8)
    decoded = unpacked([sparse, tiny], storage, in_function)
    assert np.array_equal(decoded[0], sparse)
    assert np.array_equal(decoded[1], tiny)
    values = [
        Packable(ir.Value(name="w", const_value=ir.tensor(array)), signed_zeros=False)
        for array in (sparse, generator.permutation(sparse.reshape(-1)))
    ]
    masks_its_mask = [Blob(storage, [value]).masks_its_mask for value in values]
    assert masks_its_mask == [True, False]


def unpacked(
    arrays: list[NDArray[np.generic]], storage: Storage, in_function: bool
) -> list[NDArray[np.generic]]:
    """What the decoder of a blob of these tensors gives, unoptimized."""
    names = [f"w{index}" for index in range(len(arrays))]
    values = [
        ir.Value(name=name, const_value=ir.tensor(array, name=name))
        for name, array in zip(names, arrays, strict=True)
    ]
    outputs = [ir.node("Identity", [value]).outputs[0] for value in values]
    for index, output in enumerate(outputs):
        output.name = f"y{index}"
        output.dtype = values[index].const_value.dtype  # type: ignore[union-attr]
        output.shape = ir.Shape(arrays[index].shape)
    graph = ir.Graph(
        [],
        outputs,
        nodes=[output.producer() for output in outputs],  # type: ignore[misc]
        initializers=values,
        opset_imports={"": 17},
        name="g",
    )
    model = ir.Model(graph, ir_version=9)
    builder = Builder("d")
    functions: dict[str, ir.Function] | None = {} if in_function else None
    write_blob(builder, Blob(storage, [Packable(v, signed_zeros=True) for v in values]), functions)
    for constant in builder.constants:
        graph.initializers.add(constant)
    graph.insert_before(graph[0], builder.nodes)
    pack_module._add_functions(model, functions or {})
    onnx.checker.check_model(to_proto(model), full_check=True)
    return list(run_outputs(model, {}).values())


def test_nan_infinity_and_a_signed_zero_survive() -> None:
    odd = np.zeros((16, 64), np.float32)
    odd[0, :4] = np.nan, np.inf, -np.inf, -0.0
    for storage in (Storage(True, 0), Storage(True, 3), Storage(False, 3)):
        (decoded,) = unpacked([odd], storage, False)
        assert decoded.tobytes() == odd.tobytes()


def test_the_sign_of_zero_is_dropped_only_where_it_is_multiplied(
    text_graph: Callable[..., ir.Model],
) -> None:
    weights = np.where(np.arange(4096).reshape(64, 64) % 3, np.float32(-0.0), np.float32(2))
    product = text_graph("g (float[N, 64] x) => (float[N, 64] y) { y = MatMul(x, w) }", w=weights)
    total = text_graph("g (float[64, 64] x) => (float[64, 64] y) { y = Div(x, w) }", w=weights)
    assert pack(product).report.tensors == {"w": "codes1"}
    assert pack(total).report.tensors == {"w": "codes1"}
    packable = Packable(product.graph.initializers["w"], signed_zeros=False)
    assert not np.signbit(packable.array).any()
    assert np.signbit(Packable(total.graph.initializers["w"], signed_zeros=True).array).any()


def test_what_onnxruntime_does_not_unpack_is_not_used() -> None:
    model = float_model(False, 0.5)
    limit = {FOLDING_LIMIT: "4000"}
    result = pack(model, runtime_options=limit)
    assert "mask: not used, onnxruntime does not unpack it at load" in result.report.notes
    assert "mask" not in result.report.tensors.values()
    inputs = random_inputs(model)
    assert load(result.model, inputs, limit).operators == load(model, inputs, limit).operators
    assert pack(model).report.notes == ()


def test_codes_are_used_for_few_values_without_any_rounding() -> None:
    model = from_proto(to_proto(float_model(False, 0.5)))
    assert share_values(model, 4) > 0
    report = pack(model).report
    assert set(report.tensors.values()) == {"mask+codes4"}
    assert report.max_error is None
    assert report.bytes_after < 0.4 * pack(float_model(False, 0.5)).report.bytes_after


@pytest.mark.parametrize("precision", ["float", "int8"])
def test_more_bits_make_a_larger_file_and_a_smaller_error(precision: str) -> None:
    model = (float_model if precision == "float" else int8_model)(False, 0.5)
    reports = [pack(model, codebook=bits).report for bits in (2, 4, 6)]
    sizes = [report.bytes_after for report in reports]
    errors = [report.max_error or 0.0 for report in reports]
    assert sizes == sorted(sizes)
    assert errors[0] > errors[1] > errors[2] > 0
    assert all(report.codebook for report in reports)


def test_biases_and_scales_do_not_share_a_blob() -> None:
    packed = pack(int8_model(False, 0.5)).model
    for node in packed.graph:
        if node.op_type != "Split":
            continue
        uses = Counter(
            "scale" if user.op_type.endswith("quantizeLinear") and index else "learned"
            for output in node.outputs
            for user, index in output.uses()
        )
        assert len(uses) == 1


@pytest.mark.parametrize("bits", [1, 7, 0, -4])
def test_widths_that_there_are_not_are_refused(bits: int) -> None:
    with pytest.raises(InputError, match=f"{bits}-bit codes is out of range: choose 2 to 6"):
        pack(float_model(False, 0.5), codebook=bits)


def test_an_old_opset_is_refused() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 11]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    )
    with pytest.raises(ModelFileError, match="needs opset 13 or later, the model has 11"):
        pack(from_proto(model))


def test_a_model_with_nothing_to_pack_passes(text_graph: Callable[..., ir.Model]) -> None:
    result = pack(text_graph("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"))
    assert result.report.tensors == {}
    assert [node.op_type for node in result.model.graph] == ["Relu"]


@pytest.mark.parametrize("precision", ["dynamic-int8", "fp16", "fp16-storage"])
def test_text_passes(text_graph: Callable[..., ir.Model], precision: str) -> None:
    model = text_graph(
        """g (float[N, 32] x) => (float[N, 16] y, string[2] z) {
            y = MatMul(x, w)
            z = Identity(labels)
        }""",
        w=np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32),
        labels=np.array(["no", "yes"], object),
    )
    found = pack(quantize(model, precision).model).model
    inputs = random_inputs(model)
    assert list(run_outputs(found, inputs)["z"]) == ["no", "yes"]


def test_equal_biases_of_half_precision_stay_apart(text_graph: Callable[..., ir.Model]) -> None:
    generator = np.random.default_rng(0)
    weights = {name: generator.normal(size=(16, 16)).astype(np.float16) for name in "wv"}
    model = text_graph(
        """g (float16[N, 16] x) => (float16[N, 16] y) {
            a = Gemm(x, w, b)
            r = Relu(a)
            y = Gemm(r, v, c)
        }""",
        **weights,
        b=np.ones(16, np.float16),
        c=np.ones(16, np.float16),
    )
    found = pack(model).model
    inputs = random_inputs(model)
    np.testing.assert_array_equal(run_outputs(found, inputs)["y"], run_outputs(model, inputs)["y"])
