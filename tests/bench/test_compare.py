"""The comparison on real files, and the JSON whose keys are a contract."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edgekit.bench.compare import bench_models
from edgekit.bench.inspect_model import inspect_model
from edgekit.bench.settings import BenchSettings
from edgekit.export.graph import load_graph, model_preprocessing
from edgekit.runtime.data.source import ArrayImages, Split
from edgekit.runtime.errors import DataError, InputError, ModelFileError
from edgekit.runtime.session import open_session, run_batch

QUICK = BenchSettings(warmup=1, iterations=3, cold_starts=0)
ModelFile = Callable[..., Path]


def test_json_has_the_keys_of_the_contract(classifier_file: ModelFile, images: Split) -> None:
    path = classifier_file()
    settings = replace(QUICK, cold_starts=1)
    report = json.loads(json.dumps(bench_models([path], images, settings).to_json()))
    assert list(report) == ["schema_version", "edgekit", "machine", "settings", "models"]
    assert report["schema_version"] == 1
    assert list(report["machine"]) == ["cpu", "isa", "cores", "onnxruntime", "conditions"]
    assert report["settings"] == {
        "data": "noise",
        "split": "test",
        "threads": 1,
        "batch_size": 1,
        "warmup": 1,
        "iterations": 3,
        "limit": None,
        "mean": None,
        "std": None,
        "input_shapes": {},
        "score": {"mask_bits": 1, "accumulator_bits": 32, "free_16_bits": False},
        "engine": "onnxruntime",
        "sweep": [],
        "pin": False,
        "cold_starts": 1,
        "profile": False,
        "loadgen": [],
        "loadgen_seconds": 10.0,
        "noise_images": None,
        "engine_version": onnxruntime.__version__,
        "pinned_cores": None,
    }
    (model,) = report["models"]
    assert list(model)[:13] == [
        "path",
        "sha256",
        "opset",
        "precision",
        "file_bytes",
        "accuracy",
        "params",
        "macs",
        "activations",
        "latency_ms",
        "throughput_ips",
        "peak_rss_bytes",
        "score",
    ]
    assert model["path"] == str(path)
    assert model["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (model["opset"], model["precision"]) == (20, "fp32")
    assert model["file_bytes"] == path.stat().st_size
    assert list(model["accuracy"]) == [
        "correct",
        "total",
        "top1",
        "ci95",
        "flips_vs_first",
        "images_per_second",
    ]
    assert model["params"] == {"total": 88, "nonzero": 88, "stored_bits": 88 * 32}
    assert model["macs"] == {
        "dense": 64 * 54 + 24,
        "effective": 64 * 54 + 24,
        "uncounted_ops": [],
    }
    assert model["activations"]["peak_bytes"] == 2 * 64 * 6 * 4
    assert list(model["latency_ms"]) == ["p50", "p90", "p99", "mean", "min"]
    assert model["throughput_ips"] > 0
    assert model["peak_rss_bytes"] > 1_000_000
    assert list(model["score"]) == ["imt", "micronet2019"]
    assert model["latency_ratio"] == {"p50": 1.0, "ci95": None}  # three rounds tell no interval
    assert list(model["warmup"]) == ["runs", "stable"]
    assert model["cold_start_ms"]["load"] > 0
    assert model["memory_bytes"]["start"] < model["memory_bytes"]["peak"] == model["peak_rss_bytes"]
    assert (model["sweep"], model["profile"], model["loadgen"]) == ([], None, [])
    assert model["difference_to_onnxruntime"] is None


def test_without_data_accuracy_is_null(classifier_file: ModelFile) -> None:
    report = bench_models([classifier_file()], None, QUICK).to_json()
    assert report["models"][0]["accuracy"] is None
    assert (report["settings"]["data"], report["settings"]["split"]) == (None, None)


def test_accuracy_and_flips_are_those_of_the_models(
    classifier_file: ModelFile, images: Split
) -> None:
    paths = [classifier_file("a.onnx"), classifier_file("b.onnx", zeros=30)]
    report = bench_models(paths, images, QUICK)
    classes = []
    for path in paths:
        preprocessing = model_preprocessing(load_graph(path))
        assert preprocessing is not None
        pixels = images.images.read(np.arange(64))
        classes.append(run_batch(open_session(path), preprocessing(pixels)).argmax(1))
    accuracies = [model.accuracy for model in report.models]
    assert accuracies[0] is not None
    assert accuracies[1] is not None
    assert accuracies[0].flips_vs_first == 0
    assert accuracies[1].flips_vs_first == (classes[0] != classes[1]).sum() > 0
    for accuracy, predicted in zip(accuracies, classes, strict=True):
        assert accuracy is not None
        assert accuracy.correct == (predicted == images.labels).sum()
        assert accuracy.ci95[0] < accuracy.top1 < accuracy.ci95[1]
    assert report.models[1].figures.nonzero == 88 - 30


def test_every_stage_reports_progress(classifier_file: ModelFile, images: Split) -> None:
    steps: list[tuple[str, int, int]] = []
    paths = [classifier_file("a.onnx"), classifier_file("b.onnx")]
    bench_models(paths, images, QUICK, progress=lambda *step: steps.append(step))
    ends = {stage: (done, total) for stage, done, total in steps}
    assert ends == {"count": (2, 2), "accuracy": (128, 128), "latency": (6, 6), "the rest": (2, 2)}


def test_a_limit_spreads_over_the_data(classifier_file: ModelFile, images: Split) -> None:
    report = bench_models([classifier_file()], images, replace(QUICK, limit=10))
    accuracy = report.models[0].accuracy
    assert accuracy is not None
    assert accuracy.total == 10


def test_mean_and_std_can_be_overridden(classifier_file: ModelFile, images: Split) -> None:
    settings = replace(QUICK, mean=(0.0,), std=(100.0,))
    plain, changed = (
        bench_models([classifier_file()], images, one).models[0].accuracy
        for one in (QUICK, settings)
    )
    assert plain is not None
    assert changed is not None
    assert plain.correct != changed.correct


def test_external_data_is_part_of_the_file_size(classifier_file: ModelFile, tmp_path: Path) -> None:
    proto = onnx.load(classifier_file())
    path = tmp_path / "outside.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    inspection = inspect_model(path)
    sizes = path.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    assert inspection.figures.file_bytes == sizes > path.stat().st_size
    assert inspection.figures.params == 88


def test_other_class_names_are_refused(classifier_file: ModelFile, images: Split) -> None:
    with pytest.raises(DataError, match=r"model\.onnx.*classes"):
        bench_models([classifier_file(names="wxyz")], images, QUICK)


def test_another_number_of_classes_is_refused(classifier_file: ModelFile, images: Split) -> None:
    five = replace(images, class_names=tuple("abcde"))
    with pytest.raises(DataError, match=r"model\.onnx.*4 outputs.*5 classes"):
        bench_models([classifier_file(names="")], five, QUICK)


def test_images_of_another_size_are_refused(classifier_file: ModelFile, images: Split) -> None:
    wide = replace(images, images=ArrayImages(np.zeros((64, 8, 9, 1), np.uint8)))
    with pytest.raises(DataError, match="8, 9, 1"):
        bench_models([classifier_file()], wide, QUICK)


def test_no_model_and_a_damaged_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one"):
        bench_models([])
    (tmp_path / "broken.onnx").write_bytes(b"\x00\x01")
    with pytest.raises(ModelFileError, match=r"broken\.onnx"):
        bench_models([tmp_path / "broken.onnx"])


def test_a_sweep_measures_every_pair_and_the_first_only_once(
    classifier_file: ModelFile, images: Split
) -> None:
    paths = [classifier_file("a.onnx"), classifier_file("b.onnx")]
    steps: list[tuple[str, int, int]] = []
    settings = replace(QUICK, sweep_threads=(1, 2), sweep_batch_sizes=(1, 8))
    report = bench_models(paths, images, settings, progress=lambda *step: steps.append(step))
    pairs = [(1, 1), (1, 8), (2, 1), (2, 8)]
    for model in report.models:
        assert [(one.threads, one.batch_size) for one in model.sweep] == pairs
        assert model.sweep[0] is model.timing
        assert model.sweep[0].latency == model.latency
    assert [one.ratio.p50 for one in report.models[0].sweep] == [1.0] * 4
    printed = json.loads(json.dumps(report.to_json()))
    assert printed["settings"]["sweep"][3] == {"threads": 2, "batch_size": 8}
    assert (printed["settings"]["threads"], printed["settings"]["batch_size"]) == (1, 1)
    assert printed["models"][1]["sweep"][3]["throughput_ips"] > 0
    assert ("sweep", 24, 24) in steps


def test_a_fixed_batch_is_refused_before_anything_runs(
    classifier_file: ModelFile, images: Split
) -> None:
    path = classifier_file()
    proto = onnx.load(path)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    path.write_bytes(proto.SerializeToString())
    steps: list[str] = []
    for settings, message in (
        (replace(QUICK, batch_size=4, sweep_batch_sizes=(8,)), "batches of 4 only, not of 8"),
        (replace(QUICK, batch_size=4, loadgen=("SingleStream",)), "--loadgen Offline"),
    ):
        if settings.loadgen:
            pytest.importorskip("mlperf_loadgen")
        with pytest.raises(InputError, match=rf"model\.onnx.*{message}"):
            bench_models([path], images, settings, progress=lambda stage, *_: steps.append(stage))
    assert not steps


def test_a_profile_gives_the_nodes_their_shares(classifier_file: ModelFile, images: Split) -> None:
    path = classifier_file()
    proto = onnx.load(path)
    for node in proto.graph.node:
        node.name = node.output[0]
    path.write_bytes(proto.SerializeToString())
    (model,) = bench_models([path], images, replace(QUICK, profile=True)).models
    assert model.profile is not None
    assert model.profile.runs == 3
    assert model.details is not None
    assert {"conv", "logits"} <= set(model.details.time_shares)
    assert 0.1 < sum(model.details.time_shares.values()) <= 1.0001


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot pin")
def test_pinning_is_told_and_undone(classifier_file: ModelFile) -> None:
    before = os.sched_getaffinity(0)
    report = bench_models([classifier_file()], None, replace(QUICK, pin=True)).to_json()
    assert report["settings"]["pinned_cores"] == [max(before)]
    assert report["machine"]["cores"] == len(before)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "abacus"}, "--engine abacus: no such engine; choose one of onnxruntime"),
        ({"engine": "openvino", "profile": True}, "--profile"),
        ({"sweep_threads": (1, 0)}, "--threads 1, 0"),
        ({"sweep_batch_sizes": (0,)}, "--batch-sizes 0"),
        ({"loadgen": ("Server",)}, "--loadgen Server: choose SingleStream, Offline or both"),
        ({"cold_starts": -1}, "--cold-starts -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BenchSettings(**settings)


@pytest.mark.parametrize("name", ["threads", "batch_size", "iterations", "limit"])
def test_settings_out_of_range_name_their_flag(name: str) -> None:
    with pytest.raises(InputError, match="--" + name.replace("_", "-")):
        BenchSettings(**{name: 0})


def test_inspect_lists_every_node_in_the_contract_s_keys(classifier_file: ModelFile) -> None:
    inspection = inspect_model(classifier_file(zeros=4))
    printed = json.loads(json.dumps(inspection.to_json()))
    assert printed["params"] == {"total": 88, "nonzero": 84, "stored_bits": 88 * 32}
    assert printed["macs"]["effective"] == 64 * 50 + 24
    assert printed["activations"]["peak_bytes"] == 3072
    assert printed["nodes"][0] == {
        "name": "conv",
        "op_type": "Conv",
        "output_shape": [1, 6, 8, 8],
        "params": 60,
        "nonzero": 56,
        "macs": 64 * 54,
        "effective_macs": 64 * 50,
    }
    assert printed["inputs"] == [{"name": "image", "dtype": "FLOAT", "shape": ["batch", 1, 8, 8]}]
    assert printed["operators"]["Conv"] == 1
    assert [node["op_type"] for node in printed["nodes"]][-1] == "Gemm"
