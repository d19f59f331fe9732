"""Results files from anywhere: what is wrong with one is said in one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.bench.compare import bench_models
from edgekit.bench.report.calibration import read_calibration
from edgekit.bench.report.results_file import read_runs, run_of
from edgekit.bench.settings import BenchSettings
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import InputError


@pytest.fixture
def results(results_json: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return results_json("a.onnx", "b.onnx", "c.onnx")


def refuses(tmp_path: Path, content: object, match: str) -> None:
    path = tmp_path / "bad.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=match) as caught:
        read_runs([path])
    assert "bad.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_reads_like_the_comparison_it_came_from(
    classifier_file: Callable[..., Path], images: Split, tmp_path: Path
) -> None:
    report = bench_models([classifier_file()], images, BenchSettings(warmup=0, iterations=1))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(report.to_json()))
    (run,) = read_runs([path])
    assert run.source == str(path)
    entry, expected = run.entries[0], run_of(report).entries[0]
    assert entry.confusion is not None
    assert expected.confusion is not None
    assert entry.confusion.matrix.tolist() == expected.confusion.matrix.tolist()
    assert replace(entry, confusion=None) == replace(expected, confusion=None)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"words", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "holds a list, not an object"),
        (b"{}", "schema version none"),
        (b'{"schema_version": 2}', "schema version 2, and this edgekit reads version 1"),
        (b'{"schema_version": true}', "schema version"),
        (b'{"schema_version": 1}', "machine is missing"),
    ],
)
def test_what_is_no_results_file_is_refused(tmp_path: Path, content: bytes, match: str) -> None:
    refuses(tmp_path, content, match)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json: no such file"):
        read_runs([tmp_path / "absent.json"])


@pytest.mark.parametrize(
    ("place", "value", "match"),
    [
        (("models",), [], "holds no model"),
        (("models",), None, "models must be a list"),
        (("models", 0), 5, r"models\[0\] is 5, not an object"),
        (("models", 0, "path"), 5, r"models\[0\]\.path must be a string"),
        (("models", 0, "file_bytes"), -1, "file_bytes must be a whole number, 0 or more"),
        (("models", 0, "file_bytes"), True, "file_bytes must be a whole number"),
        (("models", 0, "file_bytes"), 10**400, "file_bytes must be a whole number"),
        (("models", 0, "latency_ms", "p50"), "fast", "p50 must be a number"),
        (("models", 0, "latency_ms", "p50"), float("nan"), "p50 must be a finite number"),
        (("models", 0, "latency_ms", "p50"), float("inf"), "p50 must be a finite number"),
        (("models", 0, "accuracy", "ci95"), [0.5], "ci95 must be two numbers"),
        (("models", 0, "confusion", "matrix"), [[1]], "2 rows of 2 counts"),
        (("models", 0, "confusion", "matrix", 0, 0), "x", "2 rows of 2 counts"),
        (("models", 0, "nodes", 0, "macs"), None, r"nodes\[0\]\.macs must be a whole number"),
        (("models", 1, "signal_to_noise", "layers", 0), {}, r"layers\[0\]\.tensor is missing"),
    ],
)
def test_a_damaged_value_is_named(
    tmp_path: Path, results: dict[str, Any], place: tuple[Any, ...], value: Any, match: str
) -> None:
    damaged = copy.deepcopy(results)
    holder = damaged
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    refuses(tmp_path, damaged, match)


def test_results_of_an_older_bench_are_read_without_details(
    tmp_path: Path, results: dict[str, Any]
) -> None:
    for model in results["models"]:
        for key in ("nodes", "provenance", "confusion", "signal_to_noise"):
            del model[key]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(results))
    (run,) = read_runs([path])
    assert run.entries[0].nodes == ()
    assert run.entries[0].confusion is None


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({}, "calibration schema version None"),
        ({"calibration_schema_version": 1}, "model is missing"),
        (
            {
                "calibration_schema_version": 1,
                "model": "m",
                "settings": {},
                "tensors": [
                    dict.fromkeys(("low", "high", "smallest", "largest", "outside"), 0)
                    | {"tensor": "x", "bits": 8, "counts": []}
                ],
            },
            "no histogram with a range",
        ),
    ],
)
def test_what_is_no_calibration_report_is_refused(tmp_path: Path, value: Any, match: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=match):
        read_calibration(path)
