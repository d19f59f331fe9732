from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekit.runtime.errors import RecipeError
from edgekit.train.models.table import build_model
from edgekit.train.prune_channels import ChannelPruning, LayerCut, prune_channels

GROUPED = {"blocks": [2, 2, 2], "growth": 12, "groups": [2, 3, 3]}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "densenet-pre": ("densenet", GROUPED),
    "densenet-post": ("densenet", {**GROUPED, "order": "post"}),
    "densenet-no-bottleneck": ("densenet", {"blocks": [2, 2], "growth": 8, "bottleneck": 0}),
    "resnet": ("resnet", {"widths": [24, 48], "stem_width": 24, "blocks": 2}),
    "resnet-grouped": ("resnet", {"widths": [24, 48], "stem_width": 24, "groups": [2, 3]}),
    "efficientnet": ("efficientnet", {}),
}


def _build(case: str) -> nn.Module:
    torch.manual_seed(0)
    name, options = CASES[case]
    return build_model(name, options, in_channels=3, num_classes=10)


def _prune(module: nn.Module, **settings: Any) -> ChannelPruning:
    return prune_channels(module, torch.zeros(1, 3, 16, 16), **settings)


def _grouped(module: nn.Module) -> list[nn.Conv2d]:
    return [
        m for m in module.modules()
        if isinstance(m, nn.Conv2d) and m.groups > 1 and m.groups != m.in_channels
    ]  # fmt: skip


@pytest.mark.parametrize("ranking", ["layer", "network"])
@pytest.mark.parametrize("case", CASES)
def test_half_the_channels_go_and_the_network_still_trains(case: str, ranking: str) -> None:
    module = _build(case).train()
    groups = [conv.groups for conv in _grouped(module)]
    report = _prune(module, ratio=0.5, ranking=ranking)
    images = torch.randn(2, 3, 17, 23)
    logits = module(images)
    logits.sum().backward()
    assert logits.shape == (2, 10)
    assert module.training
    assert all(layer.training for layer in module.modules())
    assert report.params_after == sum(p.numel() for p in module.parameters())
    assert report.params_after < 0.7 * report.params_before
    assert report.macs_after < 0.8 * report.macs_before
    assert not report.skipped
    assert [conv.groups for conv in _grouped(module)] == groups
    stem = next(m for m in module.modules() if isinstance(m, nn.Conv2d))
    assert stem.in_channels == 3


def test_macs_and_parameters_are_those_of_a_count_by_hand() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    report = prune_channels(module, torch.zeros(2, 1, 8, 8), ratio=0.5)
    assert report == ChannelPruning(
        layers=(LayerCut("0", 4, 2),),
        skipped=(),
        params_before=4 * 9 + 4 + 4 * 3 + 3,
        params_after=2 * 9 + 2 + 2 * 3 + 3,
        macs_before=4 * 9 * 64 + 4 * 3,
        macs_after=2 * 9 * 64 + 2 * 3,
    )


def _settle(module: nn.Module, images: Tensor) -> None:
    """Take BN statistics from these images, so that what the images hold reaches the outputs."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    module.train()(images)
    module.eval()


def _kill_every_other_channel(module: nn.Module) -> None:
    """Nothing flows through the even channels any more; all that is left of BN is made uneven."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data[::2] = 0
            if layer.weight.shape[1] % 2 == 0:  # neither the first nor depthwise
                layer.weight.data[:, ::2] = 0
        elif isinstance(layer, nn.Linear):
            layer.weight.data[:, ::2] = 0
        elif isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.5)[::2] = 0
            layer.bias.data.uniform_(-0.5, 0.5)[::2] = 0


@pytest.mark.parametrize("case", CASES)
def test_removing_exactly_the_dead_channels_changes_no_output(case: str) -> None:
    module = _build(case)
    _kill_every_other_channel(module)
    images = torch.randn(4, 3, 16, 16)
    _settle(module, images)
    with torch.no_grad():
        expected = module(images)
        _prune(module, ratio=0.5)
        assert torch.allclose(module(images), expected, rtol=1e-4, atol=1e-5)
    assert (expected - expected.mean(0)).std() > 1e-2


@pytest.mark.parametrize("case", CASES)
def test_removing_live_channels_changes_the_output(case: str) -> None:
    module = _build(case)
    images = torch.randn(4, 3, 16, 16)
    _settle(module, images)
    with torch.no_grad():
        expected = module(images)
        _prune(module, ratio=0.5)
        assert not torch.allclose(module(images), expected, rtol=1e-2, atol=1e-3)


def test_network_ranking_takes_more_from_layers_with_uneven_channels() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 2),
    )  # fmt: skip
    module[0].weight.data[:6] *= 0.01
    module[1].weight.data[:, :6] *= 0.01
    module[0].bias.data.zero_()
    report = prune_channels(module, torch.zeros(1, 1, 8, 8), ratio=6 / 16, ranking="network")
    assert report.layers == (LayerCut("0", 8, 2),)


@pytest.mark.parametrize("case", ["densenet-pre", "resnet-grouped", "efficientnet"])
def test_round_to_leaves_multiples_in_every_layer_that_was_cut(case: str) -> None:
    report = _prune(_build(case), ratio=0.4, round_to=8)
    assert all(cut.after % 8 == 0 for cut in report.layers)
    plain = _prune(_build(case), ratio=0.4)
    assert any(cut.after % 8 for cut in plain.layers)


def test_a_network_can_be_pruned_twice_and_keeps_a_channel_everywhere() -> None:
    module = _build("densenet-pre")
    first = _prune(module, ratio=0.5)
    second = _prune(module, ratio=0.9)
    assert second.params_before == first.params_after
    assert min(cut.after for cut in second.layers) >= 1
    assert module(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


def test_one_network_does_not_influence_the_next() -> None:
    alone = _prune(_build("densenet-no-bottleneck"), ratio=0.3)
    _prune(_build("densenet-pre"), ratio=0.3)
    assert _prune(_build("densenet-no-bottleneck"), ratio=0.3) == alone


def test_what_cannot_be_cut_evenly_stays_and_is_reported() -> None:
    options = {"blocks": [2, 2], "growth": 8, "bottleneck": 0, "groups": 2}
    module = build_model("densenet", options, in_channels=3, num_classes=10)
    report = _prune(module, ratio=0.5)
    assert len(report.skipped) == 4
    assert report.skipped[-1] == (
        "stem.conv: it is only 24 of the 32 channels that blocks.0.layers.1.conv2 reads in 2 "
        "groups, which must stay equally wide"
    )
    assert [cut.name for cut in report.layers] == [
        "blocks.0.layers.1.conv2",
        "blocks.1.layers.1.conv2",
    ]
    with pytest.raises(RecipeError, match=r"removes nothing: .* must stay equally wide"):
        _prune(module, ratio=0.5, round_to=8)


def test_what_reads_one_channel_a_group_stays_and_is_reported() -> None:
    options = {"widths": [16], "stem_width": 8, "groups": 8}
    module = build_model("resnet", options, in_channels=3, num_classes=10)
    report = _prune(module, ratio=0.5)
    assert any("reads one channel in each of its 8 groups" in line for line in report.skipped)
    assert module(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


def test_a_ratio_too_small_for_any_layer_is_refused() -> None:
    with pytest.raises(RecipeError, match="removes nothing"):
        _prune(_build("resnet"), ratio=0.001)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(RecipeError, match=r"ratio .* must be above 0 and below 1"):
        _prune(_build("resnet"), ratio=ratio)


def test_other_settings_out_of_range_are_refused() -> None:
    with pytest.raises(RecipeError, match="round_to 0"):
        _prune(_build("resnet"), ratio=0.5, round_to=0)
    with pytest.raises(RecipeError, match="ranking 'best' must be 'layer' or 'network'"):
        _prune(_build("resnet"), ratio=0.5, ranking="best")
