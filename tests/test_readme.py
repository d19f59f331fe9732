"""What the README tells a stranger to type works as it stands."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# These set the environment up, which the tests run in, or run this very test.
SET_UP = ("make demo", "make test", "pip install")


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [line for line in lines if not line.startswith(SET_UP)]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


@pytest.mark.slow
def test_commands_of_the_readme_run_in_order(tmp_path: Path) -> None:
    shown = commands()
    assert len(shown) >= 6
    for command in shown:
        first, *rest = shlex.split(command, comments=True)
        assert first == "edgekit"
        result = run([sys.executable, "-m", "edgekit", *rest], tmp_path)
        assert result.stdout, command
    left = {path.name for path in (tmp_path / "edgekit-demo").iterdir()}
    assert {"bench.json", "summary.md", "front.png", "report.html", "run", "optimized.onnx"} <= left
    assert {"fp16.onnx", "fp16-storage.onnx", "int8.onnx", "int16.onnx"} <= left
    assert "int8-packed.onnx" in left
    check_demo(tmp_path / "edgekit-demo")


def check_demo(folder: Path) -> None:
    """The demo's promises: half of the weights pruned, digits at 98%, int8 within half a point."""
    report = json.loads((folder / "bench.json").read_text())
    models = {Path(model["path"]).stem: model for model in report["models"]}
    top1 = {name: model["accuracy"]["top1"] for name, model in models.items()}
    assert top1["optimized"] >= 0.98
    assert top1["int8"] >= top1["optimized"] - 0.005
    params = models["optimized"]["params"]
    assert params["nonzero"] <= 0.55 * params["total"]
    assert models["int8"]["file_bytes"] < models["optimized"]["file_bytes"] / 1.8
    assert models["int8-packed"]["file_bytes"] < models["int8"]["file_bytes"] / 2
    assert models["int8-packed"]["accuracy"]["correct"] == models["int8"]["accuracy"]["correct"]


def test_python_example_of_the_readme_runs(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    output = run([sys.executable, "-c", program], tmp_path).stdout
    assert "top-1 agreement 100.00%" in output
    assert (tmp_path / "mine.onnx").is_file()


def test_files_that_the_readme_names_exist() -> None:
    for link in re.findall(r"\]\(([^):]+)\)", README):
        assert (ROOT / link).is_file(), link


def test_demo_table_of_the_readme_has_every_model() -> None:
    table = README.split("<!-- demo table -->")[1].split("##")[0]
    for name in ("exported", "optimized", "fp16", "fp16-storage", "int8", "int16", "int8-packed"):
        assert f"`{name}.onnx`" in table
