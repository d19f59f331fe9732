from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.bench.baseline import compare_runs
from edgekit.bench.report.results_file import AccuracyEntry, Entry, Run, read_runs
from edgekit.runtime.errors import InputError

ENTRY = Entry(
    path="out/int8.onnx",
    sha256="a" * 64,
    opset=20,
    precision="int8",
    file_bytes=80_000,
    accuracy=AccuracyEntry(440, 450, 440 / 450, 0.96, 0.99, 3),
    params=1000,
    nonzero=900,
    stored_bits=8000,
    macs=1_000_000,
    effective_macs=900_000,
    uncounted_ops=(),
    peak_activation_bytes=4096,
    p50_ms=2.0,
    p90_ms=2.5,
    throughput_ips=480.0,
    peak_rss_bytes=60_000_000,
    imt=0.01,
    micronet2019=0.001,
    nodes=(),
    confusion=None,
    noise_reference="",
    noise=(),
    provenance={},
)
"""One model of a run; the runs below differ from it in what a test is about."""


def run(entry: Entry, *others: Entry, cpu: str = "Example CPU", data: str = "digits") -> Run:
    settings = {"engine": "onnxruntime", "threads": 1, "batch_size": 1}
    return Run("old.json", "0.1.0", cpu, "1.32.0", data, "test", settings, (entry, *others))


def test_what_changed_is_in_its_units() -> None:
    assert ENTRY.accuracy is not None
    now = replace(
        ENTRY,
        sha256="b" * 64,
        file_bytes=60_000,
        macs=900_000,
        p50_ms=1.5,
        imt=0.005,
        accuracy=replace(ENTRY.accuracy, correct=431, top1=431 / 450),
    )
    found = compare_runs(run(now), run(ENTRY))
    (change,) = found.changes
    assert not change.same_file
    assert change.drop_points == pytest.approx(2.0)
    assert change.file_bytes == (60_000, 80_000)
    assert change.macs == (900_000, 1_000_000)
    assert (change.latency_ratio, change.imt_ratio) == (0.75, 0.5)
    assert found.notes == ()
    assert found.of("out/int8.onnx") is change
    assert found.of("elsewhere.onnx") is None
    assert json.loads(json.dumps(found.to_json()))["changes"][0]["latency_ratio"] == 0.75


def test_models_are_matched_by_path_then_by_name() -> None:
    moved = replace(ENTRY, path="new/int8.onnx")
    fresh = replace(ENTRY, path="new/fp16.onnx")
    found = compare_runs(run(moved, fresh), run(ENTRY))
    assert [change.path for change in found.changes] == ["new/int8.onnx"]
    assert found.changes[0].same_file
    assert found.notes == ("new/fp16.onnx is not in the baseline",)
    twice = compare_runs(run(moved), run(ENTRY, replace(ENTRY, path="b/int8.onnx")))
    assert twice.changes == ()  # which of the two is not for us to say


def test_another_machine_s_latency_and_other_images_are_not_compared() -> None:
    found = compare_runs(run(ENTRY), run(ENTRY, cpu="Other CPU", data="cifar10"))
    assert (found.changes[0].latency_ratio, found.changes[0].drop_points) == (None, None)
    assert found.changes[0].imt_ratio == 1.0
    assert found.notes == (
        "latency is not compared: Example CPU now, Other CPU then",
        "accuracy is not compared: 450 images of digits test now, 450 images of cifar10 test then",
    )
    threads = replace(run(ENTRY), settings={**run(ENTRY).settings, "threads": 2})
    assert "threads 2 now, 1 then" in compare_runs(threads, run(ENTRY)).notes[0]
    assert ENTRY.accuracy is not None
    fewer = replace(ENTRY, accuracy=replace(ENTRY.accuracy, total=440))
    found = compare_runs(run(ENTRY), run(fewer))
    assert found.changes[0].drop_points is None
    assert found.notes[0].endswith("450 images of digits test now, 440 images of digits test then")


def test_a_baseline_of_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"schema_version": 7, "models": []}))
    with pytest.raises(InputError, match=r"old\.json: schema version 7"):
        read_runs([path])
