from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgekit.train.recipe import Recipe, parse_recipe
from edgekit.train.run import run_recipe
from edgekit.train.teacher_outputs import TeacherOutputs, View, outputs_folder

TEACHER = """
name = "teacher"
[data]
name = "digits"
[model]
name = "densenet"
order = "post"
blocks = [1]
growth = 4
bottleneck = 0
stem_width = 8
[train]
epochs = 1
batch_size = 64
[augment]
crop = 1
rotation = 5
"""


class CountingTeacher:
    """Twice the first two pixels, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, inputs: Tensor) -> Tensor:
        self.asked += 1
        return inputs.flatten(1)[:, :2] * 2


def batches() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, 1, 4, 4) for _ in range(2)]


def run_epoch(outputs: TeacherOutputs, teacher: CountingTeacher, view: View) -> list[Tensor]:
    found = [outputs.ask(view, step, inputs, teacher) for step, inputs in enumerate(batches())]
    outputs.end_view()
    return found


def test_a_view_that_comes_again_is_not_asked_again(tmp_path: Path) -> None:
    teacher, outputs = CountingTeacher(), TeacherOutputs(tmp_path / "kept")
    first = run_epoch(outputs, teacher, View(0))
    run_epoch(outputs, teacher, View(1))
    assert teacher.asked == 4
    again = run_epoch(outputs, teacher, View(0))
    elsewhere = run_epoch(TeacherOutputs(tmp_path / "kept"), teacher, View(0))
    assert teacher.asked == 4
    for kept in (again, elsewhere):
        assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


def test_other_images_are_asked_about_whatever_is_kept(tmp_path: Path) -> None:
    teacher, outputs = CountingTeacher(), TeacherOutputs(tmp_path)
    run_epoch(outputs, teacher, View(0))
    swapped = batches()[0].flip(0)  # the same sum over the batch
    found = TeacherOutputs(tmp_path).ask(View(0), 0, swapped, teacher)
    assert teacher.asked == 3
    assert torch.equal(found, swapped.flatten(1)[:, :2] * 2)


def test_mirrored_images_are_asked_about_too(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    run_epoch(TeacherOutputs(tmp_path), teacher, View(0))
    mirrored = batches()[0].flip(3)  # the same sum over each image
    found = TeacherOutputs(tmp_path).ask(View(0), 0, mirrored, teacher)
    assert teacher.asked == 3
    assert torch.equal(found, mirrored.flatten(1)[:, :2] * 2)


def test_processes_keep_their_own_and_damaged_files_are_of_no_use(tmp_path: Path) -> None:
    teacher, outputs = CountingTeacher(), TeacherOutputs(tmp_path)
    run_epoch(outputs, teacher, View(0, 0))
    run_epoch(outputs, teacher, View(0, 1))
    assert teacher.asked == 4
    kept = sorted(tmp_path.iterdir())
    assert [path.name for path in kept] == ["view-0-0.safetensors", "view-0-1.safetensors"]
    kept[0].write_bytes(kept[0].read_bytes()[:40])
    run_epoch(TeacherOutputs(tmp_path), teacher, View(0, 0))
    assert teacher.asked == 6


def student(folder: Path, *, views: int = 2, more: str = "") -> Recipe:
    text = TEACHER.replace("epochs = 1", "epochs = 5").replace('"teacher"', '"student"')
    distill = f'[distill]\nteacher = "teacher/model.safetensors"\nviews = {views}\n'
    return parse_recipe(text + distill + more, origin="test", folder=folder)


def test_what_the_kept_outputs_depend_on_names_their_folder(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.safetensors"
    teacher.write_bytes(b"one")
    recipe = student(tmp_path)
    own = outputs_folder(recipe, [teacher], tmp_path / "run")
    assert own.parent == tmp_path / "run" / "teacher-outputs"
    shared = student(tmp_path, more='outputs = "shared"\n')
    assert outputs_folder(shared, [teacher], tmp_path / "run").parent == tmp_path / "shared"
    others = [dataclasses.replace(recipe, seed=1), student(tmp_path, more="mirror = true\n")]
    names = {own.name, *(outputs_folder(other, [teacher], Path()).name for other in others)}
    names.add(outputs_folder(recipe, [teacher, teacher], Path()).name)
    teacher.write_bytes(b"two")
    names.add(outputs_folder(recipe, [teacher], Path()).name)
    assert len(names) == 5


def test_a_student_of_repeated_views_asks_its_teacher_once_for_each(tmp_path: Path) -> None:
    run_recipe(parse_recipe(TEACHER, origin="test"), tmp_path / "teacher", accelerator="cpu")
    result = run_recipe(student(tmp_path), tmp_path / "student", accelerator="cpu")
    kept = sorted((tmp_path / "student" / "teacher-outputs").glob("*/*"))
    assert [path.name for path in kept] == ["view-0-0.safetensors", "view-1-0.safetensors"]
    written = [path.stat().st_mtime_ns for path in kept]
    again = run_recipe(student(tmp_path), tmp_path / "student", force=True, accelerator="cpu")
    assert again.checkpoint.read_bytes() == result.checkpoint.read_bytes()
    assert [path.stat().st_mtime_ns for path in kept] == written


def test_a_student_that_draws_itself_sees_the_images_of_one_that_does_not(tmp_path: Path) -> None:
    run_recipe(parse_recipe(TEACHER, origin="test"), tmp_path / "teacher", accelerator="cpu")
    first = student(tmp_path, more='outputs = "shared"\n')
    run_recipe(first, tmp_path / "student", accelerator="cpu")
    kept = sorted((tmp_path / "shared").glob("*/*"))
    assert len(kept) == 2
    written = [path.stat().st_mtime_ns for path in kept]
    text = first.text.replace("stem_width = 8", "stem_width = 8\ndropout = 0.2")
    text = text.replace("[augment]", "resolutions = [[2, 12]]\n[augment]")
    second = parse_recipe(text, origin="test", folder=tmp_path)
    run_recipe(second, tmp_path / "second", accelerator="cpu")
    assert sorted((tmp_path / "shared").glob("*/*")) == kept
    assert [path.stat().st_mtime_ns for path in kept] == written


def test_what_a_student_drops_does_not_come_again_with_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_recipe(parse_recipe(TEACHER, origin="test"), tmp_path / "teacher", accelerator="cpu")
    states: list[bytes] = []

    def noted(inputs: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
        del p, inplace
        if training:
            states.append(torch.get_rng_state().numpy().tobytes())
        return inputs

    monkeypatch.setattr(torch.nn.functional, "dropout", noted)
    text = student(tmp_path).text.replace("stem_width = 8", "stem_width = 8\ndropout = 0.2")
    run_recipe(
        parse_recipe(text, origin="test", folder=tmp_path), tmp_path / "s", accelerator="cpu"
    )
    assert len(states) >= 5 * 15
    assert len(set(states)) == len(states)


def test_what_is_kept_of_larger_batches_is_replaced(tmp_path: Path) -> None:
    teacher, outputs = CountingTeacher(), TeacherOutputs(tmp_path / "kept")
    run_epoch(outputs, teacher, View(0))
    smaller = torch.randn(2, 1, 4, 4)
    fresh = TeacherOutputs(tmp_path / "kept")
    torch.testing.assert_close(fresh.ask(View(0), 0, smaller, teacher), teacher(smaller))
    fresh.end_view()
    asked = teacher.asked
    TeacherOutputs(tmp_path / "kept").ask(View(0), 0, smaller, teacher)
    assert teacher.asked == asked
