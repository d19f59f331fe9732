from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekit.runtime.errors import CheckpointError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgekit.train.models.table import build_model
from edgekit.train.recipe_tables import DataRecipe
from edgekit.train.teacher import Ensemble, load_teachers

STUDENT = Preprocessing(8, 8, (0.3,), (0.4,), ("a", "b", "c"))
OPTIONS = {"blocks": [1], "growth": 4, "stem_width": 4, "bottleneck": 0}


def saved(path: Path, preprocessing: Preprocessing) -> Path:
    classes = len(preprocessing.class_names)
    module = build_model("densenet", OPTIONS, in_channels=1, num_classes=classes)
    state = module.state_dict()
    save_checkpoint(
        Checkpoint("densenet", OPTIONS, 1, classes, preprocessing, "digits", "", state), path
    )
    return path


def test_a_fitting_teacher_loads(tmp_path: Path) -> None:
    own = Preprocessing(8, 8, (0.1,), (0.2,), STUDENT.class_names)
    path = saved(tmp_path / "teacher.safetensors", own)
    images = torch.rand(2, 1, 8, 8)
    own_images = (images * STUDENT.std[0] + STUDENT.mean[0] - own.mean[0]) / own.std[0]
    expected = load_checkpoint(path).build().eval()(own_images)
    found = load_teachers([path], STUDENT).eval()(images)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            Preprocessing(8, 8, (0.1,), (0.2,), ("a", "b")),
            r"knows the classes 2 \(a, b\), the data",
        ),
        (Preprocessing(8, 8, (0.1,), (0.2,), ("a", "c", "b")), r"3 \(a, c, b\)"),
        (Preprocessing(16, 8, (0.1,), (0.2,), ("a", "b", "c")), r"takes images \[16, 8, 1\]"),
    ],
)
def test_a_teacher_of_other_classes_or_sizes_is_refused(
    tmp_path: Path, own: Preprocessing, message: str
) -> None:
    path = saved(tmp_path / "teacher.safetensors", own)
    with pytest.raises(CheckpointError, match=message):
        load_teachers([path], STUDENT)


@pytest.mark.parametrize(
    ("share", "name", "warned"),
    [(0.04, "digits", True), (0.5, "digits", False), (0.04, "other", False)],
)
def test_a_teacher_that_has_seen_validation_images_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, share: float, name: str, warned: bool
) -> None:
    path = saved(tmp_path / "teacher.safetensors", STUDENT)
    own = f'name = "t"\n[data]\nname = "{name}"\nvalidation = {share}\n[model]\nname = "vgg"\n'
    save_checkpoint(
        dataclasses.replace(load_checkpoint(path), recipe=own + "[train]\nepochs = 1\n"), path
    )
    load_teachers([path], STUDENT, data=DataRecipe("digits", validation=0.2))
    assert ("has learned from images of the validation part" in caplog.text) is warned


def test_a_missing_teacher_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.safetensors: no such file"):
        load_teachers([tmp_path / "gone.safetensors"], STUDENT)


def test_several_teachers_are_asked_for_their_mean(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{name}.safetensors", STUDENT) for name in "ab"]
    images = torch.rand(2, 1, 8, 8)
    each = [load_teachers([path], STUDENT).eval()(images) for path in paths]
    assert not torch.allclose(*each)
    found = load_teachers(paths, STUDENT).eval()(images)
    torch.testing.assert_close(found, (each[0] + each[1]) / 2)


def test_mirror_images_count_as_much() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    images = torch.rand(2, 1, 8, 8)
    mirrored = images.flip(3)
    both = (network(images) + network(mirrored)) / 2
    ensemble = Ensemble([network], mirror=True)
    torch.testing.assert_close(ensemble(images), both)
    torch.testing.assert_close(ensemble(mirrored), both)
    assert not torch.allclose(both, network(images))
