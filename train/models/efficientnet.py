"""An EfficientNet (Tan and Le 2019, arXiv:1905.11946) of torchvision's blocks, sized for 32x32.

Each block is torchvision's MBConv: 1x1 expansion, depthwise convolution, squeeze and excitation,
1x1 projection, with SiLU. torchvision rounds widths to multiples of 8; here a width that is none
is refused instead, so that a recipe says what is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.runtime.errors import RecipeError
from edgekit.train.models.layers import check_odd, check_range, initialize, per_stage
from edgekit.train.vision import torchvision


@dataclass(frozen=True)
class EfficientNetConfig:
    """The knobs of an EfficientNet.

    Attributes:
        widths: Channels of each stage, multiples of 8.
        depths: Blocks in a stage; one number, or one a stage.
        expand: Factor by which a block widens inside; one number, or one a stage.
        kernels: Sizes of the depthwise kernels, odd; one number, or one a stage.
        strides: 1 or 2, of the first block of a stage; one number, or one a stage.
        squeeze_excite: Whether blocks weigh their channels by what the whole map holds.
        stem_width: Channels after the first convolution, a multiple of 8.
        stem_stride: Its stride, 1 or 2.
        head_width: Channels of the 1x1 convolution before the classifier.
        dropout: Probability of dropping an activation before the classifier.
        stochastic_depth: Probability of skipping the last block in training; falls to 0 at the
            first.
    """

    widths: tuple[int, ...] = (16, 24, 40, 80)
    depths: int | tuple[int, ...] = (1, 2, 2, 2)
    expand: int | tuple[int, ...] = (1, 4, 4, 4)
    kernels: int | tuple[int, ...] = (3, 3, 5, 3)
    strides: int | tuple[int, ...] = (1, 2, 2, 2)
    squeeze_excite: bool = True
    stem_width: int = 16
    stem_stride: int = 1
    head_width: int = 256
    dropout: float = 0.0
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        check_range("widths", self.widths, 8, 4096)
        check_range("widths: their number", len(self.widths), 1, 16)
        check_range("depths", self.depths, 1, 256)
        check_range("expand", self.expand, 1, 32)
        check_odd("kernels", self.kernels, 15)
        check_range("strides", self.strides, 1, 2)
        check_range("stem_width", self.stem_width, 8, 4096)
        check_range("stem_stride", self.stem_stride, 1, 2)
        check_range("head_width", self.head_width, 1, 16384)
        check_range("dropout", self.dropout, 0, 0.95)
        check_range("stochastic_depth", self.stochastic_depth, 0, 0.95)
        for key in ("depths", "expand", "kernels", "strides"):
            per_stage(key, getattr(self, key), len(self.widths))
        for key, width in (
            ("stem_width", self.stem_width),
            *(("widths", width) for width in self.widths),
        ):
            if width % 8:
                raise RecipeError(f"{key}: {width} must be a multiple of 8, as torchvision has it")


class EfficientNet(nn.Module):
    """Images [N, in_channels, H, W] of any size from 8x8 up to logits [N, num_classes]."""

    def __init__(self, config: EfficientNetConfig, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = torchvision.ops.Conv2dNormActivation(
            in_channels,
            config.stem_width,
            stride=config.stem_stride,
            activation_layer=nn.SiLU,
        )
        self.stages = _stages(config)
        self.head = torchvision.ops.Conv2dNormActivation(
            config.widths[-1], config.head_width, kernel_size=1, activation_layer=nn.SiLU
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.head_width, num_classes)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, in_channels, H, W]."""
        features = self.stem(images)
        for stage in self.stages:
            features = stage(features)
        pooled = torch.flatten(self.pool(self.head(features)), 1)
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits


def _stages(config: EfficientNetConfig) -> nn.ModuleList:
    count = len(config.widths)
    depths, expand, kernels, strides = (
        per_stage(key, getattr(config, key), count)
        for key in ("depths", "expand", "kernels", "strides")
    )
    stages = nn.ModuleList()
    before, built = config.stem_width, 0
    for stage, width in enumerate(config.widths):
        blocks = []
        for index in range(depths[stage]):
            settings = torchvision.models.efficientnet.MBConvConfig(
                expand_ratio=expand[stage],
                kernel=kernels[stage],
                stride=strides[stage] if index == 0 else 1,
                input_channels=before,
                out_channels=width,
                num_layers=1,
            )
            blocks.append(_block(config, settings, built / max(1, sum(depths) - 1)))
            before, built = width, built + 1
        stages.append(nn.Sequential(*blocks))
    return stages


def _block(config: EfficientNetConfig, settings: Any, depth: float) -> nn.Module:
    """One MBConv; `depth` runs from 0 at the first block to 1 at the last."""
    squeeze = torchvision.ops.SqueezeExcitation if config.squeeze_excite else _no_squeeze
    block: nn.Module = torchvision.models.efficientnet.MBConv(
        settings, config.stochastic_depth * depth, nn.BatchNorm2d, squeeze
    )
    return block


def _no_squeeze(*_: object, **__: object) -> nn.Module:
    return nn.Identity()
