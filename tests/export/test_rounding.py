from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.export.calibration import CalibrationReader, Feed
from edgekit.export.correct_biases import correct_biases, mean_outputs
from edgekit.export.equalize import find_scaling
from edgekit.export.graph import from_proto, to_proto
from edgekit.export.layerwise import affordable, walk_layers
from edgekit.export.quantize import quantize
from edgekit.export.refinement import Refinements
from edgekit.export.refinement_samples import Samples
from edgekit.export.rounding import choose_codes, round_adaptively
from edgekit.export.static_options import StaticOptions
from edgekit.export.verify import run_outputs

RNG = np.random.default_rng(3)
TEXT = (
    "g (float[n,3,8,8] x) => (float[n,5] y) {"
    "a = Conv<pads = [1,1,1,1]>(x, u, b) r = Relu(a)"
    "d = Conv<group = 2, pads = [1,1,1,1], strides = [2,2]>(r, v) s = Relu(d)"
    "p = GlobalAveragePool(s) f = Flatten(p) y = Gemm<transB = 1>(f, w, c) }"
)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def feeds(count: int = 6, seed: int = 1) -> list[Feed]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(0.4, 1, (16, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def model(text_graph) -> ir.Model:  # type: ignore[no-untyped-def]
    arrays = {
        "u": normal(12, 3, 3, 3),
        "b": normal(12),
        "v": normal(8, 6, 3, 3),
        "w": normal(5, 8),
        "c": normal(5),
    }
    arrays["v"][np.abs(arrays["v"]) < 0.4] = 0
    made = from_proto(
        onnx.shape_inference.infer_shapes(to_proto(text_graph(TEXT, **arrays)), strict_mode=True)
    )
    for index, node in enumerate(made.graph):
        node.name = f"{node.op_type.lower()}_{index}"
    return made


OFF = StaticOptions(refinements=Refinements("off", "off"), kernels="keep")


@cache
def _plain(model: ir.Model) -> ir.Model:
    return quantize(model, "int8", reader=feeds(), static=OFF).model


@pytest.fixture(scope="module")
def plain(model: ir.Model) -> ir.Model:
    return _plain(model)


def mean_errors(model: ir.Model, quantized: ir.Model) -> dict[str, float]:
    """The largest mean error of a channel of each layer, over the layer's deviation."""
    targets, found = mean_outputs(model, feeds()), {}
    for layer in walk_layers(quantized, feeds()):
        outputs = np.concatenate(layer.outputs)
        means = outputs.mean(axis=(0, *range(2, outputs.ndim)))
        error = np.abs(means - targets[str(layer.node.name)]).max()
        found[str(layer.node.name)] = float(error / outputs.std())
    return found


def test_a_walk_gives_what_the_whole_model_gives(plain: ir.Model) -> None:
    probe = from_proto(to_proto(plain))
    layers = list(walk_layers(plain, feeds(2)))
    assert [layer.node.op_type for layer in layers] == ["Conv", "Conv", "Gemm"]
    for layer in layers:
        name = str(layer.node.outputs[0].name)
        probe.graph.outputs[:] = [v for n in probe.graph for v in n.outputs if v.name == name]
        for feed, output in zip(feeds(2), layer.outputs, strict=True):
            np.testing.assert_allclose(run_outputs(probe, feed)[name], output, atol=1e-5)


def test_a_walk_takes_no_more_samples_than_memory_allows(plain: ir.Model) -> None:
    given = feeds(6)
    assert len(affordable(plain, given)) == 6
    one_sample = 12 * 8 * 8 * 4
    few = affordable(plain, given, 8 * one_sample)
    assert sum(len(feed["x"]) for feed in few) <= 8


def test_mean_errors_are_taken_out_layer_by_layer(model: ir.Model, plain: ir.Model) -> None:
    corrected, layers = correct_biases(model, plain, feeds())
    assert layers == 3
    assert max(mean_errors(model, plain).values()) > 2e-3
    assert max(mean_errors(model, corrected).values()) < 2e-4
    weights = {n: v for n, v in plain.graph.initializers.items() if "weight" in n or n in "uvw"}
    for name, value in weights.items():
        assert value.const_value is not None
        kept = corrected.graph.initializers[name].const_value
        assert kept is not None
        np.testing.assert_array_equal(kept.numpy(), value.const_value.numpy())


def test_the_model_given_is_unchanged(model: ir.Model, plain: ir.Model) -> None:
    before = [to_proto(one).SerializeToString(deterministic=True) for one in (model, plain)]
    correct_biases(model, plain, feeds(2))
    round_adaptively(model, plain, feeds(2))
    scaling = find_scaling(model, feeds(2))
    assert scaling is not None
    scaling.apply(model)
    assert before == [to_proto(one).SerializeToString(deterministic=True) for one in (model, plain)]


def codes(model: ir.Model) -> dict[str, np.ndarray]:
    return {
        str(value.name): value.const_value.numpy()
        for value in model.graph.initializers.values()
        if value.dtype == ir.DataType.INT8 and value.const_value and len(value.shape or ()) > 1
    }


def test_rounding_stays_next_to_the_weight_keeps_zeros_and_comes_closer(
    model: ir.Model, plain: ir.Model
) -> None:
    done: list[tuple[int, int]] = []
    rounded = round_adaptively(model, plain, feeds(), progress=lambda *at: done.append(at))
    assert rounded.layers == 3
    assert not rounded.left
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert rounded.error_share < 0.8
    before, after = codes(plain), codes(rounded.model)
    assert before.keys() == after.keys()
    for name, array in before.items():
        step = after[name].astype(int) - array
        assert np.abs(step).max() <= 1
    assert any((after[name] != array).any() for name, array in before.items())
    pruned = model.graph.initializers["v"].const_value
    assert pruned is not None
    assert not after["v_quantized"][pruned.numpy() == 0].any()


def test_when_time_is_up_codes_stay(model: ir.Model, plain: ir.Model) -> None:
    rounded = round_adaptively(model, plain, feeds(2), seconds=0)
    assert (rounded.layers, len(rounded.left)) == (0, 3)
    for name, array in codes(plain).items():
        np.testing.assert_array_equal(codes(rounded.model)[name], array)


def test_chosen_codes_are_never_worse_than_nearest_and_near_the_best() -> None:
    inputs = RNG.standard_normal((200, 8)) @ RNG.standard_normal((8, 8))
    moment = inputs.T @ inputs / 200
    weights = RNG.uniform(-5, 5, (6, 8))
    low, high = np.floor(weights), np.ceil(weights)
    nearest = np.rint(weights)

    def errors(chosen: np.ndarray) -> np.ndarray:
        difference = chosen - weights
        return np.einsum("oi,ij,oj->o", difference, moment, difference)

    chosen = choose_codes(weights, nearest, low, high, moment)
    every = np.stack(np.meshgrid(*[[0, 1]] * 8, indexing="ij"), -1).reshape(-1, 8)
    best = np.min([errors(low + up) for up in every], axis=0)
    assert (errors(chosen) <= errors(nearest) + 1e-12).all()
    assert errors(chosen).sum() < 0.7 * errors(nearest).sum()
    assert errors(chosen).sum() < 1.6 * best.sum()
    assert (errors(high) > errors(chosen)).all()


def test_after_the_deadline_codes_stay_as_they_are() -> None:
    weights = RNG.uniform(-5, 5, (64, 40))
    low, high, moment = np.floor(weights), np.ceil(weights), np.eye(40) + 1
    for start in (low, np.rint(weights)):
        found = choose_codes(weights, start, low, high, moment, time.monotonic() - 1)
        np.testing.assert_array_equal(found, start)


def test_inputs_of_zero_leave_the_nearest_codes() -> None:
    weights = RNG.uniform(-5, 5, (2, 4))
    nearest = np.rint(weights)
    found = choose_codes(weights, nearest, np.floor(weights), np.ceil(weights), np.zeros((4, 4)))
    np.testing.assert_array_equal(found, nearest)


def test_judges_are_no_learners() -> None:
    parts = Samples.of(feeds(8))
    learned = {feed["x"].tobytes() for feed in parts.learners}
    assert (len(parts.learners), len(parts.judges)) == (6, 2)
    assert not learned & {feed["x"].tobytes() for feed in parts.judges}
    halves = Samples.of(feeds(1))
    assert [len(part[0]["x"]) for part in (halves.learners, halves.judges)] == [12, 4]


def test_a_batch_of_many_is_parted_and_one_of_fixed_size_is_not() -> None:
    whole = [{"x": np.arange(2000.0, dtype=np.float32)[:, None]}]
    parts = Samples.of(whole)
    learned = np.concatenate([feed["x"] for feed in parts.learners])
    judged = np.concatenate([feed["x"] for feed in parts.judges])
    assert (len(learned), len(judged)) == (512, 128)
    assert not np.isin(judged, learned).any()
    fixed = Samples.of(whole, whole=True)
    assert [len(part[0]["x"]) for part in (fixed.learners, fixed.judges)] == [2000, 2000]


def test_a_model_of_a_fixed_batch_is_refined_on_one_batch(
    text_graph: Callable[..., ir.Model],
) -> None:
    fixed = text_graph(
        "g (float[32, 6] x) => (float[32, 4] y) { y = Gemm(x, w) }",
        w=RNG.standard_normal((6, 4)).astype(np.float32),
    )
    batch = {"x": RNG.standard_normal((32, 6)).astype(np.float32)}
    settings = quantize(fixed, "int8", reader=[batch]).report.settings
    assert "correct biases" in [one["step"] for one in settings["refinements"]]


def test_what_does_not_help_is_not_kept_and_all_is_recorded(model: ir.Model) -> None:
    options = StaticOptions(refinements=Refinements(rounding="adaptive"))
    reader = CalibrationReader.from_feeds(feeds(8))
    settings = quantize(model, "int8", reader=reader, static=options).report.settings
    assert settings["equalize"] == settings["bias_correction"] == "auto"
    assert [one["step"] for one in settings["refinements"]] == [
        "equalize",
        "correct biases",
        "round adaptively",
    ]
    for one in settings["refinements"]:
        assert one["kept"] == (one["after_db"] > one["before_db"])


def test_refinements_switched_off_are_not_tried(model: ir.Model) -> None:
    settings = quantize(model, "int8", reader=feeds(), static=OFF).report.settings
    assert "refinements" not in settings
    assert settings["bias_correction"] == "off"


def test_each_stage_tells_how_far_it_is(model: ir.Model) -> None:
    told: list[tuple[str, int, int]] = []
    options = StaticOptions(refinements=Refinements("on", "on", "adaptive"), kernels="keep")
    quantize(model, "int8", reader=feeds(), static=options, progress=lambda *at: told.append(at))
    last = {stage: (done, total) for stage, done, total in told}
    stages = ["trying equalization", "calibrating", "correcting biases", "rounding adaptively"]
    assert list(last) == stages
    assert all(done == total > 1 for done, total in last.values())
