"""Trained networks that come with edgekit, by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from edgekit.runtime.errors import CheckpointError
from edgekit.train.recipe import shipped_recipes

_SUFFIX = ".safetensors"


def shipped_checkpoints() -> tuple[str, ...]:
    """Names of the trained networks that come with edgekit."""
    return tuple(sorted(path.name.removesuffix(_SUFFIX) for path in _folder().glob(f"*{_SUFFIX}")))


def find_checkpoint(path_or_name: Path) -> Path:
    """The checkpoint at a path, or the shipped one of that name.

    Raises:
        CheckpointError: there is neither.
    """
    if path_or_name.exists() or path_or_name.suffix or path_or_name.parent != Path():
        return path_or_name
    shipped = _folder() / f"{path_or_name}{_SUFFIX}"
    if not shipped.is_file():
        raise CheckpointError(
            f"{path_or_name}: no such file, run or trained network; give a .safetensors file, a "
            f"run's folder or one of {', '.join(shipped_checkpoints())}"
        )
    return shipped


def is_shipped(path: Path) -> bool:
    """Whether a checkpoint is one that comes with edgekit."""
    return path.parent == _folder()


def check_named(path: Path, key: str) -> None:
    """Refuse a checkpoint that a recipe names and that is not there, and say what makes it.

    Args:
        path: The checkpoint.
        key: Which key of the recipe names it.

    Raises:
        CheckpointError: there is no such file.
    """
    if path.is_file():
        return
    run = path.parent
    if run.name in shipped_recipes():
        advice = f"`edgekit train {run.name} --output {run}` makes it"
    else:
        advice = "train it first, or give another checkpoint in the recipe"
    raise CheckpointError(f"{path}: no such file, which {key} names; {advice}")


def _folder() -> Path:
    return Path(str(resources.files("edgekit.train"))) / "trained"
