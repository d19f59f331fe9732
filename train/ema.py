"""An exponential moving average of a network's weights and statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Self

import torch
from torch import Tensor, nn


def decay_at(step: int, decay: float) -> float:
    """The decay of one update, smaller at first so that the start is soon forgotten.

    min(decay, (1 + step) / (10 + step)), as in TensorFlow's ExponentialMovingAverage.
    """
    return min(decay, (1 + step) / (10 + step))


class WeightAverage(nn.Module):
    """Keeps average = decay * average + (1 - decay) * value for all parameters and buffers.

    Integers (the batch counters of normalization) are copied. The averages are buffers of this
    module, so that they move to devices and into checkpoints with it; no operation waits for an
    accelerator.

    Args:
        network: What to average; only read from, and never a child of this module.
        decay: The decay that is approached, below 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._paired: tuple[list[Tensor], list[Tensor]] | None = None
        for name, tensor in network.state_dict().items():
            self.register_buffer(_buffer_name(name), tensor.detach().clone())

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take the network's present values in; `step` counts the updates before this one."""
        averages, values = self._pairs(network)
        floats = [i for i, average in enumerate(averages) if average.is_floating_point()]
        torch._foreach_lerp_(
            [averages[i] for i in floats],
            [values[i] for i in floats],
            1 - decay_at(step, self.decay),
        )
        for average, value in zip(averages, values, strict=True):
            if not average.is_floating_point():
                average.copy_(value)

    @torch.no_grad()
    def swap(self, network: nn.Module) -> None:
        """Exchange the averages and the network's values; doing it twice changes nothing."""
        for average, value in zip(*self._pairs(network), strict=True):
            kept = value.clone()
            value.copy_(average)
            average.copy_(kept)

    @torch.no_grad()
    def restart(self, network: nn.Module, names: Iterable[str]) -> None:
        """Begin the averages of some of the network's tensors anew, at their present values."""
        values = network.state_dict()
        for name in names:
            self.get_buffer(_buffer_name(name)).copy_(values[name])

    @torch.no_grad()
    def multiply(self, masks: dict[str, Tensor]) -> None:
        """Multiply averages by masks, by the names that the network's parameters have."""
        for name, mask in masks.items():
            self.get_buffer(_buffer_name(name)).mul_(mask)

    def _pairs(self, network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """Averages and the network's tensors beside them, looked up once a device."""
        if self._paired is None:
            values = network.state_dict()
            averages = [self.get_buffer(_buffer_name(name)) for name in values]
            self._paired = averages, list(values.values())
        return self._paired

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._paired = None  # a move to another device makes new tensors, here and in the network
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call] # torch leaves it untyped
        return self


def _buffer_name(name: str) -> str:
    return name.replace(".", "/")  # torch allows no dots in the names of buffers
