"""The architectures by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from edgekit.runtime.errors import RecipeError
from edgekit.train.models.densenet import DenseNet, DenseNetConfig
from edgekit.train.models.efficientnet import EfficientNet, EfficientNetConfig
from edgekit.train.models.resnet import ResNet, ResNetConfig
from edgekit.train.models.vgg import VGG, VGGConfig
from edgekit.train.settings import from_mapping, unknown_key


@dataclass(frozen=True)
class ModelEntry:
    """An architecture: its options, and the module made of (options, in_channels, num_classes)."""

    config_class: type[Any]
    module_class: Callable[[Any, int, int], nn.Module]


MODELS: dict[str, ModelEntry] = {
    "densenet": ModelEntry(DenseNetConfig, DenseNet),
    "efficientnet": ModelEntry(EfficientNetConfig, EfficientNet),
    "resnet": ModelEntry(ResNetConfig, ResNet),
    "vgg": ModelEntry(VGGConfig, VGG),
}


def build_model(
    name: str,
    options: Mapping[str, Any],
    *,
    in_channels: int,
    num_classes: int,
    where: str = "model",
) -> nn.Module:
    """A model with fresh weights, in training mode.

    Args:
        name: A key of MODELS.
        options: What the architecture's config dataclass takes, as TOML gives it.
        in_channels: 1 or 3.
        num_classes: At least 2.
        where: Dotted key of the options, for error messages.

    Raises:
        RecipeError: the name or a key of the options is unknown, or a value is out of range.
    """
    entry = MODELS.get(name)
    if entry is None:
        raise RecipeError(unknown_key(f"{where}: architecture {name!r}", name, MODELS))
    config = from_mapping(entry.config_class, options, where=where)
    if in_channels not in (1, 3):
        raise RecipeError(f"{where}: images of {in_channels} channels; 1 or 3 are supported")
    if not 2 <= num_classes <= 1_000_000:
        raise RecipeError(f"{where}: {num_classes} classes; a classifier needs 2 or more")
    return entry.module_class(config, in_channels, num_classes)
