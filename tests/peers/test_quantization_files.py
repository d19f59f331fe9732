"""The commands that compare quantized models: every tool makes a file, and nothing calls home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from edgekit.runtime.preprocessing import Preprocessing

pytest.importorskip("nncf")
pytest.importorskip("sklearn")

HERE = Path(__file__).parent
NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
digits (float[batch, 1, 8, 8] input) => (float[batch, 10] logits)
{
    features = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(input, conv_weight, conv_bias)
    active = Relu(features)
    flat = Flatten(active)
    logits = Gemm<transB = 1>(flat, weight, bias)
}
"""
# Python runs this first: whatever would leave the machine is written down and refused.
GUARD = """
import os, socket
def refuse(self, address, *rest):
    if self.family != socket.AF_UNIX:
        open(os.environ["CALLS"], "a").write(f"{address}\\n")
        raise OSError("no network")
socket.socket.connect = socket.socket.connect_ex = refuse
"""
TOOLS = ["float", "stock-qdq", "stock-qoperator", "nncf-onnx", "nncf-openvino", "edgekit",
         "edgekit-openvino"]  # fmt: skip


def network(path: Path) -> None:
    model = onnx.parser.parse_model(NETWORK)
    rng = np.random.default_rng(0)
    shapes = {"conv_weight": (4, 1, 3, 3), "conv_bias": (4,), "weight": (10, 256), "bias": (10,)}
    for name, shape in shapes.items():
        values = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    metadata = Preprocessing(8, 8, (0.3,), (0.37,), tuple("0123456789")).to_metadata()
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


@pytest.mark.slow
def test_every_tool_makes_a_file_that_is_timed_and_nothing_calls_home(tmp_path: Path) -> None:
    network(tmp_path / "net.onnx")
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    calls = tmp_path / "calls"
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "CALLS": str(calls),
        "HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
    }

    def run(*arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    folder = tmp_path / "peers"
    files = HERE / "quantization_files.py"
    run(files, folder, tmp_path / "net.onnx", "--samples", 40, "--limit", 50)
    note = json.loads((folder / "net" / "results.json").read_text())
    assert note["images"] == 50
    assert [entry["tool"] for entry in note["results"]] == TOOLS
    assert not [entry for entry in note["results"] if "error" in entry]
    sizes = {entry["tool"]: entry["bytes"] for entry in note["results"]}
    assert sizes["stock-qdq"] < sizes["float"]
    printed = run(HERE / "quantization_table.py", folder / "net", "--seconds", 1)
    rows = {line.split("|")[1].strip(): line for line in printed.splitlines() if "|" in line}
    assert set(rows) >= set(TOOLS)
    assert rows["float"].count("(1.00)") == 4
    assert rows["nncf-openvino"].count(" - ") == 2
    assert not calls.exists()
    guarded = "import socket; socket.create_connection(('192.0.2.1', 9), timeout=1)"
    done = subprocess.run(
        [sys.executable, "-c", guarded], env=environment, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert calls.exists()
