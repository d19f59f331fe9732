"""What a teacher says to augmented images, asked once for epochs whose draws repeat."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from edgekit.runtime.errors import MissingExtraError
from edgekit.runtime.files import replace_atomically
from edgekit.train.recipe import Recipe

try:
    import safetensors
    import safetensors.torch
except ModuleNotFoundError as missing:
    raise MissingExtraError("safetensors", "train") from missing

FOLDER = "teacher-outputs"
_FINGERPRINTS = "fingerprints"


class View(NamedTuple):
    """One order and augmentation of the images: of which epoch first, and of which process."""

    epoch: int
    process: int = 0


class TeacherOutputs:
    """The teacher's logits for every batch of each view, on disk.

    Beside a view's logits stands a fingerprint of each image that the teacher saw: where those of
    a batch differ, the teacher is asked anew.

    Args:
        folder: One file for each view; made with the first.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._view: View | None = None
        self._known: list[tuple[Tensor, Tensor]] = []
        self._asked = False
        self._weights: Tensor | None = None

    def ask(
        self, view: View, step: int, inputs: Tensor, teacher: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The teacher's logits [B, classes] for a batch.

        Args:
            view: What it belongs to.
            step: Its place there; batches come in order from 0.
            inputs: float [B, C, H, W].
            teacher: Computes them where they are not known.
        """
        if view != self._view:
            self._begin(view, inputs.device)
        seen = self._fingerprints(inputs)
        if step < len(self._known):
            logits, known = self._known[step]
            if torch.equal(seen, known):
                return logits
        logits = teacher(inputs)
        self._known[step:] = [(logits, seen)]
        self._asked = True
        return logits

    def end_view(self) -> None:
        """Write what the teacher was asked since the view began."""
        if self._view is None or not self._asked:
            return
        logits, seen = (torch.stack(part).cpu() for part in zip(*self._known, strict=True))
        with replace_atomically(self._path(self._view)) as staged:
            safetensors.torch.save_file({"logits": logits, _FINGERPRINTS: seen}, staged)
        self._asked = False

    def _begin(self, view: View, device: torch.device) -> None:
        self._view, self._asked, self._known = view, False, []
        try:
            kept = safetensors.torch.load_file(self._path(view), device=str(device))
            self._known = list(zip(kept["logits"], kept[_FINGERPRINTS], strict=True))
        except (OSError, safetensors.SafetensorError, KeyError, ValueError):
            return  # not there, or of no use: the teacher is asked

    def _fingerprints(self, inputs: Tensor) -> Tensor:
        """A sum over each image [B] in which every pixel's place has a weight of its own."""
        if self._weights is None or self._weights.shape != inputs.shape[1:]:
            drawn = torch.Generator().manual_seed(0)
            weights = torch.rand(inputs.shape[1:], generator=drawn, dtype=torch.float64)
            exact = inputs.device.type != "mps"  # which has no float64
            self._weights = weights.to(inputs.device, torch.float64 if exact else torch.float32)
        return (inputs * self._weights).sum(dim=(1, 2, 3))

    def _path(self, view: View) -> Path:
        return self._folder / f"view-{view.epoch}-{view.process}.safetensors"


def outputs_folder(recipe: Recipe, teachers: Sequence[Path], run_dir: Path) -> Path:
    """Where a run keeps its teacher's outputs, named for all that they depend on.

    Args:
        recipe: The run's; distill.outputs says where, else it is the run's own folder.
        teachers: The teachers' checkpoints.
        run_dir: The run's folder.
    """
    keys = recipe.distill
    shared = None if keys is None else keys.outputs
    parent = run_dir / FOLDER if shared is None else recipe.path(shared)
    train = recipe.train
    depends = {
        "teachers": [hashlib.sha256(path.read_bytes()).hexdigest() for path in teachers],
        "mirror": keys is not None and keys.mirror,
        "data": asdict(recipe.data),
        "augment": asdict(recipe.augment),
        "seed": recipe.seed,
        "train": [train.batch_size, train.precision, train.compile, train.channels_last],
    }
    text = json.dumps(depends, sort_keys=True)
    return parent / hashlib.sha256(text.encode()).hexdigest()[:16]
