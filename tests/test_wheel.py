"""The wheel is what people install: it must hold everything, and work without any extra."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
MODEL = """
import sys, onnx
model = onnx.parser.parse_model('''
<ir_version: 8, opset_import: ["" : 17]>
g (float[batch, 1, 4, 4] input) => (float[batch, 2] logits)
<float[2, 16] weight = {%s}>
{
    same = Identity(input)
    flat = Flatten(same)
    logits = Gemm<transB = 1>(flat, weight)
}''' %% ", ".join(str(n %% 7 - 3) for n in range(32)))
onnx.save(model, sys.argv[1])
"""


def run(*command: object, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Run outside the checkout, so that only what is installed can be imported."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "EDGEKIT"))}
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, cwd="/", env=environment
    )
    assert (result.returncode == 0) == ok, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # setuptools would pack what it left there
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT]
    run(*build)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment that holds the wheel without extras."""
    folder = tmp_path_factory.mktemp("light")
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
    run(*pip, "--constraint", ROOT / "constraints.txt", wheel)
    return folder / "bin"


@pytest.mark.slow
def test_wheel_holds_every_source_recipe_and_page(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in name}
    sources = {
        path.relative_to(ROOT).as_posix()
        for room in ("edgekit", "bench", "export", "runtime", "train")
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected = {name if name.startswith("edgekit/") else f"edgekit/{name}" for name in sources}
    assert packed == expected


@pytest.mark.slow
def test_a_light_installation_measures_and_explains_what_is_missing(
    installed: Path, tmp_path: Path
) -> None:
    edgekit = installed / "edgekit"
    packages = run(installed / "python", "-m", "pip", "list").stdout
    assert "torch" not in packages
    assert "scikit-learn" not in packages

    model, smaller = tmp_path / "model.onnx", tmp_path / "smaller.onnx"
    (tmp_path / "program.py").write_text(MODEL.replace("%%", "%"))
    run(installed / "python", tmp_path / "program.py", model)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(8):
            path = tmp_path / "images" / name / f"{number}.png"
            Image.linear_gradient("L").rotate(45 * number).resize((4, 4)).save(path)

    data = ("--data", tmp_path / "images")
    run(edgekit, "optimize", model, "-o", smaller)
    run(edgekit, "quantize", smaller, "--calib", tmp_path / "images", "-o", tmp_path / "q.onnx")
    table = run(edgekit, "bench", model, smaller, tmp_path / "q.onnx", *data).stdout
    assert "q.onnx" in table
    assert "Gemm" in run(edgekit, "inspect", model).stdout
    assert "b" in run(edgekit, "predict", model, tmp_path / "images" / "b" / "0.png").stdout

    missing = run(edgekit, "bench", model, "--data", "digits", ok=False)
    assert missing.returncode == 2
    assert "pip install 'edgekit[digits]'" in missing.stderr
    missing = run(edgekit, "train", "densenet-digits", "-o", tmp_path / "run", ok=False)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "pip install 'edgekit[train]'" in missing.stderr

    results, page = tmp_path / "results.json", tmp_path / "report.html"
    results.write_text(run(edgekit, "bench", model, *data, "--format", "json").stdout)
    missing = run(edgekit, "report", results, "-o", page, ok=False)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "pip install 'edgekit[report]'" in missing.stderr
    run(edgekit, "report", results, "-o", tmp_path / "report.md")
