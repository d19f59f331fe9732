from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from edgekit.train.optim import (
    OPTIMIZERS,
    SCHEDULES,
    make_optimizer,
    make_schedule,
    parameter_groups,
    side_at,
)
from edgekit.train.recipe_tables import Optimizer, Schedule, TrainRecipe


def rates(recipe: TrainRecipe, per_epoch: int = 10) -> list[float]:
    """The learning rate of every step."""
    optimizer = make_optimizer(nn.Linear(2, 2), recipe)
    schedule = make_schedule(optimizer, recipe, per_epoch)
    found = []
    for _ in range(recipe.epochs * per_epoch):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_cosine_rises_during_warm_up_and_then_falls_by_half_a_cosine() -> None:
    found = rates(TrainRecipe(epochs=10, learning_rate=2.0, warmup_epochs=2))
    assert found[:3] == pytest.approx([2 / 21, 4 / 21, 6 / 21])
    assert found[20] == pytest.approx(2.0)
    assert found[60] == pytest.approx(1.0)
    assert found[99] == pytest.approx(1 + math.cos(math.pi * 79 / 80))
    assert found[61] != pytest.approx(1.0)


def test_cosine_without_warm_up_starts_at_the_top() -> None:
    assert rates(TrainRecipe(epochs=2, learning_rate=0.3))[0] == 0.3


def test_one_cycle_is_torchs() -> None:
    found = rates(TrainRecipe(epochs=10, learning_rate=0.7, schedule="one-cycle"))
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.7, 100, cycle_momentum=False)
    expected = []
    for _ in range(100):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert found == pytest.approx(expected)
    assert found[1:] != pytest.approx(expected[:-1])


def test_steps_multiply_by_gamma_at_the_milestones() -> None:
    recipe = TrainRecipe(epochs=4, learning_rate=1.0, schedule="step", milestones=(1, 3), gamma=0.5)
    assert rates(recipe, per_epoch=2) == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_none_keeps_the_learning_rate() -> None:
    assert set(rates(TrainRecipe(epochs=3, learning_rate=0.2, schedule="none"))) == {0.2}


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_every_schedule_takes_a_run_of_one_step(schedule: Schedule) -> None:
    recipe = TrainRecipe(epochs=1, schedule=schedule)
    assert 0 <= rates(recipe, per_epoch=1)[0] <= recipe.learning_rate


def test_biases_and_normalization_do_not_decay() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    decaying, others = parameter_groups(module, 0.1)
    assert decaying["weight_decay"] == 0.1
    assert others["weight_decay"] == 0.0
    assert [p.ndim for p in decaying["params"]] == [4, 2]
    assert len(others["params"]) == 4


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer_brings_a_loss_down(name: Optimizer) -> None:
    torch.manual_seed(0)
    module, inputs = nn.Linear(4, 1), torch.randn(64, 4)
    targets = inputs.sum(1, keepdim=True)
    optimizer = make_optimizer(module, TrainRecipe(epochs=1, learning_rate=0.05, optimizer=name))
    losses = []
    for _ in range(60):
        loss = (module(inputs) - targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10


def test_the_resolution_of_an_epoch_is_the_last_that_has_begun() -> None:
    sides = ((1, 20), (3, 24))
    assert [side_at(sides, epoch) for epoch in range(5)] == [None, 20, 20, 24, 24]
    assert side_at((), 3) is None
