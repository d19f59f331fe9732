"""The networks that a student learns from, as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekit.runtime.preprocessing import Preprocessing
from edgekit.train.checkpoint import load_checkpoint
from edgekit.train.recipe_tables import DataRecipe
from edgekit.train.same_data import check_same_data, warn_of_seen_images


class Renormalized(nn.Module):
    """A network that takes images as another one has them normalized.

    Args:
        network: The network.
        own: What its input was normalized with.
        given: What the images that come here are normalized with.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, own: Preprocessing, given: Preprocessing) -> None:
        super().__init__()
        self.network = network
        mean, std = torch.tensor(own.mean), torch.tensor(own.std)
        self.register_buffer("scale", (torch.tensor(given.std) / std)[:, None, None])
        self.register_buffer("shift", ((torch.tensor(given.mean) - mean) / std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        logits: Tensor = self.network(images * self.scale + self.shift)
        return logits


class Ensemble(nn.Module):
    """The mean of networks' logits, as several know better than the best of them.

    Args:
        networks: They take the same images and know the same classes.
        mirror: Whether each is asked about the mirror images too.
    """

    def __init__(self, networks: Sequence[nn.Module], *, mirror: bool = False) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.mirror = mirror

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        views = [images, images.flip(3)] if self.mirror else [images]
        return torch.stack([network(view) for network in self.networks for view in views]).mean(0)


def load_teachers(
    paths: Sequence[Path],
    student: Preprocessing,
    *,
    mirror: bool = False,
    data: DataRecipe | None = None,
) -> nn.Module:
    """Read checkpoints as one network that takes the student's images.

    Args:
        paths: The checkpoints, one or more.
        student: Sizes and class names of the data that the student learns from.
        mirror: Whether to ask about the mirror images too.
        data: That data, to warn where a teacher has learned from what the student is judged on.

    Raises:
        CheckpointError: one does not load, or takes other images or knows other classes.
    """
    networks = [_load(path, student, data) for path in paths]
    return Ensemble(networks, mirror=mirror) if mirror or len(networks) > 1 else networks[0]


def _load(path: Path, student: Preprocessing, data: DataRecipe | None) -> nn.Module:
    checkpoint = load_checkpoint(path)
    own = checkpoint.preprocessing
    check_same_data(path, own, student, "distill from a teacher")
    if data is not None:
        warn_of_seen_images(path, checkpoint, data)
    network = checkpoint.build()
    same = (own.mean, own.std) == (student.mean, student.std)
    return network if same else Renormalized(network, own, student)
