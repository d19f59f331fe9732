"""A network takes on the widths of given tensors, so that one narrowed by pruning can be rebuilt.

Kernel sizes, strides and the number of groups stay the architecture's; a depthwise convolution
stays depthwise. Tensors that do not fit even so are left for the caller to find.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def fit_widths(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give the layers of `module`, on the meta device, the widths of the tensors in `state`.

    Args:
        module: A network whose layers are Conv2d, BatchNorm2d, Linear and layers without tensors.
        state: A tensor for each entry of the module's state_dict.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
            shape = tuple(state[f"{name}.weight"].shape)
            if shape != layer.weight.shape and len(shape) == layer.weight.dim() and all(shape):
                _fit(layer, shape)


def _fit(layer: nn.Conv2d | nn.BatchNorm2d | nn.Linear, shape: tuple[int, ...]) -> None:
    if isinstance(layer, nn.Conv2d):
        depthwise = layer.groups == layer.in_channels == layer.out_channels
        groups = shape[0] if depthwise and layer.groups > 1 else layer.groups
        if shape[2:] != layer.weight.shape[2:] or shape[0] % groups:
            return
        layer.groups, layer.out_channels, layer.in_channels = groups, shape[0], shape[1] * groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = shape
    else:
        layer.num_features = shape[0]
        layer.running_mean = torch.empty(shape, device="meta")
        layer.running_var = torch.empty(shape, device="meta")
    layer.weight = nn.Parameter(torch.empty(shape, device="meta"))
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.empty(shape[:1], device="meta"))
