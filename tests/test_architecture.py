"""The rules of the house: what may import what, what is installed, what type checkers see."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "edgekit": {"bench", "export", "runtime", "train"},
    "bench": {"export", "runtime"},
    "export": {"runtime"},
    "train": {"runtime"},
    "runtime": set[str](),
}
TORCH = ("torch", "torchvision", "lightning", "torchmetrics", "safetensors", "torch_pruning")


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> list[tuple[str, int]]:
    """Every module that a file imports, those under TYPE_CHECKING too, with its line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            found.append((module, node.lineno))
            if module == "edgekit":
                found += [(f"edgekit.{alias.name}", node.lineno) for alias in node.names]
    return found


def room_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "edgekit":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "edgekit"


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room: str) -> None:
    allowed = ROOMS[room] | {room}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources(room)
        for module, line in imports(path)
        if (target := room_of(module)) is not None
        and target not in allowed
        and module != "edgekit.__version__"
    ]
    assert not wrong


def test_the_import_rule_sees_every_form(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from edgekit.train.recipe import Recipe\n"
        "def late():\n    import edgekit.bench.count\n"
        "from edgekit import export\n"
    )
    rooms = {room_of(module) for module, _ in imports(path)}
    assert {"train", "bench", "export"} <= rooms


def test_every_package_with_code_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    with_code = set()
    for room in ROOMS:
        for path in sources(room):
            folder = path.parent.relative_to(ROOT).as_posix().replace("/", ".")
            with_code.add(folder if room == "edgekit" else f"edgekit.{folder}")
    assert set(settings["packages"]) == with_code
    assert settings["package-dir"] == {
        "edgekit" if room == "edgekit" else f"edgekit.{room}": room for room in ROOMS
    }


def test_type_checkers_see_every_source() -> None:
    linked = {path.name: os.readlink(path) for path in (ROOT / ".typing" / "edgekit").iterdir()}
    expected = {room: f"../../{room}" for room in ROOMS if room != "edgekit"}
    for path in (ROOT / "edgekit").iterdir():
        if (path.is_dir() and path.name != "__pycache__") or path.suffix in (".py", ".typed"):
            expected[path.name] = f"../../edgekit/{path.name}"
    assert linked == expected


LIGHT = (
    "edgekit.cli",
    "edgekit.runtime.accuracy",
    "edgekit.export.to_onnx",
    "edgekit.export.optimize",
    "edgekit.export.quantize",
    "edgekit.bench.compare",
)


def modules_after(program: str) -> set[str]:
    """Top-level modules that are loaded once a program has run."""
    tail = "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", program + tail], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


@pytest.mark.parametrize("module", LIGHT)
def test_importing_does_not_import_torch(module: str) -> None:
    assert not modules_after(f"import {module}") & set(TORCH)


def test_the_front_door_does_not_load_what_help_does_not_need() -> None:
    heavy = {"numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "PIL", *TORCH}
    assert not modules_after("import edgekit.cli") & heavy
    assert "numpy" in modules_after("import edgekit.runtime.accuracy")
