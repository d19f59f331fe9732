"""DenseNet (Huang et al. 2017, arXiv:1608.06993) with grouped convolutions and a choice of order.

Every layer sees what all layers before it in its block gave, concatenated, and adds `growth`
channels. Between blocks a transition narrows by `compression` and halves the map.

`order` says where normalization stands. "pre" is the paper's BN-ReLU-Conv, with one BN-ReLU more
at the end. "post" is Conv-BN-ReLU, so that every BatchNormalization directly follows a convolution
and folds into it. The stem is Conv-BN-ReLU in both. HardSwish (Howard et al. 2019,
arXiv:1905.02244) can take the place of every ReLU.

Groups: in block i the 3x3 convolutions have groups[i] groups. With a bottleneck the rule is that
growth[i] be a multiple of groups[i], which makes the bottleneck one too. Without (bottleneck 0)
the 3x3 convolutions read the concatenation itself, so the stem's width must be a multiple of
groups[0] as well; transitions round their width down to a multiple of the next block's groups.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from edgekit.runtime.errors import RecipeError
from edgekit.train.models.layers import (
    HalvePool,
    PositiveBatchNorm2d,
    check_groups,
    check_odd,
    check_range,
    conv_norm_relu,
    initialize,
    per_stage,
)

Order = Literal["pre", "post"]
Activation = Literal["relu", "hardswish"]

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "hardswish": nn.Hardswish}


@dataclass(frozen=True)
class DenseNetConfig:
    """The knobs of a DenseNet.

    Attributes:
        blocks: Layers in each dense block.
        growth: Channels that a layer adds; one number, or one a block.
        bottleneck: Width of the 1x1 convolution before each 3x3, in multiples of growth; 0 for
            none.
        compression: Part of the channels that a transition keeps, above 0 and up to 1.
        stem_width: Channels after the first convolution.
        stem_kernel: Its kernel size, odd.
        stem_stride: Its stride.
        stem_pool: Whether a 3x3 max pooling with stride 2 follows it, as on ImageNet.
        groups: Groups of the 3x3 convolutions; one number, or one a block.
        order: "pre" for BN-ReLU-Conv, "post" for Conv-BN-ReLU.
        dropout: Probability of dropping an activation after each layer.
        positive_scales: Whether normalizations before a ReLU scale by positive factors only, which
            lets the export turn each into one Max; for order "pre" and ReLU.
        activation: "relu" or "hardswish".
    """

    blocks: tuple[int, ...] = (6, 6, 6)
    growth: int | tuple[int, ...] = 12
    bottleneck: int = 4
    compression: float = 0.5
    stem_width: int = 24
    stem_kernel: int = 3
    stem_stride: int = 1
    stem_pool: bool = False
    groups: int | tuple[int, ...] = 1
    order: Order = "pre"
    dropout: float = 0.0
    positive_scales: bool = False
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        check_range("blocks", self.blocks, 1, 256)
        check_range("blocks: their number", len(self.blocks), 1, 16)
        check_range("growth", self.growth, 1, 4096)
        check_range("bottleneck", self.bottleneck, 0, 64)
        check_range("stem_width", self.stem_width, 1, 4096)
        check_odd("stem_kernel", self.stem_kernel, 15)
        check_range("stem_stride", self.stem_stride, 1, 4)
        check_range("groups", self.groups, 1, 4096)
        if not 0 < self.compression <= 1:
            raise RecipeError(f"compression {self.compression} must be above 0 and at most 1")
        check_range("dropout", self.dropout, 0, 0.95)
        if self.positive_scales and self.order != "pre":
            raise RecipeError(
                'positive_scales is for order "pre": with "post" every normalization folds anyway'
            )
        if self.positive_scales and self.activation != "relu":
            raise RecipeError('positive_scales is for activation "relu": no other is a Max')
        for block, (growth, groups) in enumerate(
            zip(self.growth_per_block, self.groups_per_block, strict=True)
        ):
            check_groups(f"growth in block {block}", growth, groups)
        if not self.bottleneck:
            check_groups("stem_width", self.stem_width, self.groups_per_block[0])
            self._check_transitions()

    @property
    def growth_per_block(self) -> tuple[int, ...]:
        """Growth of each block."""
        return per_stage("growth", self.growth, len(self.blocks))

    @property
    def groups_per_block(self) -> tuple[int, ...]:
        """Groups of the 3x3 convolutions of each block."""
        return per_stage("groups", self.groups, len(self.blocks))

    def widths(self) -> list[tuple[int, int]]:
        """Channels at the start and at the end of each block, before its transition."""
        widths: list[tuple[int, int]] = []
        width = self.stem_width
        for block, (layers, growth) in enumerate(
            zip(self.blocks, self.growth_per_block, strict=True)
        ):
            if block:
                width = self._compressed(width, block)
            widths.append((width, width + layers * growth))
            width = widths[-1][1]
        return widths

    def _compressed(self, width: int, block: int) -> int:
        """Channels with which `block` starts when the block before ended with `width`."""
        narrowed = max(1, int(width * self.compression))
        multiple = 1 if self.bottleneck else self.groups_per_block[block]
        return narrowed - narrowed % multiple

    def _check_transitions(self) -> None:
        for block, (start, _) in enumerate(self.widths()):
            if not start:
                raise RecipeError(
                    f"compression {self.compression} leaves block {block} fewer channels than its "
                    f"{self.groups_per_block[block]} groups: raise compression or lower groups"
                )


class DenseNet(nn.Module):
    """Images [N, in_channels, H, W] of any size from 8x8 up to logits [N, num_classes]."""

    def __init__(self, config: DenseNetConfig, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = _stem(config, in_channels)
        widths = config.widths()
        self.blocks = nn.ModuleList(
            DenseBlock(config, block, start) for block, (start, _) in enumerate(widths)
        )
        self.transitions = nn.ModuleList(
            _transition(config, end, following) for (_, end), (following, _) in pairwise(widths)
        )
        last = widths[-1][1]
        self.final = nn.Sequential()
        if config.order == "pre":
            self.final.add_module("norm", _norm(config, last))
            self.final.add_module("relu", _activation(config))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, num_classes)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, in_channels, H, W]."""
        features = self.blocks[0](self.stem(images))
        for transition, block in zip(self.transitions, self.blocks[1:], strict=True):
            features = block(transition(features))
        pooled = self.pool(self.final(features))
        logits: Tensor = self.classifier(torch.flatten(pooled, 1))
        return logits


class DenseBlock(nn.Module):
    """Layers that each add their channels to all that came before them in the block."""

    def __init__(self, config: DenseNetConfig, block: int, width: int) -> None:
        super().__init__()
        growth = config.growth_per_block[block]
        self.layers = nn.ModuleList(
            _layer(config, block, width + index * growth) for index in range(config.blocks[block])
        )

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C + layers * growth, H, W]."""
        for layer in self.layers:
            features = torch.cat((features, layer(features)), 1)
        return features


def _stem(config: DenseNetConfig, in_channels: int) -> nn.Sequential:
    steps = conv_norm_relu(
        in_channels, config.stem_width, config.stem_kernel, stride=config.stem_stride
    )
    steps["relu"] = _activation(config)
    if config.stem_pool:
        steps["pool"] = nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(steps)


def _layer(config: DenseNetConfig, block: int, width: int) -> nn.Sequential:
    """What adds `growth` channels: conv1 is the 1x1 bottleneck, if any, conv2 the 3x3."""
    growth, groups = config.growth_per_block[block], config.groups_per_block[block]
    steps: OrderedDict[str, nn.Module] = OrderedDict()
    if config.bottleneck:
        narrow = config.bottleneck * growth
        _add_unit(steps, "1", config, nn.Conv2d(width, narrow, 1, bias=False))
        width = narrow
    convolution = nn.Conv2d(width, growth, 3, padding=1, groups=groups, bias=False)
    _add_unit(steps, "2", config, convolution)
    if config.dropout:
        steps["dropout"] = nn.Dropout(config.dropout)
    return nn.Sequential(steps)


def _norm(config: DenseNetConfig, width: int) -> nn.BatchNorm2d:
    return PositiveBatchNorm2d(width) if config.positive_scales else nn.BatchNorm2d(width)


def _activation(config: DenseNetConfig) -> nn.Module:
    """What stands under the name `relu`, so that names are the same whatever it is."""
    return _ACTIVATIONS[config.activation](inplace=True)


def _transition(config: DenseNetConfig, width: int, narrowed: int) -> nn.Sequential:
    steps: OrderedDict[str, nn.Module] = OrderedDict()
    _add_unit(steps, "", config, nn.Conv2d(width, narrowed, 1, bias=False))
    steps["pool"] = HalvePool()
    return nn.Sequential(steps)


def _add_unit(
    steps: OrderedDict[str, nn.Module],
    suffix: str,
    config: DenseNetConfig,
    convolution: nn.Conv2d,
) -> None:
    """Append convolution, normalization and activation in the order that is asked for."""
    if config.order == "post":
        steps[f"conv{suffix}"] = convolution
    normalized = convolution.in_channels if config.order == "pre" else convolution.out_channels
    steps[f"norm{suffix}"] = _norm(config, normalized)
    steps[f"relu{suffix}"] = _activation(config)
    if config.order == "pre":
        steps[f"conv{suffix}"] = convolution
