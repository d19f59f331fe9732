from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.bench.compare import bench_models
from edgekit.bench.confusion import confusion
from edgekit.bench.engine_onnxruntime import OnnxruntimeModel
from edgekit.bench.precision import ranges_depend_on_batch
from edgekit.bench.provenance import provenance
from edgekit.bench.settings import BenchSettings
from edgekit.bench.signal_to_noise import signal_to_noise
from edgekit.export.calibration import CalibrationReader
from edgekit.export.graph import load_graph
from edgekit.export.optimize import optimize
from edgekit.export.quantize import quantize
from edgekit.runtime.accuracy import Accuracy
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import DataError, InputError, ModelFileError

NORMALIZED = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[batch, 1, 8, 8] image) => (float[batch, 2, 8, 8] out)
{
    conv = Conv <kernel_shape = [1, 1]> (image, w)
    norm = BatchNormalization (conv, scale, shift, mean, var)
    out = Relu (norm)
}
"""


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 1, 8, 8)).astype(np.float32)


def test_confusion_counts_rows_of_true_classes() -> None:
    seen = Accuracy(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 2]))
    assert confusion(seen, ("a", "b", "c")).to_json() == {
        "class_names": ["a", "b", "c"],
        "matrix": [[1, 1, 0], [0, 1, 0], [0, 0, 1]],
    }


@pytest.mark.parametrize("text", ['{"a": NaN}', "[-Infinity]", "[1e999]"])
def test_provenance_keeps_the_text_of_numbers_that_are_not_finite(text: str) -> None:
    assert provenance({"edgekit.calibration": text}) == {"calibration": text}


def test_provenance_parses_what_edgekit_noted_and_nothing_else() -> None:
    metadata = {
        "edgekit.passes": '["a", "b"]',
        "edgekit.calibration": '{"samples": 5}',
        "edgekit.precision": "int8",
        "edgekit.source": "[broken",
        "other": "x",
    }
    assert provenance(metadata) == {
        "passes": ["a", "b"],
        "calibration": {"samples": 5},
        "precision": "int8",
        "source": "[broken",
    }


def test_a_model_beside_itself_has_no_noise(
    classifier_file: Callable[..., Path], samples: np.ndarray
) -> None:
    model = load_graph(classifier_file())
    found = signal_to_noise(model, model, [(samples, samples)]).layers
    assert [one.tensor for one in found] == ["conv", "relu", "pooled", "flat", "logits"]
    assert {one.db for one in found} == {None}


def test_the_ratio_is_that_of_the_formula(
    graph: Callable[..., ir.Model], samples: np.ndarray
) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[batch, 1, 8, 8] image) => (float[batch, 1, 8, 8] out) { out = Mul (image, factor) }"""
    one = graph(text, factor=np.float32([2.0]))
    other = graph(text, factor=np.float32([2.02]))
    (found,) = signal_to_noise(
        one, other, [(samples[:5], samples[:5]), (samples[5:], samples[5:])]
    ).layers
    assert found.db == pytest.approx(20 * np.log10(2 / 0.02), abs=1e-3)
    assert found.op_type == "Mul"


def test_a_quantizer_is_compared_behind_its_rounding(
    classifier_file: Callable[..., Path], images: Split
) -> None:
    model = load_graph(classifier_file())
    pixels = images.images.read(np.arange(64)).astype(np.float32).transpose(0, 3, 1, 2) / 255 - 0.5
    reader = CalibrationReader.from_feeds([{"image": pixels}])
    eight = quantize(model, "int8", reader=reader).model
    sixteen = quantize(model, "int16", reader=reader).model
    ratios = []
    for quantized in (eight, sixteen):
        found = signal_to_noise(model, quantized, [(pixels, pixels)]).layers
        db = {one.tensor: one.db for one in found}
        assert "relu" in db
        assert "conv" not in db  # its Relu is in the quantizer: no such tensor is left
        assert all(value is not None and value > 20 for value in db.values())
        ratios.append(db["relu"])
    assert ratios[1] > ratios[0]


def test_a_folded_normalization_is_found_under_its_operator(
    graph: Callable[..., ir.Model], samples: np.ndarray
) -> None:
    rng = np.random.default_rng(1)
    tensors = {name: rng.random(2).astype(np.float32) + 0.5 for name in ("scale", "mean", "var")}
    weights = rng.normal(size=(2, 1, 1, 1)).astype(np.float32)
    model = graph(NORMALIZED, w=weights, shift=np.float32([1, 2]), **tensors)
    folded = graph(NORMALIZED, w=weights, shift=np.float32([1, 2]), **tensors)
    optimize(folded, ["fold-batch-norm"])
    found = {
        one.tensor: one.db for one in signal_to_noise(model, folded, [(samples, samples)]).layers
    }
    assert set(found) == {"norm", "out"}
    assert all(db is None or db > 100 for db in found.values())


def test_models_of_other_tensors_are_refused(
    classifier_file: Callable[..., Path], graph: Callable[..., ir.Model], samples: np.ndarray
) -> None:
    other = graph(
        '<ir_version: 10, opset_import: ["" : 20]> '
        "g (float[b, 1, 8, 8] x) => (float[b, 1, 8, 8] y) { y = Relu (x) }"
    )
    with pytest.raises(ModelFileError, match="share no tensor"):
        signal_to_noise(load_graph(classifier_file()), other, [(samples, samples)])


def test_images_of_another_size_are_refused(classifier_file: Callable[..., Path]) -> None:
    model = load_graph(classifier_file())
    wrong = np.zeros((2, 3, 4, 4), np.float32)
    with pytest.raises(DataError, match="do not fit"):
        signal_to_noise(model, model, [(wrong, wrong)])


def test_the_json_carries_nodes_mistakes_origin_and_noise(
    classifier_file: Callable[..., Path], images: Split
) -> None:
    paths = [classifier_file(), classifier_file("zeros.onnx", zeros=20)]
    settings = BenchSettings(warmup=0, iterations=1, noise_images=8)
    first, second = json.loads(json.dumps(bench_models(paths, images, settings).to_json()))[
        "models"
    ]
    (conv,) = [node for node in first["nodes"] if node["op_type"] == "Conv"]
    assert conv["macs"] == 6 * 9 * 64
    assert conv["weight_bits"] == 32
    assert conv["time_share"] is None
    assert sum(map(sum, first["confusion"]["matrix"])) == 64
    diagonal = sum(first["confusion"]["matrix"][i][i] for i in range(4))
    assert diagonal == first["accuracy"]["correct"]
    assert first["provenance"]["class_names"] == list("abcd")
    assert first["signal_to_noise"] is None
    assert second["signal_to_noise"]["images"] == 8
    assert second["signal_to_noise"]["layers"][0]["db"] < 20


def test_noise_needs_images(classifier_file: Callable[..., Path]) -> None:
    settings = replace(BenchSettings(warmup=0, iterations=1), noise_images=4)
    with pytest.raises(InputError, match="--signal-to-noise needs images"):
        bench_models([classifier_file()], None, settings)


@pytest.fixture
def dynamic_file(classifier_file: Callable[..., Path]) -> Path:
    """The classifier in float32 behind a DynamicQuantizeLinear."""
    path = classifier_file("dynamic.onnx")
    proto = onnx.load(path)
    (conv,) = (node for node in proto.graph.node if node.op_type == "Conv")
    conv.input[0] = "read"
    made = [
        onnx.helper.make_node("DynamicQuantizeLinear", ["image"], ["codes", "step", "zero"]),
        onnx.helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["read"]),
    ]
    rest = [*proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend([*made, *rest])
    onnx.save(proto, path)
    return path


def test_accuracy_is_of_one_image_at_a_time_where_a_range_depends_on_the_batch(
    dynamic_file: Path,
    classifier_file: Callable[..., Path],
    images: Split,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    classify = OnnxruntimeModel.classify

    def counted(self: OnnxruntimeModel, batch: np.ndarray) -> np.ndarray:
        seen.append(len(batch))
        return classify(self, batch)

    monkeypatch.setattr(OnnxruntimeModel, "classify", counted)
    settings = BenchSettings(warmup=0, iterations=1, cold_starts=0)
    report = bench_models([dynamic_file, classifier_file()], images, settings)
    assert report.models[0].figures.precision != "dynamic-int8"
    assert seen == [1] * 64 + [64]


def test_noise_is_of_one_image_at_a_time_where_the_reference_s_range_depends_on_the_batch(
    dynamic_file: Path, classifier_file: Callable[..., Path], samples: np.ndarray
) -> None:
    reference, model = load_graph(dynamic_file), load_graph(classifier_file())
    samples *= np.arange(1, 7, dtype=np.float32)[:, None, None, None]
    each = np.split(samples, len(samples))
    alone = signal_to_noise(reference, model, [(one, one) for one in each])
    assert signal_to_noise(reference, model, [(samples, samples)]) == alone


def test_a_range_in_a_subgraph_depends_on_the_batch(graph: Callable[..., ir.Model]) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[batch, 4] x, bool yes) => (float[batch, 4] y)
    {
        y = If (yes) <
            then_branch = a () => (float[batch, 4] one) {
                codes, step, zero = DynamicQuantizeLinear (x)
                one = DequantizeLinear (codes, step, zero)
            },
            else_branch = b () => (float[batch, 4] two) { two = Identity (x) }
        >
    }
    """
    assert ranges_depend_on_batch(graph(text))
    assert not ranges_depend_on_batch(graph(NORMALIZED))


def test_a_batch_that_a_file_fixes_is_filled_and_what_fills_it_left_out(
    classifier_file: Callable[..., Path], samples: np.ndarray
) -> None:
    model, fixed = load_graph(classifier_file()), load_graph(classifier_file("fixed.onnx"))
    fixed.graph.inputs[0].shape = ir.Shape([4, 1, 8, 8])
    fixed.graph.outputs[0].shape = ir.Shape([4, 4])
    few = samples[:6]
    for pair in ((model, fixed), (fixed, model), (fixed, fixed)):
        found = signal_to_noise(*pair, [(few, few)])
        assert [one.tensor for one in found.layers] == ["conv", "relu", "pooled", "flat", "logits"]
        assert all(one.db is None or one.db > 100 for one in found.layers)
