"""What the architectures share: a pool for maps of any size, first weights, checks of options."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional

from edgekit.runtime.errors import RecipeError


class HalvePool(nn.Module):
    """2x2 average pooling with stride 2 that leaves an axis of one pixel alone."""

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, max(1, H // 2), max(1, W // 2)]."""
        height, width = features.shape[-2:]
        if height == 1 and width == 1:
            return features
        return functional.avg_pool2d(features, (min(2, height), min(2, width)))


class PositiveBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization whose scale is the absolute value of its weight.

    With a positive scale, the normalization and its ReLU are one Max a channel, see
    export/passes/turn_batch_norm_into_threshold.py. The gradient of an absolute value is of full
    size on either side of zero, so that no scale sticks. State and exported graph are those of a
    plain BatchNorm2d: the exporter computes the absolute value.
    """

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, H, W] to the same shape; statistics as in BatchNorm2d."""
        assert self.momentum is not None
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return functional.batch_norm(
            features,
            self.running_mean,
            self.running_var,
            self.weight.abs(),
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> OrderedDict[str, nn.Module]:
    """The children `conv`, `norm` and `relu`: a convolution padded to keep the size, then both."""
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    return OrderedDict(
        conv=convolution, norm=nn.BatchNorm2d(out_channels), relu=nn.ReLU(inplace=True)
    )


def initialize(module: nn.Module) -> None:
    """Draw the weights anew: He et al. 2015, fan-out, for convolutions; biases start at zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


def per_stage(key: str, value: int | tuple[int, ...], stages: int) -> tuple[int, ...]:
    """One value a stage, from one for all of them or a list.

    Raises:
        RecipeError: the list has another length.
    """
    values = (value,) * stages if isinstance(value, int) else value
    if len(values) != stages:
        raise RecipeError(
            f"{key} {list(values)} has {len(values)} values, but there are {stages} stages: "
            f"give one number, or {stages}"
        )
    return values


def check_range(key: str, value: float | tuple[int, ...], low: float, high: float) -> None:
    """Refuse numbers outside [low, high], and empty lists.

    Raises:
        RecipeError: naming `key`, the value and the range.
    """
    values = value if isinstance(value, tuple) else (value,)
    if not values or not all(low <= item <= high for item in values):
        shown = list(value) if isinstance(value, tuple) else value
        raise RecipeError(f"{key} {shown} must be between {low} and {high}")


def check_odd(key: str, value: int | tuple[int, ...], high: int) -> None:
    """Refuse kernel sizes that are even or above `high`, since padding could not keep the size.

    Raises:
        RecipeError: naming `key` and the value.
    """
    check_range(key, value, 1, high)
    values = value if isinstance(value, tuple) else (value,)
    if any(item % 2 == 0 for item in values):
        raise RecipeError(f"{key} {value} must be odd")


def check_groups(what: str, channels: int, groups: int) -> None:
    """Refuse channels that do not divide into groups.

    Raises:
        RecipeError: naming what has the channels, and both numbers.
    """
    if channels % groups:
        fitting = channels - channels % groups or groups
        raise RecipeError(
            f"groups {groups} does not divide {what}, {channels} channels wide: {fitting} would fit"
        )
