"""A study: one recipe, varied, each variant trained with several seeds; as a TOML file.

    name = "augmentation-cifar10"
    base = "densenet-cifar10-grouped"  # a recipe: a file beside this one, or a shipped one by name
    seeds = [0, 1, 2]
    set.train.epochs = 10            # changes of the base, for all variants

    [[variant]]
    group = "augmentation"
    name = "mixup"
    set.augment.mixup = 0.2          # changes of this variant

A change merges into the recipe key by key, but for a model of another name, which replaces the
model whole. Paths of the base belong to its folder, those of changes to the study's. Variants that
come to the same recipe share one training.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from edgekit.runtime.data.load import DATASETS
from edgekit.runtime.errors import MissingExtraError, RecipeError
from edgekit.train.models.table import build_model
from edgekit.train.recipe import PATH_KEYS, Recipe, load_recipe, parse_recipe
from edgekit.train.recipe_keys import check_name
from edgekit.train.settings import from_mapping

try:
    import tomli_w
except ModuleNotFoundError as missing:
    raise MissingExtraError("tomli_w", "train") from missing

_FOLDER_DIGITS = 6  # of the digest
# Keys that came after studies had been kept: at these defaults a digest is what it was before.
_LATER_KEYS = (("distill", "mirror", False), ("prune_channels", "ranking", "layer"))
_UNFIT = re.compile(r"[^A-Za-z0-9._+-]+")  # what a folder's name is better off without


@dataclass(frozen=True)
class Variant:
    """One way to change the base.

    Attributes:
        name: What it is called within its group.
        group: What it is compared with.
        set: Changes of the base recipe, as nested tables.
        seeds: Seeds in place of the study's.
        precisions: Precisions in place of the study's.
    """

    name: str
    group: str = "all"
    set: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    precisions: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyKeys:
    """Everything a study's file can say.

    Attributes:
        name: What the study is called.
        base: The recipe that is varied: a path relative to the file, or a shipped recipe's name.
        variant: The variants.
        seeds: Each variant is trained once with each of them.
        precisions: What every trained network is converted to: "fp32" or a precision of
            `edgekit quantize`.
        set: Changes of the base for all variants, as nested tables.
    """

    name: str
    base: str
    variant: tuple[Variant, ...]
    seeds: tuple[int, ...] = (0,)
    precisions: tuple[str, ...] = ("int8",)
    set: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("name", self.name)
        _check_own_keys("set", self.set)
        if not self.variant:
            raise RecipeError("variant: a study needs at least one [[variant]]")
        if not self.seeds or not self.precisions:
            raise RecipeError("seeds, precisions: give at least one of each")
        _check_once("seeds", self.seeds)
        _check_once("precisions", self.precisions)
        seen: set[tuple[str, str]] = set()
        for index, variant in enumerate(self.variant):
            check_name(f"variant[{index}].name", variant.name)
            _check_own_keys(f"variant[{index}].set", variant.set)
            if (variant.group, variant.name) in seen:
                raise RecipeError(
                    f"variant[{index}].name: {variant.name!r} stands twice in group "
                    f"{variant.group!r}; give it another name"
                )
            seen.add((variant.group, variant.name))
            _check_once(f"variant[{index}].seeds", variant.seeds)
            _check_once(f"variant[{index}].precisions", variant.precisions)


def _check_own_keys(key: str, changes: Mapping[str, Any]) -> None:
    """Refuse to change what the study itself gives each recipe."""
    for name, instead in (("seed", "seeds"), ("name", "the variant's name")):
        if name in changes:
            raise RecipeError(f"{key}.{name}: the study sets it; use {instead}")


def _check_once(key: str, values: Sequence[int | str]) -> None:
    """Refuse what would count a model twice."""
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise RecipeError(f"{key}: {twice!r} stands twice; give each once")


@dataclass(frozen=True)
class Training:
    """One training of a study, and the variants that it serves.

    Attributes:
        folder: Name of its run folder.
        recipe: What is trained.
        variants: Those that come to this recipe, each with the precisions that it is shown in.
        precisions: What it is converted to, for all of them.
    """

    folder: str
    recipe: Recipe
    variants: tuple[Variant, ...]
    precisions: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Tells recipes that differ in more than their name: 12 hexadecimal digits."""
        keys = {**asdict(self.recipe), "name": "", "text": "", "folder": ""}
        for table, key, default in _LATER_KEYS:
            if keys[table] is not None and keys[table][key] == default:
                del keys[table][key]
        return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Study:
    """A study with its trainings.

    Attributes:
        name: What it is called.
        trainings: In the order of the file, the first seed of every variant before the second.
    """

    name: str
    trainings: tuple[Training, ...]


def shipped_studies() -> tuple[str, ...]:
    """Names of the studies that come with edgekit."""
    folder = resources.files("edgekit.train") / "studies"
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load_study(path_or_name: str | Path) -> Study:
    """Read a study from a .toml file, or one that comes with edgekit by its name.

    Raises:
        RecipeError: there is none, it is no TOML, or a key, a value or a variant's recipe is wrong;
            the message has the file and the dotted key.
    """
    path = Path(path_or_name)
    if path.suffix != ".toml" and not path.is_file():
        if str(path_or_name) not in shipped_studies():
            raise RecipeError(
                f"{path_or_name}: no such study; give the path of a .toml file or one of "
                f"{', '.join(shipped_studies())}"
            )
        entry = resources.files("edgekit.train") / "studies" / f"{path_or_name}.toml"
        return _parse(entry.read_text("utf-8"), str(path_or_name), Path())
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text, so it is no study") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _parse(text, str(path), path.parent)


def _parse(text: str, origin: str, folder: Path) -> Study:
    try:
        keys = from_mapping(StudyKeys, tomllib.loads(text), where="")
        beside = folder / keys.base
        base = load_recipe(beside if beside.is_file() else keys.base)
        return Study(keys.name, tuple(_trainings(keys, base, folder)))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{origin}: is not valid TOML: {error}") from error
    except RecipeError as error:
        raise RecipeError(f"{origin}: {error}") from error


def _trainings(keys: StudyKeys, base: Recipe, folder: Path) -> Iterator[Training]:
    """One training for each recipe that differs, under its first variant's name."""
    common = merged(_seen_from(folder, base), keys.set)
    found: dict[str, Training] = {}
    for variant, seed in _by_seed(keys):
        name = _UNFIT.sub("-", f"{variant.group}-{variant.name}-{seed}").lstrip("._+-")
        table = {**merged(common, variant.set), "name": name, "seed": seed}
        own = _training(_recipe(table, variant, folder))
        earlier = found.get(own.digest, own)
        variant = replace(variant, precisions=variant.precisions or keys.precisions)
        wanted = (*earlier.precisions, *variant.precisions)
        found[own.digest] = Training(
            earlier.folder,
            earlier.recipe,
            (*earlier.variants, variant),
            tuple(dict.fromkeys(wanted)),
        )
    yield from found.values()


def _training(recipe: Recipe) -> Training:
    """The digest tells apart folders whose names come out alike, and those of an edited variant."""
    training = Training(recipe.name, recipe, (), ())
    return replace(training, folder=f"{recipe.name}-{training.digest[:_FOLDER_DIGITS]}")


def _seen_from(folder: Path, base: Recipe) -> dict[str, Any]:
    """The base's tables, with its paths relative to another folder."""
    tables = tomllib.loads(base.text)
    start, own = folder.resolve(), base.folder.resolve()
    if own == start:
        return tables
    for table, key in PATH_KEYS:
        value = tables.get(table, {}).get(key)
        if value is None or (key == "name" and value in DATASETS):
            continue
        tables[table] = {**tables[table], key: _moved(value, own, start)}
    return tables


def _moved(path: str | list[str], own: Path, start: Path) -> str | list[Any]:
    """A path or several, relative to `start` in place of `own`."""
    if isinstance(path, list):
        return [_moved(each, own, start) for each in path]
    return path if Path(path).is_absolute() else os.path.relpath(own / path, start)


def _by_seed(keys: StudyKeys) -> Iterator[tuple[Variant, int]]:
    """Every variant's first seed, then the second ones: an interrupted study has all variants."""
    seeds = [variant.seeds or keys.seeds for variant in keys.variant]
    for place in range(max(map(len, seeds))):
        for variant, own in zip(keys.variant, seeds, strict=True):
            if place < len(own):
                yield variant, own[place]


def _recipe(table: Mapping[str, Any], variant: Variant, folder: Path) -> Recipe:
    try:
        recipe = parse_recipe(tomli_w.dumps(table), origin="set", folder=folder)
        with torch.device("meta"):  # tells now what is wrong with a model that is trained last
            build_model(recipe.architecture, recipe.model_options, in_channels=3, num_classes=2)
        return recipe
    except RecipeError as error:
        raise RecipeError(f"variant {variant.name!r} of {variant.group!r}: {error}") from error


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables with changes merged in; a model whose "name" changes is replaced whole."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            is_another = key == "model" and value.get("name", old.get("name")) != old.get("name")
            result[key] = dict(value) if is_another else merged(old, value)
        else:
            result[key] = value
    return result
