"""Trained networks that come with edgekit, by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from edgekit.runtime.errors import CheckpointError

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


def _folder() -> Path:
    return Path(str(resources.files("edgekit.train"))) / "trained"
