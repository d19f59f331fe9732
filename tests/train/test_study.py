"""The shipped studies."""

from __future__ import annotations

import json
import tomllib
from importlib import resources

import pytest

from edgekit.train.models.table import build_model
from edgekit.train.recipe import Recipe
from edgekit.train.study import Training, load_study, merged, shipped_studies

torch = pytest.importorskip("torch")


def trainings(name: str) -> dict[tuple[str, str, int], Training]:
    return {
        (variant.group, variant.name, training.recipe.seed): training
        for training in load_study(name).trainings
        for variant in training.variants
    }


def parameters(recipe: Recipe) -> int:
    with torch.device("meta"):
        model = build_model(
            recipe.architecture, recipe.model_options, in_channels=3, num_classes=10
        )
    return sum(parameter.numel() for parameter in model.parameters())


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
    assert {variant.group for variant in base.variants} == groups
    assert set(base.precisions) == {"fp32", "fp16", "int16", "int8", "dynamic-int8"}


def test_equal_parameters_are_equal() -> None:
    found = trainings("ablation-cifar10")
    group = "network, equal parameters"
    counts = {
        name: parameters(training.recipe)
        for (of, name, seed), training in found.items()
        if of == group and seed == 0
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
