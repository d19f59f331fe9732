"""Fake quantization of weights and activations, with gradients.

Weights: symmetric, one scale for each output channel, codes from -(2^(b-1) - 1) to 2^(b-1) - 1,
which is what `edgekit quantize` gives them at 8 bits. Since a batch normalization behind a layer
multiplies whole output channels, quantizing the weights before it is folded is the same as
quantizing them after: the folded weights lie on the grid whose scales are multiplied likewise.

Activations: one scale and zero point for each tensor that a layer reads, codes from 0 to 2^b - 1.

Two methods say where the scales come from:

- straight-through: weights from their largest magnitude, activations from a moving average of
  their range; gradients pass through the rounding (Krishnamoorthi 2018, arXiv:1806.08342);
- learned-step: scales are parameters with gradients of their own (LSQ, Esser et al. 2020,
  arXiv:1902.08153); zero points stay as observed.

The values and the gradients are those of PyTorch's fake-quantize operators. They are written out
here because torch.compile can fuse that with the layers around it, and those operators it cannot.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_AVERAGED = 100  # batches over which the range of an activation is averaged
_SMALLEST = 1e-9  # scale of a channel that is zero everywhere


def fake_quantize(
    values: Tensor, scale: Tensor, zero_point: Tensor | int, low: int, high: int
) -> Tensor:
    """Round values to the grid (code - zero_point) * scale, codes from low to high.

    Gradients reach the values whose codes are not clipped, and the scale: the straight-through
    estimator of LSQ (Esser et al. 2020, arXiv:1902.08153, equations 3 and 5).

    Args:
        values: float32, any shape.
        scale: Above 0; broadcasts to the values.
        zero_point: Code of the value 0.
        low: Lowest code.
        high: Highest code.
    """
    codes = values / scale + zero_point
    codes = codes + (codes.round() - codes).detach()  # both sums are exact
    return (codes.clamp(low, high) - zero_point) * scale


def _damped(scale: Tensor, values_per_scale: int, largest: int) -> Tensor:
    """A learned scale, above 0, whose gradient is smaller by LSQ's factor (its section 2.2)."""
    positive = scale.abs().clamp(min=_SMALLEST)
    factor = 1 / math.sqrt(values_per_scale * largest)
    return positive * factor + (positive * (1 - factor)).detach()


class WeightQuantizer(nn.Module):
    """Rounds weights [out, ...] to the grid of each output channel.

    Args:
        weight: What is to be rounded; not kept.
        bits: 2 to 8.
        learns: Whether the scales are parameters; else they follow the weights.
    """

    def __init__(self, weight: Tensor, bits: int, *, learns: bool) -> None:
        super().__init__()
        self.largest = 2 ** (bits - 1) - 1
        self.quantizes = False
        self.scale = nn.Parameter(weight.new_ones(len(weight))) if learns else None

    @torch.no_grad()
    def begin(self, weight: Tensor) -> None:
        """Set learned scales to those that round the weights with the least squared error."""
        if self.scale is None:
            return
        rows = weight.flatten(1)
        whole = (rows.abs().amax(1) / self.largest).clamp(min=_SMALLEST)
        least = torch.full_like(whole, torch.inf)
        for share in torch.linspace(1, 0.2, 33):
            scale = (whole * share)[:, None]
            rounded = (rows / scale).round().clamp(-self.largest, self.largest) * scale
            error = (rounded - rows).square().sum(1)
            self.scale.copy_(torch.where(error < least, whole * share, self.scale))
            least = torch.minimum(error, least)

    def forward(self, weight: Tensor) -> Tensor:
        """[out, ...] to the same shape, on the grid once quantization has begun."""
        if not self.quantizes:
            return weight
        if self.scale is None:
            peaks = weight.detach().flatten(1).abs().amax(1)
            scale = (peaks / self.largest).clamp(min=_SMALLEST)
        else:
            scale = _damped(self.scale, weight[0].numel(), self.largest)
        by_channel = scale.view(-1, *[1] * (weight.dim() - 1))
        return fake_quantize(weight, by_channel, 0, -self.largest, self.largest)


class InputQuantizer(nn.Module):
    """Observes the range of a tensor, then rounds it to a grid over that range.

    Args:
        bits: 4 to 8.
        learns: Whether the scale is a parameter once quantization has begun.
    """

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self, bits: int, *, learns: bool) -> None:
        super().__init__()
        self.largest = 2**bits - 1
        self.quantizes = False
        self.observes = True
        self.scale = nn.Parameter(torch.ones(1)) if learns else None
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def begin(self) -> None:
        """Set a learned scale from the range seen so far."""
        if self.scale is not None:
            self.scale.copy_(self._observed_scale())

    def forward(self, features: Tensor) -> Tensor:
        """Any shape to the same shape, on the grid once quantization has begun."""
        if self.observes and self.training:
            self._observe(features)
        if not self.quantizes:
            return features
        scale = self._observed_scale()
        zero_point = (-self.low / scale).round().clamp(0, self.largest)
        if self.scale is not None:
            scale = _damped(self.scale, features[0].numel(), self.largest)
        return fake_quantize(features.float(), scale, zero_point, 0, self.largest)

    @torch.no_grad()
    def _observe(self, features: Tensor) -> None:
        low, high = features.float().aminmax()
        self.seen.add_(1)
        weight = (1 / self.seen).clamp(min=1 / _AVERAGED)
        self.low.lerp_(low.clamp(max=0), weight)
        self.high.lerp_(high.clamp(min=0), weight)

    def _observed_scale(self) -> Tensor:
        scale: Tensor = (self.high - self.low) / self.largest
        return scale.clamp(min=_SMALLEST)


class QuantizedConv2d(nn.Conv2d):
    """A convolution that rounds its weight and what it reads; its own tensors keep their names.

    Args:
        layer: Whose weight and bias it takes over.
        weights: Rounds the weight.
        inputs: Rounds what it reads.
    """

    def __init__(self, layer: nn.Conv2d, weights: WeightQuantizer, inputs: InputQuantizer) -> None:
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            device="meta",
        )
        self.weight, self.bias = layer.weight, layer.bias
        self.weights, self.inputs = weights, inputs

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, H, W] to [N, out, H', W']."""
        weight: Tensor = self.weights(self.weight)
        made: Tensor = self._conv_forward(self.inputs(features), weight, self.bias)
        return made


class QuantizedLinear(nn.Linear):
    """A linear layer that rounds its weight and what it reads; its own tensors keep their names.

    Args:
        layer: Whose weight and bias it takes over.
        weights: Rounds the weight.
        inputs: Rounds what it reads.
    """

    def __init__(self, layer: nn.Linear, weights: WeightQuantizer, inputs: InputQuantizer) -> None:
        bias = layer.bias is not None
        super().__init__(layer.in_features, layer.out_features, bias, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.weights, self.inputs = weights, inputs

    def forward(self, features: Tensor) -> Tensor:
        """[N, in] to [N, out]."""
        weight: Tensor = self.weights(self.weight)
        made: Tensor = nn.functional.linear(self.inputs(features), weight, self.bias)
        return made
