"""A VGG (Simonyan and Zisserman 2015, arXiv:1409.1556) with batch normalization, sized for 32x32.

Stages of 3x3 convolutions, each Conv-BN-ReLU, with 2x2 max pooling between them; in place of the
paper's three linear layers there is one, behind the largest value of each channel. The pooling
stands right behind its convolution, so that normalization and ReLU see a quarter of the map.

Wide and shallow as it is, a processor gets through several times the MACs a second of a DenseNet.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekit.train.models.layers import check_range, conv_norm_relu, initialize


@dataclass(frozen=True)
class VGGConfig:
    """The knobs of a VGG.

    Attributes:
        stages: Channels of the convolutions of each stage; between two stages the map halves.
        dropout: Probability of dropping an activation before the classifier.
    """

    stages: tuple[tuple[int, ...], ...] = ((24, 64), (64, 256), (256, 256), (256,))
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_range("stages: their number", len(self.stages), 1, 4)
        for stage in self.stages:
            check_range("stages", stage, 1, 4096)
        check_range("dropout", self.dropout, 0, 0.95)


class VGG(nn.Module):
    """Images [N, in_channels, H, W] of any size from 8x8 up to logits [N, num_classes]."""

    def __init__(self, config: VGGConfig, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for index, widths in enumerate(config.stages):
            halves = index + 1 < len(config.stages)
            self.stages.append(_stage(in_channels, widths, halves=halves))
            in_channels = widths[-1]
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(in_channels, num_classes)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, in_channels, H, W]."""
        features = images
        for stage in self.stages:
            features = stage(features)
        pooled = torch.flatten(self.pool(features), 1)
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits


def _stage(before: int, widths: tuple[int, ...], *, halves: bool) -> nn.Sequential:
    """Convolutions in a row, the last with its map halved where the stage `halves`."""
    layers = nn.Sequential()
    for index, width in enumerate(widths):
        steps = conv_norm_relu(before, width, 3)
        if halves and index + 1 == len(widths):
            steps = OrderedDict(
                conv=steps["conv"], pool=nn.MaxPool2d(2), norm=steps["norm"], relu=steps["relu"]
            )
        layers.append(nn.Sequential(steps))
        before = width
    return layers
