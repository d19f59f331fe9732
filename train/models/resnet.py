"""A small ResNet of basic blocks (He et al. 2016, arXiv:1512.03385): the ten-convolution baseline.

Every convolution counts, those of 1x1 on shortcuts too: the default has one in the stem and three
in each of its three blocks, ten in all. All are Conv-BN, so that each BatchNormalization folds.
A shortcut has a convolution where the width or the size changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from edgekit.train.models.layers import (
    check_groups,
    check_odd,
    check_range,
    conv_norm_relu,
    initialize,
    per_stage,
)


@dataclass(frozen=True)
class ResNetConfig:
    """The knobs of a small ResNet.

    Attributes:
        widths: Channels of each stage; from the second on, a stage halves the map.
        blocks: Basic blocks (two 3x3 convolutions) in a stage; one number, or one a stage.
        stem_width: Channels after the first convolution.
        stem_kernel: Its kernel size, odd.
        stem_stride: Its stride.
        groups: Groups of the 3x3 convolutions after the stem; one number, or one a stage. They
            must divide the stage's width and the width before it.
        dropout: Probability of dropping an activation before the classifier.
    """

    widths: tuple[int, ...] = (64, 128, 256)
    blocks: int | tuple[int, ...] = 1
    stem_width: int = 32
    stem_kernel: int = 3
    stem_stride: int = 1
    groups: int | tuple[int, ...] = 1
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_range("widths", self.widths, 1, 4096)
        check_range("widths: their number", len(self.widths), 1, 16)
        check_range("blocks", self.blocks, 1, 256)
        check_range("stem_width", self.stem_width, 1, 4096)
        check_odd("stem_kernel", self.stem_kernel, 15)
        check_range("stem_stride", self.stem_stride, 1, 4)
        check_range("groups", self.groups, 1, 4096)
        check_range("dropout", self.dropout, 0, 0.95)
        per_stage("blocks", self.blocks, len(self.widths))
        groups_per_stage = per_stage("groups", self.groups, len(self.widths))
        steps = pairwise((self.stem_width, *self.widths))
        for stage, ((before, width), groups) in enumerate(
            zip(steps, groups_per_stage, strict=True)
        ):
            check_groups(f"what stage {stage} takes", before, groups)
            check_groups(f"stage {stage}", width, groups)


class ResNet(nn.Module):
    """Images [N, in_channels, H, W] of any size from 8x8 up to logits [N, num_classes]."""

    def __init__(self, config: ResNetConfig, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv_norm_relu(
                in_channels, config.stem_width, config.stem_kernel, stride=config.stem_stride
            )
        )
        blocks = per_stage("blocks", config.blocks, len(config.widths))
        groups = per_stage("groups", config.groups, len(config.widths))
        self.stages = nn.ModuleList()
        before = config.stem_width
        for stage, width in enumerate(config.widths):
            self.stages.append(_stage(before, width, blocks[stage], groups[stage], stage > 0))
            before = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(before, num_classes)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, in_channels, H, W]."""
        features = self.stem(images)
        for stage in self.stages:
            features = stage(features)
        pooled = torch.flatten(self.pool(features), 1)
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, groups=groups, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, groups=groups, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut.add_module("conv", projection)
            self.shortcut.add_module("norm", nn.BatchNorm2d(out_channels))

    def forward(self, features: Tensor) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        hidden = self.relu1(self.norm1(self.conv1(features)))
        summed = self.norm2(self.conv2(hidden)) + self.shortcut(features)
        result: Tensor = self.relu2(summed)
        return result


def _stage(before: int, width: int, blocks: int, groups: int, halve: bool) -> nn.Sequential:
    first = BasicBlock(before, width, 2 if halve else 1, groups)
    return nn.Sequential(first, *(BasicBlock(width, width, 1, groups) for _ in range(blocks - 1)))
