"""`edgekit bench` as a user meets it: sweeps, profile, engines, baseline and gates."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgekit.bench.machine import usable_cores

Command = Callable[..., Any]
QUICK = ("--iterations", 5, "--warmup", 1, "--cold-starts", 0)


@pytest.fixture
def second(model: Path) -> Path:
    """The same network in a file of its own, a little larger."""
    path = model.with_name("second.onnx")
    proto = onnx.load(model)
    proto.doc_string = "x" * 500
    onnx.save(proto, path)
    return path


def test_a_sweep_and_a_profile_have_tables_of_their_own(
    edgekit: Command, model: Path, second: Path
) -> None:
    sweep = ("--threads", "1,2", "--batch-sizes", "2,4")
    outcome = edgekit("bench", model, second, *QUICK, *sweep, "--profile")
    assert outcome.status == 0, outcome.err
    assert "by threads and batch size" in outcome.out
    assert "to first" in outcome.out
    assert "Work beside the model's own" in outcome.out
    printed = edgekit("bench", model, *QUICK, *sweep, "--format", "json").out
    settings = json.loads(printed)["settings"]
    assert (settings["threads"], settings["batch_size"]) == (1, 2)
    pairs = [(pair["threads"], pair["batch_size"]) for pair in settings["sweep"]]
    assert pairs == [(1, 2), (1, 4), (2, 2), (2, 4)]


def test_cold_start_and_memory_stand_beside_steady_state(edgekit: Command, model: Path) -> None:
    outcome = edgekit("bench", model, "--iterations", 5, "--cold-starts", 1)
    assert "Cold start and memory" in outcome.out
    assert "Cold start" not in edgekit("bench", model, *QUICK).out


def test_gates_name_gate_and_figure_and_write_junit(
    edgekit: Command, model: Path, second: Path, tmp_path: Path
) -> None:
    junit = tmp_path / "gates.xml"
    size = model.stat().st_size
    command = ("bench", model, second, "--data", "digits", *QUICK, "--junit", junit)
    outcome = edgekit(*command, "--max-bytes", size, "--max-drop", 0)
    assert outcome.status == 1
    assert outcome.err == (
        f"edgekit: {second}: {second.stat().st_size} bytes, fails --max-bytes {size}\n"
    )
    assert "passed" in outcome.out
    assert "FAILED" in outcome.out
    root = ET.parse(junit).getroot()
    assert (root.get("tests"), root.get("failures")) == ("3", "1")
    assert edgekit(*command, "--max-bytes", 10**6).status == 2  # the file is there
    assert edgekit(*command, "--max-bytes", 10**6, "--force").status == 0
    assert ET.parse(junit).getroot().get("failures") == "0"


def test_a_baseline_tells_what_changed(
    edgekit: Command, model: Path, second: Path, tmp_path: Path
) -> None:
    command = ("bench", model, "--data", "digits", "--limit", 50, *QUICK)
    old = tmp_path / "old.json"
    old.write_text(edgekit(*command, "--format", "json").out)
    same = edgekit(*command, "--baseline", old, "--max-drop", 0)
    assert same.status == 0, same.err
    assert "Since" in same.out
    second.replace(model)
    gates = ("--max-latency-ratio", 1000, "--max-drop", 0)
    changed = edgekit(*command, "--baseline", old, *gates, "--format", "json")
    value = json.loads(changed.out)
    (change,) = value["baseline"]["changes"]
    assert change["same_file"] is False
    assert change["drop_points"] == 0
    assert change["latency_ratio"] > 0
    assert [(gate["gate"], gate["passed"]) for gate in value["gates"]] == [
        ("--max-drop", True),
        ("--max-latency-ratio", True),
    ]
    failed = edgekit(*command, "--baseline", old, "--max-latency-ratio", 0.0001)
    assert failed.status == 1
    assert "of the baseline's, fails --max-latency-ratio 0.0001" in failed.err


def test_latencies_of_other_input_shapes_are_not_compared(
    edgekit: Command, refuses: Command, tmp_path: Path
) -> None:
    path, old = tmp_path / "open.onnx", tmp_path / "old.json"
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        open (float[batch, 1, high, wide] x) => (float[batch, 1, high, wide] y) { y = Relu(x) }
    """
    onnx.save(onnx.parser.parse_model(text), path)
    command = ("bench", path, *QUICK, "--input-shape")
    old.write_text(edgekit(*command, "x:1,1,8,8", "--format", "json").out)
    gate = ("--baseline", old, "--max-latency-ratio", 10**6)
    assert edgekit(*command, "x:1,1,8,8", *gate).status == 0
    assert "input shapes" in refuses(*command, "x:1,1,64,64", *gate).err


def test_loadgen_s_summary_is_kept(edgekit: Command, model: Path) -> None:
    pytest.importorskip("mlperf_loadgen")
    command = ("bench", model, *QUICK, "--loadgen", "both", "--loadgen-seconds", 0.05)
    runs = json.loads(edgekit(*command, "--format", "json").out)["models"][0]["loadgen"]
    assert [run["scenario"] for run in runs] == ["SingleStream", "Offline"]
    assert all("MLPerf Results Summary" in run["summary"] for run in runs)


def test_another_engine_is_named(edgekit: Command, model: Path) -> None:
    pytest.importorskip("openvino")
    outcome = edgekit("bench", model, *QUICK, "--engine", "openvino", "--format", "json")
    value = json.loads(outcome.out)
    assert value["settings"]["engine"] == "openvino"
    assert value["models"][0]["difference_to_onnxruntime"] < 1e-4


def test_accuracy_on_images_that_calibrated_a_model_is_doubtful(
    edgekit: Command, model: Path
) -> None:
    quantized = model.with_name("q.onnx")
    assert edgekit("quantize", model, "-o", quantized, "--calib", "digits").status == 0
    files = ("bench", model, quantized, *QUICK, "--data", "digits")
    told = edgekit(*files, "--split", "train")
    assert told.status == 0
    (warning,) = (line for line in told.err.splitlines() if line.startswith("warning"))
    assert f"{quantized}: was calibrated on 512 images of digits (train)" in warning
    assert "calibrated" not in edgekit(*files).err


@pytest.fixture
def one_image_only(model: Path) -> Path:
    """The network with its batch size written into a Reshape, where its input leaves it open."""
    path = model.with_name("hard.onnx")
    proto = onnx.load(model)
    (flatten,) = (node for node in proto.graph.node if node.op_type == "Flatten")
    flatten.op_type = "Reshape"
    flatten.input.append("shape")
    proto.graph.initializer.append(onnx.helper.make_tensor("shape", 7, [2], [1, 64]))
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("more", [(), ("--profile",)])
def test_a_batch_that_a_model_cannot_run_is_named(
    edgekit: Command, refuses: Command, one_image_only: Path, more: tuple[str, ...]
) -> None:
    assert edgekit("bench", one_image_only, *QUICK, *more).status == 0
    told = refuses("bench", one_image_only, *QUICK, *more, "--batch-sizes", "1,8")
    assert f"{one_image_only}: cannot run a batch of 8: " in told.err


def test_a_model_that_cannot_classify_the_images_is_named(
    refuses: Command, model: Path, one_image_only: Path
) -> None:
    told = refuses("bench", model, one_image_only, *QUICK, "--data", "digits")
    assert f"edgekit: {one_image_only}: the model cannot be run: " in told.err


def test_a_model_of_a_scalar_is_refused(refuses: Command, tmp_path: Path) -> None:
    path = tmp_path / "scalar.onnx"
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float x) => (float y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), path)
    told = refuses("bench", path, *QUICK)
    assert f"{path}: the model's input 'x' has no axes" in told.err


def test_bad_input_is_one_line(
    refuses: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"schema_version": 99}')
    assert "schema version 99" in refuses("bench", model, "--baseline", other).err
    assert "no such" in refuses("bench", model, "--baseline", tmp_path / "none.json").err
    assert "--baseline" in refuses("bench", model, "--max-latency-ratio", 1).err
    assert "--data" in refuses("bench", model, "--max-drop", 1).err
    assert "--data" in refuses("bench", model, "--min-accuracy", 1).err
    assert "gate" in refuses("bench", model, "--junit", tmp_path / "j.xml").err
    assert "openvino" in refuses("bench", model, "--engine", "abacus").err
    assert "--profile" in refuses("bench", model, "--engine", "torch", "--profile").err
    assert "1 up" in refuses("bench", model, "--threads", "1,0").err
    for many in ("1000000", "1,1025"):
        assert (
            f"this machine has {usable_cores()} cores"
            in refuses(*("bench", model, "--threads", many)).err
        )
    assert "1 up" in refuses("bench", model, "--batch-sizes", "one").err
    assert "both" in refuses("bench", model, "--loadgen", "Server").err
    assert "--pin" in refuses("bench", model, "--pin", "--threads", 1024).err
    for package, extra, flags in (
        ("openvino", "openvino", ("--engine", "openvino")),
        ("mlperf_loadgen", "loadgen", ("--loadgen", "Offline", *QUICK)),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        assert f"edgekit[{extra}]" in refuses("bench", model, *flags).err
