"""`edgekit inspect`: what is in a file, as a table and as the contract's JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

Command = Callable[..., Any]

CONV_MACS = 3 * 3 * 4 * 8 * 8
GEMM_MACS = 64 * 10
WEIGHTS = {"features": 36 + 4, "normal": 4 * 4, "logits": 640 + 10}


def inspected(edgekit: Command, *arguments: object) -> dict[str, Any]:
    outcome = edgekit("inspect", *arguments, "--format", "json")
    assert outcome.status == 0, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def test_json_holds_the_contract(edgekit: Command, model: Path) -> None:
    found = inspected(edgekit, model)
    assert found["schema_version"] == 1
    assert found["path"] == str(model)
    assert found["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert (found["opset"], found["precision"]) == (17, "fp32")
    assert found["file_bytes"] == model.stat().st_size
    total = sum(WEIGHTS.values())
    assert found["params"] == {"total": total, "nonzero": total, "stored_bits": total * 32}
    macs = CONV_MACS + GEMM_MACS
    assert found["macs"] == {"dense": macs, "effective": macs, "uncounted_ops": []}
    assert found["activations"]["peak_bytes"] == 2 * 4 * 8 * 8 * 4
    assert found["score"].keys() == {"imt", "micronet2019"}
    assert found["inputs"] == [{"name": "input", "dtype": "FLOAT", "shape": ["batch", 1, 8, 8]}]
    assert found["operators"]["Conv"] == 1
    assert found["metadata"]["edgekit.mean"] == "[0.3]"


def test_json_has_every_node(edgekit: Command, model: Path) -> None:
    nodes = {node["op_type"]: node for node in inspected(edgekit, model)["nodes"]}
    assert list(nodes) == ["Conv", "BatchNormalization", "Relu", "MaxPool", "Flatten", "Gemm"]
    assert nodes["Conv"] == {
        "name": "features",
        "op_type": "Conv",
        "output_shape": [1, 4, 8, 8],
        "params": 40,
        "nonzero": 40,
        "macs": CONV_MACS,
        "effective_macs": CONV_MACS,
    }
    assert nodes["Gemm"]["macs"] == GEMM_MACS
    assert {node["macs"] for name, node in nodes.items() if name not in ("Conv", "Gemm")} == {0}


def test_zeros_lower_what_is_effective(edgekit: Command, model: Path) -> None:
    sparse = onnx.load(model)
    weight = next(tensor for tensor in sparse.graph.initializer if tensor.name == "conv_weight")
    weight.raw_data = bytes(18 * 4) + weight.raw_data[18 * 4 :]
    onnx.save(sparse, model)
    found = inspected(edgekit, model)
    assert found["macs"]["dense"] == CONV_MACS + GEMM_MACS
    assert found["macs"]["effective"] == CONV_MACS // 2 + GEMM_MACS
    assert found["params"]["total"] - found["params"]["nonzero"] == 18


def test_the_table_says_what_the_json_says(edgekit: Command, model: Path) -> None:
    outcome = edgekit("inspect", model)
    assert (outcome.status, outcome.err) == (0, "")
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert "parameters 706, of which 706 are not zero" in lines
    assert "MACs 2,944, of which 2,944 with non-zero weights" in lines
    assert "input input FLOAT ['batch', 1, 8, 8]" in lines
    assert "features Conv 1x4x8x8 40 40 2,304 2,304" in lines
    assert "edgekit.mean [0.3]" in lines


@pytest.fixture
def open_model(model: Path) -> Path:
    """A model that leaves its image's size open and does not say it in its metadata."""
    proto = onnx.load(model)
    del proto.metadata_props[:]
    del proto.graph.node[4:]
    proto.graph.output[0].CopyFrom(
        onnx.helper.make_tensor_value_info("pooled", onnx.TensorProto.FLOAT, list("nchw"))
    )
    for axis, name in ((2, "height"), (3, "width")):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    path = model.with_name("open.onnx")
    onnx.save(proto, path)
    return path


def test_open_axes_are_bound_by_hand(edgekit: Command, open_model: Path) -> None:
    found = inspected(edgekit, open_model, "--input-shape", "input:1,1,16,16")
    assert found["macs"]["dense"] == 4 * CONV_MACS


def test_open_axes_that_are_not_bound_say_how(refuses: Command, open_model: Path) -> None:
    assert "--input-shape NAME:1,3,224,224" in refuses("inspect", open_model).err
    wrong = refuses("inspect", open_model, "--input-shape", "other:1,1,8,8")
    assert "no input 'other'; it has input" in wrong.err


def test_a_shape_that_is_none_is_refused(edgekit: Command, model: Path) -> None:
    for shape in ("input", "input:", "input:1,x", "input:1,0,8,8", "input:²"):
        outcome = edgekit("inspect", model, "--input-shape", shape)
        assert outcome.status == 2
        assert "name:1,3,224,224" in outcome.err
        assert "Traceback" not in outcome.err


def test_files_that_are_no_models_are_refused(
    refuses: Command, model: Path, tmp_path: Path
) -> None:
    assert "no such file" in refuses("inspect", tmp_path / "absent.onnx").err
    assert "is a folder" in refuses("inspect", tmp_path).err
    bad = tmp_path / "bad.onnx"
    for content, message in ((b"", "empty"), (b"words", "not an ONNX file")):
        bad.write_bytes(content)
        assert message in refuses("inspect", bad).err
    bad.write_bytes(model.read_bytes()[:-20])
    assert "bad.onnx" in refuses("inspect", bad).err
