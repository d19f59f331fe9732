"""Weight pruning while training: global, unstructured, by magnitude, with masks that persist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from edgekit.train.recipe_tables import PruneRecipe

PRUNED_MODULES = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True)
class CubicSchedule:
    """Sparsity from step to step.

    s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3 with s_i = 0
    (Zhu and Gupta 2017, arXiv:1710.01878, equation 1).

    Attributes:
        sparsity: s_f, which is reached at `end` and stays.
        begin: t_0, the step of the first pruning.
        end: t_0 + n dt, the step of the last.
        every: dt, the steps between two.
    """

    sparsity: float
    begin: int
    end: int
    every: int

    def at(self, step: int) -> float:
        """The sparsity that holds at a step."""
        if step < self.begin:
            return 0.0
        if step >= self.end:
            return self.sparsity
        progress = (step - self.begin) / (self.end - self.begin)
        return self.sparsity * (1 - (1 - progress) ** 3)

    def is_due(self, step: int) -> bool:
        """Whether weights are pruned at a step."""
        if step == self.end:
            return True
        return self.begin <= step < self.end and (step - self.begin) % self.every == 0


def cubic_schedule(recipe: PruneRecipe, epochs: int, steps_per_epoch: int) -> CubicSchedule:
    """The recipe's shares of the epochs as optimizer steps, counted from 1."""
    total = epochs * steps_per_epoch
    end = max(1, round(recipe.end * total))
    begin = min(end, max(1, round(recipe.begin * total)))
    return CubicSchedule(recipe.sparsity, begin, end, recipe.every_steps)


def prunable(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of convolutions and linear layers, by their names; a shared one once."""
    pruned = {id(m.weight) for m in network.modules() if isinstance(m, PRUNED_MODULES)}
    return {name: weight for name, weight in network.named_parameters() if id(weight) in pruned}


class WeightPruning(nn.Module):
    """Masks over a network's weights: 1 keeps a weight, 0 holds it at zero.

    The masks are buffers of this module, so that they move to devices and into checkpoints with
    it. They begin as where the weights are not zero.

    Args:
        network: What to prune; never a child of this module.
        schedule: How much is zero at which step; None keeps the masks as they begin.
    """

    def __init__(self, network: nn.Module, schedule: CubicSchedule | None) -> None:
        super().__init__()
        self.schedule = schedule
        self._paired: tuple[list[Tensor], list[Tensor]] | None = None
        for name, weight in prunable(network).items():
            self.register_buffer(_buffer_name(name), weight.detach().ne(0))

    @property
    def masks(self) -> dict[str, Tensor]:
        """Mask of each pruned parameter: bool, of its shape."""
        return {name.replace("/", "."): mask for name, mask in self.named_buffers()}

    @torch.no_grad()
    def step(self, network: nn.Module, step: int) -> None:
        """Prune if it is due after optimizer step `step` (from 1), and apply the masks."""
        if self.schedule is not None and self.schedule.is_due(step):
            self.prune(network, self.schedule.at(step))
        self.apply_masks(network)

    @torch.no_grad()
    def prune(self, network: nn.Module, sparsity: float) -> None:
        """Set the masks so that the smallest weights of all layers together go.

        What is pruned stays so, being zero and thus among the smallest. The number of zeros is
        exactly round(sparsity * weights).
        """
        weights = prunable(network)
        magnitudes = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
        kept = torch.cat([mask.flatten() for mask in self.masks.values()])
        magnitudes = magnitudes.where(kept, -1.0)
        count = max(round(sparsity * len(magnitudes)), 0)
        mask = torch.ones_like(kept)
        mask[magnitudes.topk(count, largest=False).indices] = False
        mask &= kept
        sizes = [weight.numel() for weight in weights.values()]
        for name, part in zip(weights, torch.split(mask, sizes), strict=True):
            self.get_buffer(_buffer_name(name)).copy_(part.view_as(weights[name]))

    @torch.no_grad()
    def apply_masks(self, network: nn.Module) -> None:
        """Set what the masks exclude to zero."""
        if self._paired is None:
            weights = prunable(network)
            masks = [self.get_buffer(_buffer_name(name)) for name in weights]
            self._paired = list(weights.values()), masks
        torch._foreach_mul_(*self._paired)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._paired = None  # a move to another device makes new masks
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call] # torch leaves it untyped
        return self


def sparsity_of(network: nn.Module) -> float:
    """Share of the prunable weights that is zero."""
    weights = list(prunable(network).values())
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / max(1, sum(weight.numel() for weight in weights))


def _buffer_name(name: str) -> str:
    return name.replace(".", "/")  # torch allows no dots in the names of buffers
