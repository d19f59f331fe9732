from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.export.graph import load_graph, save_graph
from edgekit.export.pack import pack
from edgekit.options import with_pack_form

SPARSE = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 1, 8, 8] input) => (float[N, 10] logits) {
  c = Conv<pads = [1, 1, 1, 1]>(input, stem)
  r = Relu(c)
  f = Flatten(r)
  logits = MatMul(f, head)
}
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    proto = onnx.parser.parse_model(SPARSE)
    for name, shape in (("stem", (16, 1, 3, 3)), ("head", (1024, 10))):
        weights = generator.normal(0, 0.1, shape) * (generator.random(shape) < 0.3)
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(weights.astype(np.float32), name)
        )
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    return path


def edgekit(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgekit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_pack_without_a_value_means_inline() -> None:
    assert with_pack_form(["optimize", "--pack", "m.onnx", "-o", "n.onnx"]) == [
        "optimize", "--pack=inline", "m.onnx", "-o", "n.onnx"
    ]  # fmt: skip
    assert with_pack_form(["quantize", "m.onnx", "--pack"])[-1] == "--pack=inline"
    given = ["optimize", "m.onnx", "--pack", "function"]
    assert with_pack_form(given) == given
    assert with_pack_form(["inspect", "m.onnx"]) == ["inspect", "m.onnx"]


def test_optimize_packs(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "packed.onnx"
    done = edgekit("optimize", "--pack", model, "-o", output, "--format", "json")
    assert done.returncode == 0, done.stderr
    packing = json.loads(done.stdout)["packing"]
    assert packing["form"] == "inline"
    assert packing["tensors"]["head"] == "mask"
    assert output.stat().st_size < 0.4 * model.stat().st_size
    assert not onnx.load(output).functions


def test_quantize_packs_a_codebook_in_a_function(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "packed.onnx"
    done = edgekit(
        "quantize", model, "--calib", "digits", "--samples", 32, "--mean", 0.3, "--std", 0.3,
        "--pack", "function", "--codebook", 3, "-o", output,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 bits; largest difference of an output" in done.stdout
    assert "function: " in done.stdout
    assert onnx.load(output).functions


@pytest.mark.parametrize("command", [["optimize", "--pack"], ["quantize", "--precision=fp16"]])
def test_a_packed_model_is_not_packed_or_quantized_again(
    command: list[str], model: Path, tmp_path: Path
) -> None:
    packed, output = tmp_path / "packed.onnx", tmp_path / "again.onnx"
    save_graph(pack(load_graph(model)).model, packed)
    done = edgekit(command[0], packed, *command[1:], "-o", output)
    assert done.returncode == 2
    assert "packed already: start from the one before --pack" in done.stderr
    assert not output.exists()


def test_a_codebook_out_of_range_is_one_line(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "packed.onnx"
    done = edgekit("optimize", model, "-o", output, "--codebook", 9)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "choose 2 to 6 bits" in done.stderr
    assert not output.exists()
