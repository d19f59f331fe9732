"""Fake quantization of weights and activations, with gradients, on PyTorch's own operators.

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
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_AVERAGED = 100  # batches over which the range of an activation is averaged
_SMALLEST = 1e-9  # scale of a channel that is zero everywhere


class WeightQuantizer(nn.Module):
    """Rounds weights [out, ...] to the grid of each output channel.

    Args:
        weight: What is to be rounded; not kept.
        bits: 2 to 8.
        learns: Whether the scales are parameters; else they follow the weights.
    """

    zero_point: Tensor

    def __init__(self, weight: Tensor, bits: int, *, learns: bool) -> None:
        super().__init__()
        self.largest = 2 ** (bits - 1) - 1
        self.quantizes = False
        self.scale = nn.Parameter(weight.new_ones(len(weight))) if learns else None
        self.register_buffer("zero_point", weight.new_zeros(len(weight)), persistent=False)

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
            return torch.fake_quantize_per_channel_affine(
                weight, scale, self.zero_point.to(torch.int32), 0, -self.largest, self.largest
            )
        factor = 1 / math.sqrt(weight[0].numel() * self.largest)
        return torch._fake_quantize_learnable_per_channel_affine(
            weight,
            self.scale.abs().clamp(min=_SMALLEST),
            self.zero_point,
            0,
            -self.largest,
            self.largest,
            factor,
        )


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
        observed = self._observed_scale()
        zero_point = (-self.low / observed).round().clamp(0, self.largest)
        if self.scale is None:
            return torch.fake_quantize_per_tensor_affine(
                features, observed, zero_point.to(torch.int32), 0, self.largest
            )
        factor = 1 / math.sqrt(features[0].numel() * self.largest)
        return torch._fake_quantize_learnable_per_tensor_affine(
            features.float(),
            self.scale.abs().clamp(min=_SMALLEST),
            zero_point.view(1),
            0,
            self.largest,
            factor,
        )

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
