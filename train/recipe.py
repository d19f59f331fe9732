"""Recipes: what a training run is, as a TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from edgekit.runtime.data.load import DATASETS
from edgekit.runtime.errors import RecipeError
from edgekit.train.recipe_keys import RecipeKeys
from edgekit.train.settings import from_mapping

# The keys that hold paths, relative to the recipe's file; data.name may be that of a data set.
PATH_KEYS = (
    ("data", "name"),
    ("train", "start"),
    ("distill", "teacher"),
    ("distill", "outputs"),
)


@dataclass(frozen=True)
class Recipe(RecipeKeys):
    """A recipe and where it came from; two that say the same are equal.

    Attributes:
        text: The TOML it was read from.
        folder: What its relative paths start from.
    """

    text: str = field(default="", compare=False)
    folder: Path = field(default=Path(), compare=False)

    def path(self, name: str) -> Path:
        """A path that the recipe names."""
        return self.folder / name

    def inputs(self) -> dict[str, Path]:
        """The files and folders that a run reads, by the dotted key that names each."""
        named = {
            "data.name": None if self.data.name in DATASETS else self.data.name,
            "train.start": self.train.start,
        }
        teachers = () if self.distill is None else self.distill.teachers
        for number, teacher in enumerate(teachers):
            named[f"distill.teacher[{number}]" if number else "distill.teacher"] = teacher
        return {key: self.path(name) for key, name in named.items() if name is not None}


def shipped_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with edgekit."""
    folder = resources.files("edgekit.train") / "recipes"
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load_recipe(path_or_name: str | Path) -> Recipe:
    """Read a recipe from a .toml file, or one that comes with edgekit by its name.

    Raises:
        RecipeError: there is none, it is no TOML, or a key or value is wrong; the message has the
            file and the dotted key.
    """
    path = Path(path_or_name)
    if path.suffix == ".toml" or path.is_file():
        return parse_recipe(_read(path), origin=str(path), folder=path.parent)
    if str(path_or_name) not in shipped_recipes():
        raise RecipeError(
            f"{path_or_name}: no such recipe; give the path of a .toml file or one of "
            f"{', '.join(shipped_recipes())}"
        )
    entry = resources.files("edgekit.train") / "recipes" / f"{path_or_name}.toml"
    return parse_recipe(entry.read_text("utf-8"), origin=str(path_or_name))


def parse_recipe(text: str, *, origin: str, folder: Path = Path()) -> Recipe:
    """Make a recipe of TOML text.

    Args:
        text: The TOML.
        origin: What to call it in messages.
        folder: What its relative paths start from.

    Raises:
        RecipeError: it is no TOML, or a key or value is wrong.
    """
    try:
        tables = tomllib.loads(text)
        keys = from_mapping(RecipeKeys, tables, where="")
        if "channels" in tables["data"] and keys.data.image_size is None:
            raise RecipeError(
                "data.channels: says what a folder's images are decoded to, with data.image_size; "
                "give that too, or leave it out"
            )
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{origin}: is not valid TOML: {error}") from error
    except RecipeError as error:
        raise RecipeError(f"{origin}: {error}") from error
    return Recipe(**vars(keys), text=text, folder=folder)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text, so it is no recipe") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from error
