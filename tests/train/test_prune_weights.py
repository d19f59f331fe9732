from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.train.prune_weights import (
    CubicSchedule,
    WeightPruning,
    cubic_schedule,
    prunable,
    sparsity_of,
)
from edgekit.train.recipe_tables import PruneRecipe


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 5))


def test_sparsity_follows_zhu_and_gupta() -> None:
    schedule = CubicSchedule(0.8, begin=10, end=110, every=5)
    assert schedule.at(9) == 0
    assert schedule.at(10) == 0
    assert schedule.at(60) == pytest.approx(0.8 - 0.8 * 0.5**3)
    assert schedule.at(85) == pytest.approx(0.8 - 0.8 * 0.25**3)
    assert schedule.at(110) == 0.8
    assert schedule.at(10_000) == 0.8


def test_pruning_is_due_every_so_many_steps_and_at_the_end() -> None:
    schedule = CubicSchedule(0.8, begin=10, end=23, every=5)
    assert [step for step in range(60) if schedule.is_due(step)] == [10, 15, 20, 23]


def test_shares_of_the_epochs_become_steps() -> None:
    recipe = PruneRecipe(sparsity=0.5, begin=0.25, end=1.0, every_steps=7)
    assert cubic_schedule(recipe, 4, 10) == CubicSchedule(0.5, 10, 40, 7)
    first = cubic_schedule(PruneRecipe(sparsity=0.5, begin=0.0, end=0.01), 1, 3)
    assert (first.begin, first.end) == (1, 1)


def test_the_smallest_weights_of_all_layers_together_go() -> None:
    module = network()
    before = torch.cat([w.detach().abs().flatten() for w in prunable(module).values()])
    pruning = WeightPruning(module, None)
    pruning.prune(module, 0.6)
    pruning.apply_masks(module)
    after = torch.cat([w.detach().abs().flatten() for w in prunable(module).values()])
    count = round(0.6 * len(before))
    assert int((after == 0).sum()) == count
    assert float(before[after == 0].max()) <= float(before[after != 0].min())
    assert sparsity_of(module) == pytest.approx(count / len(before))
    assert sparsity_of(network()) == 0
    shares = [float((w == 0).float().mean()) for w in prunable(module).values()]
    assert shares[0] != pytest.approx(shares[1], abs=0.05)


def test_normalization_and_biases_stay() -> None:
    module = network()
    assert list(prunable(module)) == ["0.weight", "3.weight"]


def test_what_is_pruned_stays_pruned() -> None:
    module = network()
    pruning = WeightPruning(module, None)
    pruning.prune(module, 0.3)
    pruning.apply_masks(module)
    first = {name: mask.clone() for name, mask in pruning.masks.items()}
    with torch.no_grad():
        for weight in prunable(module).values():
            weight.add_(torch.randn_like(weight))
    pruning.prune(module, 0.5)
    pruning.apply_masks(module)
    for name, weight in prunable(module).items():
        assert bool((weight[~first[name]] == 0).all())
    assert sparsity_of(module) == pytest.approx(0.5, abs=0.002)


def test_masks_are_applied_after_every_step() -> None:
    module = network()
    pruning = WeightPruning(module, CubicSchedule(0.5, 1, 1, 1))
    pruning.step(module, 1)
    assert sparsity_of(module) == pytest.approx(0.5, abs=0.002)
    with torch.no_grad():
        module[0].weight.add_(1.0)
    assert sparsity_of(module) < 0.4
    pruning.step(module, 2)
    assert sparsity_of(module) == pytest.approx(0.5, abs=0.002)


def test_masks_survive_in_the_state() -> None:
    module = network()
    pruning = WeightPruning(module, None)
    pruning.prune(module, 0.5)
    other = WeightPruning(network(), None)
    assert all(bool(mask.all()) for mask in other.masks.values())
    other.load_state_dict(pruning.state_dict())
    for name, mask in pruning.masks.items():
        assert torch.equal(mask, other.masks[name])


def test_masks_begin_as_where_weights_are_not_zero() -> None:
    module = network()
    with torch.no_grad():
        module[0].weight[2] = 0
    pruning = WeightPruning(module, None)
    assert not bool(pruning.masks["0.weight"][2].any())
    assert bool(pruning.masks["0.weight"][3].all())


def test_a_shared_weight_counts_once() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    assert list(prunable(module)) == ["0.weight"]
