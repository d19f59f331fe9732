"""Optimizers, and how learning rate and resolution move over a training."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from edgekit.train.recipe_tables import TrainRecipe

# One-cycle: how long the rise takes, where it starts and where it ends, relative to the highest.
_RISE = 0.3
_START = 1 / 25
_END = 1 / 25 / 1e4

OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], TrainRecipe, bool], torch.optim.Optimizer]]
OPTIMIZERS = {
    "sgd": lambda groups, recipe, fused: torch.optim.SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=fused,
    ),
    "adam": lambda groups, recipe, fused: torch.optim.Adam(
        groups, lr=recipe.learning_rate, fused=fused
    ),
    "adamw": lambda groups, recipe, fused: torch.optim.AdamW(
        groups, lr=recipe.learning_rate, fused=fused
    ),
}


def make_optimizer(
    module: nn.Module, recipe: TrainRecipe, *, fused: bool = False
) -> torch.optim.Optimizer:
    """The recipe's optimizer over all of a module's parameters.

    Args:
        module: What to train.
        recipe: Which optimizer, with which settings.
        fused: Whether one kernel updates all parameters (on accelerators).
    """
    groups = parameter_groups(module, recipe.weight_decay)
    return OPTIMIZERS[recipe.optimizer](groups, recipe, fused)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights that decay, and those that do not: biases and normalization, which are vectors."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def cosine(step: int, total: int, per_epoch: int, recipe: TrainRecipe) -> float:
    """A linear rise over the warm-up, then half a cosine down to zero.

    Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts.
    """
    warmup = recipe.warmup_epochs * per_epoch
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def one_cycle(step: int, total: int, per_epoch: int, recipe: TrainRecipe) -> float:
    """Up by a cosine for 30% of the steps, then down by one (Smith and Topin, arXiv:1708.07120).

    The same curve as torch.optim.lr_scheduler.OneCycleLR with its defaults.
    """
    del per_epoch, recipe
    peak = _RISE * total - 1
    if step <= peak:
        return _anneal(_START, 1.0, step / peak)
    return _anneal(1.0, _END, (step - peak) / max(1e-9, total - 1 - peak))


def _anneal(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(1.0, progress)))


def stepped(step: int, total: int, per_epoch: int, recipe: TrainRecipe) -> float:
    """Times gamma after each of the milestones, which are epochs."""
    del total
    return recipe.gamma ** bisect_right(recipe.milestones, step // per_epoch)


def constant(step: int, total: int, per_epoch: int, recipe: TrainRecipe) -> float:
    """Always the learning rate itself."""
    del step, total, per_epoch, recipe
    return 1.0


# Each takes the step, the number of steps, the steps of an epoch and the recipe, and returns what
# the learning rate is multiplied by.
SCHEDULES: dict[str, Callable[[int, int, int, TrainRecipe], float]] = {
    "cosine": cosine,
    "one-cycle": one_cycle,
    "step": stepped,
    "none": constant,
}


def make_schedule(
    optimizer: torch.optim.Optimizer, recipe: TrainRecipe, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The recipe's schedule; to be advanced after every optimizer step."""
    factor = SCHEDULES[recipe.schedule]
    total = recipe.epochs * steps_per_epoch
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: factor(min(step, total), total, steps_per_epoch, recipe)
    )


def side_at(resolutions: tuple[tuple[int, int], ...], epoch: int) -> int | None:
    """Pixels of the training images' shorter side in an epoch, counted from 0.

    Args:
        resolutions: (first epoch, pixels), in rising order of epochs; epochs before the first
            take the images as they are.
        epoch: Which epoch.

    Returns:
        None where the images stay as they are.
    """
    sides = [side for first, side in resolutions if first <= epoch]
    return sides[-1] if sides else None
