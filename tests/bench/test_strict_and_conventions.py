"""`--strict` and the score conventions, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest

from edgekit.bench.compare import bench_models
from edgekit.bench.count import count
from edgekit.bench.scores import ScoreConventions, micronet2019
from edgekit.bench.settings import BenchSettings
from edgekit.cli import main
from edgekit.export.graph import load_graph

DETERMINANT = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 3, 3] x) => (float[1] y) { y = Det (x) }
"""


@pytest.fixture
def determinant(tmp_path: Path) -> Path:
    path = tmp_path / "det.onnx"
    path.write_bytes(onnx.parser.parse_model(DETERMINANT).SerializeToString())
    return path


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: exit status, output, messages."""

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["edgekit", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


Run = Callable[..., tuple[int, str, str]]


def test_strict_makes_an_uncounted_operator_an_error_that_names_it(
    run: Run, determinant: Path, classifier_file: Callable[..., Path]
) -> None:
    status, out, err = run("inspect", determinant, "--strict", "--format", "json")
    assert status == 1
    assert "det.onnx: no rule counts the MACs of Det" in " ".join(err.split())
    assert json.loads(out)["macs"]["uncounted_ops"] == ["Det"]
    assert run("inspect", determinant, "--format", "json")[0] == 0
    assert run("inspect", classifier_file(), "--strict", "--format", "json")[0] == 0


def test_bench_is_strict_too(run: Run, determinant: Path) -> None:
    arguments = ("bench", determinant, "--iterations", "1", "--warmup", "0", "--format", "json")
    assert run(*arguments, "--strict")[0] == 1
    status, out, _ = run(*arguments)
    assert status == 0
    assert json.loads(out)["models"][0]["activations"]["peak_bytes"] == (9 + 1) * 4


def test_bench_tells_what_the_arena_took(classifier_file: Callable[..., Path]) -> None:
    path = classifier_file(filters=256)

    def benched(cold_starts: int) -> Any:
        settings = BenchSettings(warmup=0, iterations=1, cold_starts=cold_starts)
        return bench_models([path], settings=settings).to_json()["models"][0]["activations"]

    found = benched(1)
    assert found["arena_bytes"] > 256 * 64 * 4
    assert found["lower_bound_bytes"] <= found["peak_bytes"] <= found["file_order_bytes"]
    assert benched(0) == {**found, "arena_bytes": None}


def test_conventions_are_chosen_and_stated(run: Run, classifier_file: Callable[..., Path]) -> None:
    path = classifier_file(zeros=10)
    counts = count(load_graph(path))
    chosen = ScoreConventions(mask_bits=2, accumulator_bits=16, free_16_bits=True)
    flags = ("--mask-bits", "2", "--accumulator-bits", "16", "--free-16-bits")

    def inspected(*arguments: str) -> dict[str, Any]:
        found = json.loads(run("inspect", path, "--format", "json", *arguments)[1])
        assert isinstance(found, dict)
        return found

    plain, other = inspected(), inspected(*flags)
    assert plain["settings"]["score"] == {
        "mask_bits": 1,
        "accumulator_bits": 32,
        "free_16_bits": False,
    }
    assert other["settings"]["score"] == {
        "mask_bits": 2,
        "accumulator_bits": 16,
        "free_16_bits": True,
    }
    assert other["score"]["micronet2019"] == micronet2019(counts, chosen)
    assert other["score"]["micronet2019"] != plain["score"]["micronet2019"]
    assert other["score"]["imt"] == plain["score"]["imt"]
    arguments = ("bench", path, "--iterations", "1", "--warmup", "0", "--format", "json")
    benched = json.loads(run(*arguments, *flags)[1])
    assert benched["settings"]["score"] == other["settings"]["score"]
    assert benched["models"][0]["score"] == other["score"]


def test_a_table_states_peak_and_conventions(
    run: Run, classifier_file: Callable[..., Path]
) -> None:
    out = run("inspect", classifier_file(), "--mask-bits", "4")[1]
    assert "bytes in the best order found" in out
    assert "setting mask_bits" in out
