"""The shipped studies."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from importlib import resources

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgekit.train.models.table import build_model
from edgekit.train.recipe import Recipe
from edgekit.train.study import Training, load_study, merged, shipped_studies


def trainings(name: str) -> dict[tuple[str, str, int], Training]:
    return {
        (variant.group, variant.name, training.recipe.seed): training
        for training in load_study(name).trainings
        for variant in training.variants
    }


def network(recipe: Recipe) -> torch.nn.Module:
    with torch.device("meta"):
        return build_model(recipe.architecture, recipe.model_options, in_channels=3, num_classes=10)


def parameters(recipe: Recipe) -> int:
    return sum(parameter.numel() for parameter in network(recipe).parameters())


def macs(recipe: Recipe) -> int:
    with FlopCounterMode(display=False) as counter:
        network(recipe).eval()(torch.zeros(1, 3, 32, 32, device="meta"))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_load_and_name_one_folder_a_training(name: str) -> None:
    found = load_study(name).trainings
    assert len({training.folder for training in found}) == len(found)
    same = {json.dumps(dict(t.recipe.model), sort_keys=True) + t.recipe.text for t in found}
    assert len(same) == len(found)


def test_every_group_of_the_ablation_holds_the_base() -> None:
    found = trainings("ablation-cifar10")
    base = found["precision", "base", 0]
    groups = {group for group, _, _ in found}
    # What is taught is judged on the part that the teacher has not seen, with a base of its own.
    assert {variant.group for variant in base.variants} == groups - {"distillation"}
    assert ("distillation", "off", 0) in found
    assert set(base.precisions) == {"fp32", "fp16", "int16", "int8", "dynamic-int8"}


@pytest.mark.parametrize("count", [parameters, macs])
def test_the_networks_are_equal_in_parameters_and_macs(count: Callable[[Recipe], int]) -> None:
    counts = {
        name: count(training.recipe)
        for (group, name, seed), training in trainings("ablation-cifar10").items()
        if group == "network" and seed == 0
    }
    assert set(counts) == {"densenet", "resnet", "efficientnet"}
    assert max(counts.values()) < 1.05 * min(counts.values()), counts


def test_the_first_seed_of_every_variant_comes_before_the_second() -> None:
    seeds = [training.recipe.seed for training in load_study("ablation-cifar10").trainings]
    assert seeds == sorted(seeds)


def test_another_model_replaces_the_base_s_and_the_same_one_is_merged() -> None:
    base = {"model": {"name": "densenet", "groups": 2}, "seed": 0}
    assert merged(base, {"model": {"groups": 3}}) == {
        "model": {"name": "densenet", "groups": 3},
        "seed": 0,
    }
    assert merged(base, {"model": {"name": "resnet"}})["model"] == {"name": "resnet"}
    assert base["model"] == {"name": "densenet", "groups": 2}


def test_studies_are_shipped_as_files() -> None:
    folder = resources.files("edgekit.train") / "studies"
    for name in shipped_studies():
        assert tomllib.loads((folder / f"{name}.toml").read_text("utf-8"))["name"] == name
