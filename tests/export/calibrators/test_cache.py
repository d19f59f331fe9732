from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.export.calibration import CalibrationReader
from edgekit.export.calibrators import Calibrator, calibrator
from edgekit.export.calibrators.cache import CalibrationFile
from edgekit.export.graph import from_proto, to_proto
from edgekit.runtime.errors import InputError

MANIFEST: dict[str, Any] = {"method": "mse", "seed": 0, "sample_hashes": ["00" * 8] * 40}


@pytest.fixture
def model(text_graph: Callable[..., ir.Model]) -> ir.Model:
    return text_graph(
        "g (float[N, 4] x) => (float[N, 4] y) { y = Gemm(x, w) }", w=np.eye(4, dtype=np.float32)
    )


def reader(scale: float = 1.0) -> CalibrationReader:
    values = np.random.default_rng(0).standard_normal((200, 4), np.float32) * np.float32(scale)
    return CalibrationReader.from_feeds([{"x": values}])


def opened(path: Path, *, replace: bool = False, **changes: Any) -> CalibrationFile:
    return CalibrationFile(path, {**MANIFEST, **changes}, replace=replace)


def using(kept: CalibrationFile) -> Calibrator:
    return calibrator("mse", cache=kept)


def other(model: ir.Model) -> ir.Model:
    changed = from_proto(to_proto(model))
    changed.graph.initializers["w"].const_value = ir.tensor(2 * np.eye(4, dtype=np.float32))
    return changed


@pytest.fixture
def path(model: ir.Model, tmp_path: Path) -> Path:
    kept = opened(tmp_path / "cache.json")
    using(kept).ranges(model, reader(), ("Gemm",))
    kept.save()
    assert not kept.reused
    return kept.path


def test_ranges_come_back_without_a_look_at_the_data(path: Path, model: ir.Model) -> None:
    kept = opened(path)
    before = path.read_bytes()
    again = using(kept).ranges(model, reader(100), ("Gemm",))
    assert again == calibrator("mse").ranges(model, reader(), ("Gemm",))
    assert again != calibrator("mse").ranges(model, reader(100), ("Gemm",))
    kept.save()
    assert kept.reused
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "minmax"}, r"method \(mse there, minmax now\)"),
        ({"seed": 3}, r"seed \(0 there, 3 now\)"),
        ({"sample_hashes": ["ff" * 8] * 40}, "sample_hashes differs"),
    ],
)
def test_a_stale_file_is_refused_and_left_alone(
    path: Path, model: ir.Model, changes: dict[str, Any], message: str
) -> None:
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"otherwise: {message}.*--force") as caught:
        opened(path, **changes)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    kept = opened(path, replace=True, **changes)
    using(kept).ranges(model, reader(), ("Gemm",))
    kept.save()
    assert not kept.reused
    opened(path, **changes)


def test_another_model_or_other_operators_are_refused(path: Path, model: ir.Model) -> None:
    for changed, operators in ((other(model), ("Gemm",)), (model, ("Gemm", "Relu"))):
        with pytest.raises(InputError, match=r"the model, .* differs; give another --calib-cache"):
            using(opened(path)).ranges(changed, reader(), operators)
    kept = opened(path, replace=True)
    using(kept).ranges(other(model), reader(), ("Gemm",))
    assert not kept.reused


def test_one_file_holds_the_models_that_one_conversion_calibrates(
    model: ir.Model, tmp_path: Path
) -> None:
    first = opened(tmp_path / "cache.json")
    expected = [using(first).ranges(m, reader(), ("Gemm",)) for m in (model, other(model))]
    first.save()
    kept = opened(first.path)
    method = using(kept)
    assert [method.ranges(m, reader(9), ("Gemm",)) for m in (model, other(model))] == expected
    assert kept.reused
    more = using(kept).ranges(model, reader(), ("Gemm", "Relu"))
    assert more == expected[0]
    assert not kept.reused


def test_metadata_alone_makes_no_other_model(path: Path, model: ir.Model) -> None:
    model.metadata_props["edgekit.note"] = "1"
    kept = opened(path)
    using(kept).ranges(model, reader(), ("Gemm",))
    assert kept.reused


def test_warnings_are_kept_with_the_ranges(model: ir.Model, tmp_path: Path) -> None:
    few = CalibrationReader.from_feeds([{"x": np.eye(4, dtype=np.float32)}])
    first = opened(tmp_path / "cache.json")
    method = using(first)
    method.ranges(model, few, ("Gemm",))
    assert method.warnings
    first.save()
    again = using(opened(first.path))
    again.ranges(model, few, ("Gemm",))
    assert again.warnings == method.warnings


def damaged(content: dict[str, Any], kind: str) -> object:
    (found,) = content["models"].values()
    match kind:
        case "version":
            content["calibration_cache_version"] = 99
        case "nan":
            found["ranges"]["x"] = [float("nan"), 1]
        case "reversed":
            found["ranges"]["x"] = [1, -1]
        case "short":
            found["ranges"]["x"] = [1]
        case "text":
            found["ranges"]["x"] = ["a", "b"]
        case "list":
            return [content]
        case "models":
            del content["models"]
    return content


@pytest.mark.parametrize("kind", ["version", "nan", "reversed", "short", "text", "list", "models"])
def test_a_damaged_file_is_refused(path: Path, kind: str) -> None:
    path.write_text(json.dumps(damaged(json.loads(path.read_text()), kind)))
    with pytest.raises(InputError, match="no file that --calib-cache wrote"):
        opened(path)
    assert not opened(path, replace=True).reused


def test_a_file_of_something_else_is_refused(path: Path) -> None:
    for content in (b"", b"\xff\xfe", b"[" * 100_000, b"3"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="no file that --calib-cache wrote"):
            opened(path)
