"""Sums of a hand-made profile, and real profiles of models whose overhead is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.bench.profile import Profile, node_shares, profile_model, sum_profile
from edgekit.export.graph import load_graph
from edgekit.runtime.errors import ModelFileError

Event = dict[str, Any]


def node(name: str, op_type: str, start: int, duration: int) -> Event:
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "ts": start,
        "dur": duration,
        "args": {"op_name": op_type},
    }


def whole_run(start: int, duration: int) -> Event:
    return {"cat": "Session", "name": "model_run", "ts": start, "dur": duration, "args": {}}


EVENTS: list[Event] = [
    {"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 9000, "args": {}},
    node("conv", "Conv", 10_001, 7000),  # the first run is warm-up
    whole_run(10_000, 8000),
    node("cast_in", "Cast", 20_001, 100),
    node("conv", "Conv", 20_110, 600),
    node("Transpose", "Transpose", 20_720, 200),
    node("dequantize", "DequantizeLinear", 20_930, 100),
    whole_run(20_000, 1200),
    node("cast_in", "Cast", 30_001, 100),
    node("conv", "Conv", 30_110, 400),
    node("Transpose", "Transpose", 30_520, 400),
    node("dequantize", "DequantizeLinear", 30_930, 100),
    whole_run(30_000, 1400),
]


def test_runs_after_warm_up_are_summed_by_operator() -> None:
    profile = sum_profile(EVENTS, {"conv", "cast_in", "dequantize"}, runs=2)
    assert (profile.runs, profile.run_ms, profile.nodes_ms) == (2, 1.3, 1.0)
    rows = [(row.op_type, row.nodes, row.inserted, row.time_ms) for row in profile.operators]
    assert rows == [
        ("Conv", 1, 0, 0.5),
        ("Transpose", 1, 1, 0.3),
        ("Cast", 1, 0, 0.1),
        ("DequantizeLinear", 1, 0, 0.1),
    ]
    shares = {kind: (one.share, one.inserted_share) for kind, one in profile.overhead.items()}
    assert shares == {"cast": (0.1, 0.0), "layout": (0.3, 0.3), "quantize": (0.1, 0.0)}
    assert sum(row.share for row in profile.operators) == pytest.approx(1)
    assert json.loads(json.dumps(profile.to_json()))["overhead"]["layout"]["share"] == 0.3
    with_warm_up = sum_profile(EVENTS, set(), runs=3)
    assert with_warm_up.nodes_ms != profile.nodes_ms


def test_a_profile_with_too_few_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="3 runs instead of 4"):
        sum_profile(EVENTS, set(), runs=4)


def profiled(path: Path, shape: tuple[int, ...]) -> Profile:
    batch = np.random.default_rng(0).random(shape).astype(np.float32)
    return profile_model(path, load_graph(path), batch, warmup=2, runs=5)


def test_a_plain_model_has_no_casts_and_every_operator_of_it_is_seen(
    classifier_file: Callable[..., Path],
) -> None:
    profile = profiled(classifier_file(), (1, 1, 8, 8))
    names = {row.op_type for row in profile.operators}
    assert {"Gemm", "GlobalAveragePool"} <= names
    assert any("Conv" in name for name in names)
    assert profile.overhead["cast"].share == profile.overhead["quantize"].share == 0
    assert 0 < profile.nodes_ms < profile.run_ms


def test_casts_that_onnxruntime_puts_around_half_precision_are_told_from_the_file_s(
    tmp_path: Path,
) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    agraph (float[n, 64] x) => (float[n, 64] y) {
        [cast_in] half = Cast <to = 10> (x)
        [product] wide = MatMul (half, w)
        [bend] bent = Sigmoid (wide)
        [cast_out] y = Cast <to = 1> (bent)
    }
    """
    proto = onnx.parser.parse_model(text)
    weight = np.eye(64, dtype=np.float16)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    path = tmp_path / "half.onnx"
    path.write_bytes(proto.SerializeToString())
    cast = profiled(path, (64, 64)).overhead["cast"]
    assert 0 < cast.share < 1
    assert 0 <= cast.inserted_share <= cast.share


def test_fused_nodes_give_their_time_to_the_node_of_their_operator() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    agraph (float[n, 1, 8, 8] x, float[4, 1, 3, 3] w) => (float[n, 4, 6, 6] y) {
        [conv] c = Conv (x, w)
        [relu] y = Relu (c)
    }
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    events = [
        node("relu_nchwc", "Conv", 1, 60),
        node("conv_token_7", "QLinearConv", 70, 20),
        node("Transpose", "Transpose", 100, 15),
        node("stranger", "Gemm", 120, 5),
        whole_run(0, 130),
    ]
    shares = node_shares(sum_profile(events, {"conv", "relu"}, runs=1), model)
    assert shares == pytest.approx({"conv": 0.8})


def test_a_batch_that_the_model_cannot_run_is_named(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        hard (float[batch, 4] x) => (float[1, 4] y)
        <int64[2] shape = {1, 4}>
        {
            y = Reshape(x, shape)
        }
    """)
    path = tmp_path / "hard.onnx"
    onnx.save(proto, path)
    with pytest.raises(ModelFileError, match=r"hard\.onnx: cannot run a batch of 3: "):
        profile_model(path, load_graph(path), np.zeros((3, 4), np.float32), warmup=0, runs=1)
