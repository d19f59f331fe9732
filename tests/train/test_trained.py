"""Trained networks by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.runtime.errors import CheckpointError
from edgekit.train import trained


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "trained"
    folder.mkdir()
    (folder / "small.safetensors").touch()
    monkeypatch.setattr(trained, "_folder", lambda: folder)
    return folder


def test_a_name_stands_for_the_shipped_network(shipped: Path) -> None:
    assert trained.shipped_checkpoints() == ("small",)
    assert trained.find_checkpoint(Path("small")) == shipped / "small.safetensors"


def test_a_file_of_that_name_goes_first(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shipped.is_dir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").touch()
    assert trained.find_checkpoint(Path("small")) == Path("small")


@pytest.mark.parametrize("path", ["gone/small", "small.onnx"])
def test_a_path_stays_a_path(shipped: Path, path: str) -> None:
    assert shipped.is_dir()
    assert trained.find_checkpoint(Path(path)) == Path(path)


def test_an_unknown_name_is_refused_with_those_that_there_are(shipped: Path) -> None:
    assert shipped.is_dir()
    with pytest.raises(CheckpointError, match=r"large: no such .* one of small"):
        trained.find_checkpoint(Path("large"))


def test_a_recipe_whose_teacher_or_start_is_missing_says_what_makes_it(tmp_path: Path) -> None:
    run = tmp_path / "vgg-cifar10-teacher"
    with pytest.raises(
        CheckpointError, match=r"edgekit train vgg-cifar10-teacher --output .* makes"
    ):
        trained.check_named(run / "model.safetensors", "distill.teacher")
    with pytest.raises(CheckpointError, match=r"which train\.start names; train it first"):
        trained.check_named(tmp_path / "mine" / "model.safetensors", "train.start")
    run.mkdir()
    (run / "model.safetensors").touch()
    trained.check_named(run / "model.safetensors", "distill.teacher")
