"""Structured pruning: whole channels are removed, and the network is narrower afterwards.

Torch-Pruning finds which channels hang together (a convolution's outputs, its normalization, every
layer that reads them, through concatenations, sums and squeeze-excitation). A coupled set is cut by
its group L2 norm (Fang et al. 2023, arXiv:2301.12900). Which channels go is decided here:

- The inputs of the network and the outputs of its last linear layer stay.
- Where a set meets convolutions with g groups, it is seen as g segments (the least common multiple,
  where there are several g); the same positions go from each segment, so that every group stays
  equally wide and reads the channels it read before.
- A set that is only a part of what a grouped convolution reads (a DenseNet with groups and no
  bottleneck) cannot be cut evenly. It stays, and the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.runtime.errors import CheckFailedError, MissingExtraError, RecipeError
from edgekit.train.recipe_tables import ChannelRanking


@dataclass(frozen=True)
class LayerCut:
    """One layer's output channels before and after."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class ChannelPruning:
    """What channel pruning did.

    Attributes:
        layers: The convolutions and linear layers whose outputs were cut.
        skipped: The layers that could not be cut, each with the reason.
        params_before: Elements of all parameters.
        params_after: The same after the cut.
        macs_before: Multiply-accumulates of convolutions and linear layers for one sample.
        macs_after: The same after the cut.
    """

    layers: tuple[LayerCut, ...]
    skipped: tuple[str, ...]
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int


@dataclass(frozen=True)
class _Coupled:
    """Channels that can only go together, and the importance of each position of its segments."""

    layer: nn.Module
    prune: Any
    segments: int
    importance: Tensor


def prune_channels(
    module: nn.Module,
    example: Tensor,
    *,
    ratio: float,
    round_to: int = 1,
    ranking: ChannelRanking = "layer",
) -> ChannelPruning:
    """Remove channels of `module` in place; its inputs and outputs keep their shapes.

    Optimizers that hold the module's parameters must be made anew afterwards.

    Args:
        module: An image classifier; stays in its training or evaluation mode.
        example: Input [N, C, H, W] on the module's device.
        ratio: Part of the channels to remove, between 0 and 1.
        round_to: Layers that are cut keep a multiple of this many channels, rounded up.
        ranking: "layer" removes the same part of every layer; "network" ranks the channels of
            all layers together, their importance in units of its layer's mean.

    Raises:
        RecipeError: a setting is out of range, or no channel can be removed.
        MissingExtraError: Torch-Pruning is not installed.
        CheckFailedError: the narrowed network does not run.
    """
    if not 0 < ratio < 1:
        raise RecipeError(f"channel pruning ratio {ratio} must be above 0 and below 1")
    if round_to < 1:
        raise RecipeError(f"channel pruning round_to {round_to} must be at least 1")
    if ranking not in ("layer", "network"):
        raise RecipeError(f"channel pruning ranking {ranking!r} must be 'layer' or 'network'")
    example = example.detach().clone()
    with _evaluating(module):
        shape, macs_before = _run(module, example)
        params_before = _count_parameters(module)
        widths = _widths(module)
        skipped = _cut(module, example, ratio, round_to, ranking)
        layers = tuple(
            LayerCut(name, widths[name], after)
            for name, after in _widths(module).items()
            if after != widths[name]
        )
        if not layers:
            reason = skipped[0] if skipped else f"round_to {round_to} leaves every layer as it is"
            raise RecipeError(f"channel pruning with ratio {ratio} removes nothing: {reason}")
        try:
            shape_after, macs_after = _run(module, example)
        except RuntimeError as error:
            raise CheckFailedError(
                f"the network does not run after channel pruning: {error}"
            ) from error
    if shape_after != shape:
        raise CheckFailedError(
            f"channel pruning changed the output from {list(shape)} to {list(shape_after)}"
        )
    return ChannelPruning(
        layers, skipped, params_before, _count_parameters(module), macs_before, macs_after
    )


def _cut(
    module: nn.Module, example: Tensor, ratio: float, round_to: int, ranking: ChannelRanking
) -> tuple[str, ...]:
    """Remove the channels; returns what had to be skipped, and why."""
    try:
        import torch_pruning
    except ModuleNotFoundError as error:
        raise MissingExtraError("torch-pruning", "train") from error
    with torch.enable_grad():  # the graph is traced through autograd
        graph = torch_pruning.DependencyGraph().build_dependency(
            module, example, forward_fn=lambda network, images: network(images)
        )
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2, normalizer=None)
    names = {layer: name for name, layer in module.named_modules()}
    coupled: list[_Coupled] = []
    skipped: list[str] = []
    for group in graph.get_all_groups(ignored_layers=_outputs(module)):
        layer = group[0].dep.target.module
        reason = _refusal(graph, group, names)
        if reason:
            skipped.append(f"{names[layer]}: {reason}")
            continue
        segments = math.lcm(1, *(conv.groups for conv, _ in _grouped(group)))
        scores = importance(group).detach().cpu().view(segments, -1).mean(0)
        coupled.append(_Coupled(layer, group[0].dep.handler, segments, scores))
    for channels, positions in _choose(coupled, ratio, round_to, ranking):
        length = len(channels.importance)
        doomed = [
            segment * length + position
            for segment in range(channels.segments)
            for position in positions
        ]
        graph.get_pruning_group(channels.layer, channels.prune, doomed).prune()
    return tuple(skipped)


def _choose(
    coupled: Iterable[_Coupled], ratio: float, round_to: int, ranking: ChannelRanking
) -> Iterator[tuple[_Coupled, list[int]]]:
    """The positions to remove from each segment, the least important first."""
    coupled = list(coupled)
    counts = [int(ratio * len(channels.importance) + 1e-9) for channels in coupled]
    if ranking == "network" and coupled:
        tiny = torch.finfo(torch.float32).tiny
        scores = [c.importance / c.importance.mean().clamp(min=tiny) for c in coupled]
        pooled = torch.cat(scores).sort().values
        removed = int(ratio * len(pooled) + 1e-9)
        threshold = pooled[removed] if removed < len(pooled) else pooled[-1]
        counts = [int((score < threshold).sum()) for score in scores]
    for channels, count in zip(coupled, counts, strict=True):
        length = len(channels.importance)
        quantum = round_to // math.gcd(round_to, channels.segments)
        keep = max(1, math.ceil((length - count) / quantum)) * quantum
        if keep < length:
            order = torch.argsort(channels.importance, stable=True)
            yield channels, sorted(order[: length - keep].tolist())


def _grouped(group: Any) -> Iterator[tuple[nn.Conv2d, Any]]:
    """The grouped convolutions, other than depthwise ones, of a coupled set, with their items."""
    for item in group.items:
        conv = item.dep.target.module
        if not isinstance(conv, nn.Conv2d) or conv.groups == 1:
            continue
        if not conv.groups == conv.in_channels == conv.out_channels:
            yield conv, item


def _refusal(graph: Any, group: Any, names: dict[nn.Module, str]) -> str | None:
    """Why a coupled set cannot be cut, if it cannot."""
    root = group.items[0]
    total = len(root.idxs)
    for conv, item in _grouped(group):
        if conv.groups == conv.out_channels:
            return f"{names[conv]} has as many groups as outputs, {conv.groups}"
        reads = graph.is_in_channel_pruning_fn(item.dep.handler)
        if reads and conv.groups == conv.in_channels:
            return f"{names[conv]} reads one channel in each of its {conv.groups} groups"
        channels = conv.in_channels if reads else conv.out_channels
        if len(item.idxs) != channels or list(item.idxs) != list(root.idxs):
            return (
                f"it is only {total} of the {channels} channels that {names[conv]} reads in "
                f"{conv.groups} groups, which must stay equally wide"
            )
    if total % math.lcm(1, *(conv.groups for conv, _ in _grouped(group))):
        return f"its {total} channels do not divide into the groups that meet there"
    return None


def _outputs(module: nn.Module) -> list[nn.Module]:
    """The last linear layer, whose outputs are the classes."""
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    return list(linear[-1:])


def _widths(module: nn.Module) -> dict[str, int]:
    return {
        name: layer.weight.shape[0]
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    }


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _run(module: nn.Module, example: Tensor) -> tuple[torch.Size, int]:
    """Shape of the output, and multiply-accumulates for one sample."""
    macs = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal macs
        weight = layer.get_parameter("weight")
        macs += output[0].numel() * weight[0].numel()

    hooks = [
        layer.register_forward_hook(count)
        for layer in module.modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    try:
        with torch.no_grad():
            output: Tensor = module(example)
    finally:
        for hook in hooks:
            hook.remove()
    return output.shape, macs


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; each layer's own mode afterwards."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training
