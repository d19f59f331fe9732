"""The shipped studies."""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgekit.runtime.errors import RecipeError
from edgekit.train.models.table import build_model
from edgekit.train.prune_channels import prune_channels
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


class Size(NamedTuple):
    """What is left of a network, and its int8 score: parameters / 4 / 5.6e6 + MACs / 4 / 2.8e8."""

    nonzero: float
    score: float


def size_of(recipe: Recipe) -> Size:
    torch.manual_seed(0)
    options = recipe.model_options
    module = build_model(recipe.architecture, options, in_channels=3, num_classes=10)
    channels, weights = recipe.prune_channels, recipe.prune
    if channels is not None:
        image = torch.zeros(1, 3, 32, 32)
        prune_channels(module, image, ratio=channels.ratio, round_to=channels.round_to)
    prunable = sum(p.numel() for p in module.parameters() if p.dim() > 1)
    whole = sum(p.numel() for p in module.parameters())
    nonzero = whole - (0 if weights is None else weights.sparsity * prunable)
    with FlopCounterMode(display=False) as counter:
        module.eval()(torch.zeros(1, 3, 32, 32))
    return Size(nonzero, nonzero / 4 / 5.6e6 + counter.get_total_flops() / 2 / 4 / 2.8e8)


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
    # What is taught is judged on the part that the teacher has not seen, with a base of its own;
    # activations are compared in depthwise layers.
    assert {variant.group for variant in base.variants} == groups - {"distillation", "activation"}
    assert ("distillation", "off", 0) in found
    assert found["activation", "relu", 0] is found["groups", "depthwise-equal", 0]
    assert set(base.precisions) == {"fp32", "fp16", "int16", "int8", "dynamic-int8"}


@pytest.mark.parametrize("count", [parameters, macs])
def test_what_is_compared_at_equal_size_is_equal_in_parameters_and_macs(
    count: Callable[[Recipe], int],
) -> None:
    counts = {
        name: count(training.recipe)
        for (group, name, seed), training in trainings("ablation-cifar10").items()
        if seed == 0 and (group == "network" or name == "2-3-3" or name.endswith("-equal"))
    }
    networks = {"densenet", "resnet", "efficientnet"}
    assert set(counts) == {*networks, "2-3-3", "1-1-1-equal", "depthwise-equal"}
    assert max(counts.values()) < 1.05 * min(counts.values()), counts


def test_the_pruned_are_trained_as_long_and_come_to_equal_sizes() -> None:
    found = {
        name: training.recipe
        for (group, name, seed), training in trainings("ablation-cifar10").items()
        if group == "pruning" and seed == 0
    }
    assert {recipe.all_epochs for recipe in found.values()} == {8}
    sizes = {name: size_of(recipe) for name, recipe in found.items()}
    for first, second in (("channels-20", "weights-32"), ("channels-35", "weights-51")):
        assert sizes[first].nonzero == pytest.approx(sizes[second].nonzero, rel=0.03)
    for first, second in (("channels-20", "weights-58"), ("channels-35", "weights-91")):
        assert sizes[first].score == pytest.approx(sizes[second].score, rel=0.03)


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


BASE = """
name = "base"
[data]
name = "images.npz"
[model]
name = "densenet"
[train]
epochs = 1
start = "begun.safetensors"
"""
STUDY = """
name = "small"
base = "recipes/base.toml"
[[variant]]
group = "teacher"
name = "own"
set.distill.teacher = "teacher.safetensors"
"""


def test_paths_belong_to_the_file_that_names_them(tmp_path: Path) -> None:
    for text in (BASE, BASE.replace('"images.npz"', '"digits"')):
        (tmp_path / "recipes").mkdir(exist_ok=True)
        (tmp_path / "recipes" / "base.toml").write_text(text)
        (tmp_path / "study.toml").write_text(STUDY)
        recipe = load_study(tmp_path / "study.toml").trainings[0].recipe
        assert recipe.train.start is not None
        assert recipe.distill is not None
        beside = tmp_path / "recipes"
        assert recipe.path(recipe.train.start) == beside / "begun.safetensors"
        assert recipe.path(*recipe.distill.teachers) == tmp_path / "teacher.safetensors"
        if recipe.data.name != "digits":
            assert recipe.path(recipe.data.name) == beside / "images.npz"


def test_each_of_several_teachers_belongs_to_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    teachers = '[distill]\nteacher = ["one.safetensors", "/two.safetensors"]\n'
    (tmp_path / "recipes" / "base.toml").write_text(BASE + teachers)
    study = STUDY.replace("set.distill.teacher = ", "set.train.start = ")
    (tmp_path / "study.toml").write_text(study)
    recipe = load_study(tmp_path / "study.toml").trainings[0].recipe
    assert recipe.distill is not None
    one, two = map(recipe.path, recipe.distill.teachers)
    assert (one, two) == (tmp_path / "recipes" / "one.safetensors", Path("/two.safetensors"))


def test_paths_of_a_shipped_base_belong_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    path = tmp_path / "studies" / "study.toml"
    path.write_text(STUDY.replace("recipes/base.toml", "densenet-cifar10-4bit"))
    recipe = load_study(path).trainings[0].recipe
    assert recipe.train.start is not None
    start = tmp_path / "runs" / "densenet-cifar10" / "model.safetensors"
    assert recipe.path(recipe.train.start).resolve() == start.resolve()


def test_folders_differ_where_names_come_out_alike(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "base.toml").write_text(BASE)
    other = STUDY[STUDY.index("[[variant]]") :]
    text = STUDY.replace('"teacher"', '"lr"').replace('"own"', '"a-b"')
    text += other.replace('"teacher"', '"lr-a"').replace('"own"', '"b"').replace("teach", "preach")
    (tmp_path / "study.toml").write_text(text.replace("set.distill.preacher", "set.train.start"))
    first, second = (training.folder for training in load_study(tmp_path / "study.toml").trainings)
    assert first != second
    assert first.startswith("lr-a-b-0-")
    assert second.startswith("lr-a-b-0-")


@pytest.mark.parametrize("name", ["ablation-cifar10", "front-cifar10", "layers-cifar10"])
def test_published_results_are_those_of_the_shipped_study(name: str) -> None:
    published = Path(__file__).parents[2] / "docs" / f"{name}.csv"
    with published.open(newline="") as file:
        held = {row["recipe"] for row in csv.DictReader(file)}
    assert held == {training.digest for training in load_study(name).trainings}


@pytest.mark.parametrize("key", ["seed = 7", 'name = "other"'])
def test_what_the_study_gives_each_recipe_cannot_be_set(key: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    variant = "[[variant]]\nname = 'a'\n"
    for tables in (f"[set]\n{key}\n{variant}", f"{variant}[variant.set]\n{key}\n"):
        path.write_text(f"name = 's'\nbase = 'densenet-digits'\n{tables}")
        with pytest.raises(RecipeError, match=r"set\.(seed|name): the study sets it; use"):
            load_study(path)


def test_studies_are_shipped_as_files() -> None:
    folder = resources.files("edgekit.train") / "studies"
    for name in shipped_studies():
        assert tomllib.loads((folder / f"{name}.toml").read_text("utf-8"))["name"] == name
