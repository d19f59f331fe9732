from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgekit.runtime.errors import CheckpointError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.train.checkpoint import Checkpoint, save_checkpoint
from edgekit.train.distill import (
    SCHEDULES,
    BatchIndex,
    Distillation,
    distillation_loss,
    load_teacher,
)
from edgekit.train.models.table import build_model
from edgekit.train.recipe_tables import DistillRecipe

STUDENT = Preprocessing(8, 8, (0.3,), (0.4,), ("a", "b", "c"))
OPTIONS = {"blocks": [1], "growth": 4, "stem_width": 4, "bottleneck": 0}


def logits() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(5, 3), torch.randn(5, 3)


def test_the_loss_is_the_divergence_of_softened_outputs_times_t_squared() -> None:
    student, teacher = logits()
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    expected = 9 * (p * (p.log() - q.log())).sum(1).mean()
    found = distillation_loss(student, teacher, 3.0)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, distillation_loss(teacher, student, 3.0))
    assert not torch.allclose(found, expected / 9)


def test_a_student_like_its_teacher_has_no_loss() -> None:
    student, _ = logits()
    assert float(distillation_loss(student, student, 4.0)) == pytest.approx(0, abs=1e-6)


def test_the_teachers_weight_moves_as_the_schedule_says() -> None:
    assert [SCHEDULES["constant"](done) for done in (0, 0.5, 1)] == [1, 1, 1]
    assert [SCHEDULES["linear"](done) for done in (0, 0.25, 1)] == [1, 0.75, 0]
    assert [SCHEDULES["cosine"](done) for done in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])


def test_the_losses_are_mixed_by_weight_and_the_teacher_sees_its_own_normalization() -> None:
    student, _ = logits()
    own = Preprocessing(8, 8, (0.5,), (0.2,), STUDENT.class_names)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    recipe = DistillRecipe("t", temperature=2.0, weight=0.6, schedule="linear")
    images = torch.randint(256, (5, 8, 8, 1), dtype=torch.uint8).numpy()
    seen = torch.from_numpy(own(images))
    found = Distillation(recipe, teacher, own, STUDENT).mix(
        torch.tensor(2.0), student, torch.from_numpy(STUDENT(images)), 0.5, BatchIndex(0, 0)
    )
    expected = 0.7 * 2.0 + 0.3 * distillation_loss(student, teacher(seen), 2.0)
    torch.testing.assert_close(found, expected)
    unchanged = teacher(torch.from_numpy(STUDENT(images)))
    wrong = 0.7 * 2.0 + 0.3 * distillation_loss(student, unchanged, 2.0)
    assert not torch.allclose(found, wrong)


def test_gradients_reach_the_student_and_not_the_teacher() -> None:
    student = logits()[0].requires_grad_()
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    distillation = Distillation(DistillRecipe("t"), teacher, STUDENT, STUDENT)
    loss = distillation.mix(
        torch.tensor(0.0), student, torch.randn(5, 1, 8, 8), 0.0, BatchIndex(0, 0)
    )
    loss.backward()
    assert student.grad is not None
    assert float(student.grad.abs().sum()) > 0
    assert all(p.grad is None for p in teacher.parameters())


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
    distillation = load_teacher(DistillRecipe(str(path)), path, STUDENT)
    assert not distillation.teacher.training


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (Preprocessing(8, 8, (0.1,), (0.2,), ("a", "b")), r"knows 2 classes \(a, b\), the data"),
        (Preprocessing(8, 8, (0.1,), (0.2,), ("a", "c", "b")), r"3 classes \(a, c, b\)"),
        (Preprocessing(16, 8, (0.1,), (0.2,), ("a", "b", "c")), r"takes images \[16, 8, 1\]"),
    ],
)
def test_a_teacher_of_other_classes_or_sizes_is_refused(
    tmp_path: Path, own: Preprocessing, message: str
) -> None:
    path = saved(tmp_path / "teacher.safetensors", own)
    with pytest.raises(CheckpointError, match=message):
        load_teacher(DistillRecipe(str(path)), path, STUDENT)


def test_a_missing_teacher_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.safetensors: no such file"):
        load_teacher(DistillRecipe("x"), tmp_path / "gone.safetensors", STUDENT)
