from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.runtime.preprocessing import Preprocessing
from edgekit.train.distill import (
    SCHEDULES,
    BatchIndex,
    Distillation,
    distillation_loss,
)
from edgekit.train.recipe_tables import DistillRecipe
from edgekit.train.teacher import Renormalized

STUDENT = Preprocessing(8, 8, (0.3,), (0.4,), ("a", "b", "c"))


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
    found = Distillation(recipe, Renormalized(teacher, own, STUDENT)).mix(
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
    distillation = Distillation(DistillRecipe("t"), teacher)
    assert not distillation.teacher.training
    loss = distillation.mix(
        torch.tensor(0.0), student, torch.randn(5, 1, 8, 8), 0.0, BatchIndex(0, 0)
    )
    loss.backward()
    assert student.grad is not None
    assert float(student.grad.abs().sum()) > 0
    assert all(p.grad is None for p in teacher.parameters())
