"""Quantization-aware training of a network: which layers, from which epoch on, and what is saved.

First the network trains as it is while the ranges of its activations are observed; then weights
and activations are rounded as they will be; last, the statistics of batch normalization and the
observed ranges stay as they are, so that what is trained is what is exported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekit.train.fake_quantize import (
    InputQuantizer,
    QuantizedConv2d,
    QuantizedLinear,
    WeightQuantizer,
)
from edgekit.train.recipe_tables import QuantizeRecipe


class Quantization:
    """Fake quantization of a network's convolutions and linear layers, which it replaces.

    It is no nn.Module: its tensors are the network's.

    Args:
        network: What is to be trained; changed in place.
        recipe: Bits, method and when.
        epochs: Epochs of the training.
    """

    def __init__(self, network: nn.Module, recipe: QuantizeRecipe, epochs: int) -> None:
        # The first epoch is for observing, and the last is for training what is saved.
        self.begins = min(max(1, round(recipe.begin * epochs)), epochs - 1)
        self.freezes = max(self.begins, round(recipe.freeze * epochs))
        self._learns = recipe.method == "learned-step"
        self._layers = dict(_insert(network, recipe, learns=self._learns))
        self._norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]

    def set_epoch(self, epoch: int) -> None:
        """Observe, round or freeze as an epoch, counted from 0, requires.

        To be called after the network's own train(), which would thaw its normalizations.
        """
        stops = self.begins if self._learns else self.freezes
        for layer in self._layers.values():
            layer.weights.quantizes = layer.inputs.quantizes = epoch >= self.begins
            layer.inputs.observes = epoch < stops
        if epoch >= self.freezes:
            for norm in self._norms:
                norm.eval()

    def set_scales(self, epoch: int) -> list[str]:
        """Set the learned scales if rounding begins with this epoch.

        Returns:
            The names of the network's parameters that were set.
        """
        if epoch != self.begins or not self._learns:
            return []
        for layer in self._layers.values():
            layer.weights.begin(layer.weight)
            layer.inputs.begin()
        return [f"{name}.{part}.scale" for name in self._layers for part in ("weights", "inputs")]


def _insert(
    network: nn.Module, recipe: QuantizeRecipe, *, learns: bool
) -> list[tuple[str, QuantizedConv2d | QuantizedLinear]]:
    """Replace the layers; returns the new ones by name."""
    found = [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    inserted: list[tuple[str, QuantizedConv2d | QuantizedLinear]] = []
    for name, layer in found:
        weights = WeightQuantizer(layer.weight, recipe.weight_bits, learns=learns)
        inputs = InputQuantizer(recipe.activation_bits, learns=learns)
        replacement = (
            QuantizedConv2d(layer, weights, inputs)
            if isinstance(layer, nn.Conv2d)
            else QuantizedLinear(layer, weights, inputs)
        )
        replacement.train(layer.training)
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, replacement)
        inserted.append((name, replacement))
    return inserted


@torch.no_grad()
def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The state of the network without fake quantization, its weights rounded to their grids.

    Returns:
        On the CPU, by the names that the network had; its own state where nothing was inserted.
    """
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    for name, layer in network.named_modules():
        if isinstance(layer, (QuantizedConv2d, QuantizedLinear)):
            for part in ("weights", "inputs"):
                for key in getattr(layer, part).state_dict():
                    del state[f"{name}.{part}.{key}"]
            state[f"{name}.weight"] = layer.weights(layer.weight.float()).cpu().contiguous()
    return state
