"""Learning from a teacher's soft targets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from edgekit.train.compiled import CompiledNetwork
from edgekit.train.recipe_tables import DistillRecipe
from edgekit.train.teacher_outputs import TeacherOutputs, View

# What the teacher's weight is multiplied by, from how much of the training is done, 0 to 1.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
}


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch.

    T^2 keeps the gradients' size whatever the temperature (Hinton et al. 2015, arXiv:1503.02531,
    section 2).

    Args:
        student: Logits [B, classes].
        teacher: Logits [B, classes].
        temperature: T.
    """
    divergence = F.kl_div(
        F.log_softmax(student.float() / temperature, dim=1),
        F.log_softmax(teacher.float() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2


class BatchIndex(NamedTuple):
    """Which batch of a training it is, and of which process; all from 0."""

    epoch: int
    step: int
    process: int = 0


class Distillation:
    """A teacher and how much it counts.

    It is no nn.Module, so that the teacher's weights stay out of checkpoints and optimizers.

    Args:
        recipe: Temperature, weight and schedule.
        teacher: The teacher; it takes what the student takes.
        compile: Whether torch.compile compiles the teacher.
        channels_last: Whether the batches come with their channels last in memory.
    """

    def __init__(
        self,
        recipe: DistillRecipe,
        teacher: nn.Module,
        *,
        compile: bool = False,  # noqa: A002 -- as torch calls it
        channels_last: bool = False,
    ) -> None:
        self.recipe = recipe
        self._outputs: TeacherOutputs | None = None
        self.teacher = teacher.eval().requires_grad_(False)
        if channels_last:
            self.teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._compiled = CompiledNetwork(self.teacher, compile=compile)

    def to(self, device: torch.device) -> None:
        """Move the teacher to the training device."""
        self.teacher.to(device)

    def keep_outputs(self, outputs: TeacherOutputs) -> None:
        """Ask the teacher only for what is not among these."""
        self._outputs = outputs

    def draws_of(self, epoch: int) -> int:
        """The epoch whose order and augmentation an epoch has; earlier where views repeat."""
        return epoch % self.recipe.views if self.recipe.views else epoch

    def mix(
        self, label_loss: Tensor, student: Tensor, inputs: Tensor, done: float, batch: BatchIndex
    ) -> Tensor:
        """(1 - w) times the loss on the labels plus w times the loss on the teacher's targets.

        Args:
            label_loss: A scalar.
            student: The student's logits [B, classes].
            inputs: What the student saw [B, C, H, W].
            done: How much of the training is done, 0 to 1.
            batch: Which batch of which epoch it is.
        """
        weight = self.recipe.weight * SCHEDULES[self.recipe.schedule](done)
        if weight == 0:
            return label_loss
        with torch.no_grad():
            teacher = self._ask(inputs, batch)
        taught = distillation_loss(student, teacher, self.recipe.temperature)
        return (1 - weight) * label_loss + weight * taught

    def _ask(self, inputs: Tensor, batch: BatchIndex) -> Tensor:
        if self._outputs is None:
            return self._compiled(inputs)
        view = View(self.draws_of(batch.epoch), batch.process)
        return self._outputs.ask(view, batch.step, inputs, self._compiled)

    def end_epoch(self) -> None:
        """Keep what the teacher said."""
        if self._outputs is not None:
            self._outputs.end_view()
