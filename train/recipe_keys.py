"""All of a recipe together, and the rules that its values must keep; see recipe_tables.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from edgekit.runtime.data.load import DATASETS
from edgekit.runtime.errors import RecipeError
from edgekit.runtime.preprocessing import MAX_SIDE
from edgekit.train.recipe_tables import (
    AugmentRecipe,
    DataRecipe,
    DistillRecipe,
    PruneChannelsRecipe,
    PruneRecipe,
    QuantizeRecipe,
    TrainRecipe,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
MIN_SIDE = 8  # pixels that every architecture takes


@dataclass(frozen=True)
class RecipeKeys:
    """Everything a recipe's file can say; its name is that of its run folder in runs/."""

    name: str
    data: DataRecipe
    model: Mapping[str, Any]
    train: TrainRecipe
    seed: int = 0
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    prune: PruneRecipe | None = None
    prune_channels: PruneChannelsRecipe | None = None
    distill: DistillRecipe | None = None
    quantize: QuantizeRecipe | None = None

    def __post_init__(self) -> None:
        check_name("name", self.name)
        if not isinstance(self.model.get("name"), str):
            raise RecipeError("model.name: this key is missing; it takes the name of a model")
        for key, rule in RANGES.items():
            value = _value(self, key)
            if value is not None and not rule.holds(value):
                raise RecipeError(f"{key}: {value} is out of range; it must be {rule.text}")
        _check_together(self)

    @property
    def architecture(self) -> str:
        """The name of the model."""
        return str(self.model["name"])

    @property
    def all_epochs(self) -> int:
        """Passes over the training images, fine-tuning after channel pruning included."""
        channels = self.prune_channels
        return self.train.epochs + (0 if channels is None else channels.fine_tune_epochs)

    @property
    def model_options(self) -> dict[str, Any]:
        """The model's own keys."""
        return {key: value for key, value in self.model.items() if key != "name"}


def check_name(key: str, name: str) -> None:
    """Refuse a name that is no good name for a folder.

    Raises:
        RecipeError: it has other characters than letters, digits and . _ + -.
    """
    if not _NAME.fullmatch(name):
        raise RecipeError(f"{key}: {name!r} names folders: use letters, digits and . _ + -")


def _value(keys: RecipeKeys, dotted: str) -> float | None:
    """The number under a dotted key; None where its table is left out."""
    part: Any = keys
    for name in dotted.split("."):
        part = None if part is None else getattr(part, name)
    return cast(float | None, part)


@dataclass(frozen=True)
class Rule:
    """What a number must satisfy, in code and in words."""

    holds: Callable[[float], bool]
    text: str


_SHARE = Rule(lambda v: 0 <= v < 1, "at least 0 and below 1")
_PART = Rule(lambda v: 0 < v < 1, "above 0 and below 1")
_UNIT = Rule(lambda v: 0 <= v <= 1, "between 0 and 1")
_COUNT = Rule(lambda v: v >= 1, "at least 1")
_NOT_NEGATIVE = Rule(lambda v: v >= 0, "at least 0")
_POSITIVE = Rule(lambda v: v > 0, "above 0")

RANGES: dict[str, Rule] = {
    "seed": Rule(lambda v: 0 <= v < 2**32, "at least 0 and below 4294967296"),
    "data.validation": _SHARE,
    "train.epochs": _COUNT,
    "train.batch_size": _COUNT,
    "train.learning_rate": _POSITIVE,
    "train.weight_decay": _NOT_NEGATIVE,
    "train.momentum": _SHARE,
    "train.warmup_epochs": _NOT_NEGATIVE,
    "train.gamma": Rule(lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "train.label_smoothing": _SHARE,
    "train.ema": _SHARE,
    "train.gradient_clip": _NOT_NEGATIVE,
    "train.evaluate_every": _COUNT,
    "augment.crop": _NOT_NEGATIVE,
    "augment.rotation": Rule(lambda v: 0 <= v <= 180, "between 0 and 180"),
    "augment.color_jitter": _UNIT,
    "augment.cutout": _NOT_NEGATIVE,
    "augment.mixup": _NOT_NEGATIVE,
    "augment.cutmix": _NOT_NEGATIVE,
    "prune.sparsity": _PART,
    "prune.begin": _UNIT,
    "prune.end": _UNIT,
    "prune.every_steps": _COUNT,
    "prune_channels.ratio": _PART,
    "prune_channels.fine_tune_epochs": _COUNT,
    "prune_channels.learning_rate_factor": _POSITIVE,
    "prune_channels.round_to": _COUNT,
    "distill.temperature": _POSITIVE,
    "distill.weight": _UNIT,
    "distill.views": _NOT_NEGATIVE,
    "quantize.weight_bits": Rule(lambda v: 2 <= v <= 8, "from 2 to 8"),
    "quantize.activation_bits": Rule(lambda v: 4 <= v <= 8, "from 4 to 8"),
    "quantize.begin": _SHARE,
    "quantize.freeze": _UNIT,
}


def _check_together(keys: RecipeKeys) -> None:
    """Rules that take more than one key."""
    train, prune, size, distill = keys.train, keys.prune, keys.data.image_size, keys.distill
    if size is not None and (keys.data.name in DATASETS or keys.data.name.endswith(".npz")):
        raise RecipeError(
            f"data.image_size: images of {keys.data.name} have a size of their own; only those of "
            "a folder are decoded to one: leave it out"
        )
    if size is not None and not (min(size) >= MIN_SIDE and max(size) <= MAX_SIDE):
        raise RecipeError(
            f"data.image_size: {list(size)} is out of range; sides must be from {MIN_SIDE} to "
            f"{MAX_SIDE}"
        )
    if train.warmup_epochs >= train.epochs:
        raise RecipeError(
            f"train.warmup_epochs: {train.warmup_epochs:g} must be below train.epochs, which is "
            f"{train.epochs}"
        )
    if train.nesterov and train.optimizer == "sgd" and train.momentum == 0:
        raise RecipeError("train.nesterov: needs a train.momentum above 0; set it to false")
    if train.schedule == "step" and not _rises(train.milestones, train.epochs):
        raise RecipeError(
            f"train.milestones: {list(train.milestones)} must be epochs in rising order from 1 to "
            f"{train.epochs - 1} for the step schedule"
        )
    if distill is not None and not distill.teachers:
        raise RecipeError("distill.teacher: is empty; give a checkpoint, or several")
    if distill is not None and distill.outputs is not None and not distill.views:
        raise RecipeError(
            "distill.outputs: answers are kept only where images repeat; set distill.views, or "
            "leave it out"
        )
    _check_resolutions(train)
    _check_quantize(keys)
    if prune is not None and prune.begin >= prune.end:
        raise RecipeError(f"prune.begin: {prune.begin:g} must be below prune.end, {prune.end:g}")


def _check_quantize(keys: RecipeKeys) -> None:
    quantize, channels = keys.quantize, keys.prune_channels
    if quantize is None:
        return
    if quantize.begin > quantize.freeze:
        raise RecipeError(
            f"quantize.begin: {quantize.begin:g} must not be above quantize.freeze, "
            f"{quantize.freeze:g}"
        )
    key = "train.epochs" if channels is None else "prune_channels.fine_tune_epochs"
    if (keys.train.epochs if channels is None else channels.fine_tune_epochs) < 2:
        raise RecipeError(f"{key}: must be at least 2 with quantize, which observes in the first")


def _check_resolutions(train: TrainRecipe) -> None:
    firsts = [first for first, _ in train.resolutions]
    if firsts != sorted(set(firsts)) or any(not 0 <= first < train.epochs for first in firsts):
        raise RecipeError(
            f"train.resolutions: begins at epochs {firsts}; they must rise from 0 or more to less "
            f"than train.epochs, which is {train.epochs}"
        )
    sides = [side for _, side in train.resolutions]
    if any(side < MIN_SIDE for side in sides):
        raise RecipeError(f"train.resolutions: sides {sides} must be {MIN_SIDE} pixels or more")


def _rises(milestones: tuple[int, ...], epochs: int) -> bool:
    in_order = list(milestones) == sorted(set(milestones))
    return bool(milestones) and in_order and milestones[0] >= 1 and milestones[-1] < epochs
