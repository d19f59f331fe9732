"""What `--batch-norm` leaves of a pre-activation network, and what is printed about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit.export.graph import load_graph
from edgekit.export.quantize import quantize

Command = Callable[..., Any]

PRE_ACTIVATION = """<ir_version: 8, opset_import: ["" : 17]>
g (float[batch, 3, 8, 8] input) => (float[batch, 6, 8, 8] y)
{
    p = Conv(input, v)
    q = Conv(input, w)
    c = Concat<axis = 1>(p, q)
    z = Abs(c)
    n = BatchNormalization(c, scale, shift, mean, variance)
    r = Relu(n)
    m = GlobalAveragePool(z)
    k = Conv(r, u)
    y = Add(k, m)
}"""


@pytest.fixture
def pre_activation(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(PRE_ACTIVATION)
    shapes = {
        "v": (3, 3, 1, 1), "w": (3, 3, 1, 1), "u": (6, 6, 1, 1),
        "scale": (6,), "shift": (6,), "mean": (6,), "variance": (6,),
    }  # fmt: skip
    for name, shape in shapes.items():
        array = rng.standard_normal(shape).astype(np.float32)
        array = np.abs(array) + np.float32(0.5) if name == "variance" else array
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    path = tmp_path / "pre.onnx"
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        ("threshold", {"Max", "Min"}),
        ("keep", {"BatchNormalization", "Relu"}),
        ("auto", {"BatchNormalization", "Relu"}),
    ],
)
def test_the_option_decides_what_is_left(
    edgekit: Command, pre_activation: Path, tmp_path: Path, choice: str, left: set[str]
) -> None:
    output = tmp_path / f"{choice}.onnx"
    outcome = edgekit("optimize", pre_activation, "-o", output, "--batch-norm", choice)
    assert outcome.status == 0, outcome.err
    operators = {node.op_type for node in onnx.load(output).graph.node}
    assert operators & {"Max", "Min", "Add", "BatchNormalization", "Relu"} == {*left, "Add"}
    assert f"Batch norm: {choice}." in " ".join(outcome.out.split())


def test_quantize_says_why_batch_norm_stays(
    pre_activation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_graph(pre_activation)
    next(n for n in model.graph if n.op_type == "BatchNormalization").name = "norm"
    reader = [{"input": np.random.default_rng(1).random((64, 3, 8, 8), np.float32)}]
    excluded = quantize(model, "int8", reader=reader, exclude="norm")
    assert any("--exclude names norm" in note for note in excluded.report.notes)
    monkeypatch.setattr("edgekit.export.thresholds.runs_thresholds_on_codes", lambda: False)
    monkeypatch.setattr("edgekit.export.threshold_codes.runs_thresholds_on_codes", lambda: False)
    older = quantize(model, "int8", reader=reader)
    assert any("has no Max and Min" in note for note in older.report.notes)
    for result in (excluded, older):
        assert "BatchNormalization" in {node.op_type for node in result.model.graph}


def test_what_was_done_and_why_not_is_reported(
    edgekit: Command, pre_activation: Path, tmp_path: Path
) -> None:
    told = {}
    for choice in ("threshold", "auto"):
        output = tmp_path / f"{choice}.onnx"
        arguments = ("-o", output, "--batch-norm", choice, "--format", "json")
        report = json.loads(edgekit("optimize", pre_activation, *arguments).out)["report"]
        assert report["batch_norm"] == choice
        told[choice] = next(
            step for step in report["steps"] if step["name"] == "turn-batch-norm-into-threshold"
        )
    assert [change["what"] for change in told["threshold"]["done"]] == [
        "BatchNormalization and Relu became Max and Min"
    ]
    assert told["threshold"]["refusals"] == told["auto"]["done"] == []
    assert "ps an element" in told["auto"]["refusals"][0]["reason"]


def test_an_unknown_choice_is_refused(
    edgekit: Command, pre_activation: Path, tmp_path: Path
) -> None:
    outcome = edgekit("optimize", pre_activation, "-o", tmp_path / "o.onnx", "--batch-norm", "all")
    assert outcome.status == 2
    assert not (tmp_path / "o.onnx").exists()
