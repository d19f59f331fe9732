"""From the word after --data to images and labels."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.data.cifar10 import load_cifar10
from edgekit.runtime.data.digits import load_digits
from edgekit.runtime.data.folder import load_folder
from edgekit.runtime.data.npz import load_npz
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import DataError

# Named data sets: a part ("train" or "test") and the folder of --data-dir make a split.
DATASETS: dict[str, Callable[[str, Path | None], Split]] = {
    "digits": lambda part, _: load_digits(part),
    "cifar10": load_cifar10,
}

PARTS = ("train", "validation", "test")


def load_split(
    data: str,
    part: str,
    *,
    data_dir: Path | None = None,
    image_shape: tuple[int, int, int] | None = None,
    validation: float = 0.0,
    seed: int = 0,
) -> Split:
    """Load one part of a data set.

    Args:
        data: A name in `DATASETS`, a folder of class folders, or an .npz archive.
        part: "train", "validation" or "test".
        data_dir: Where named data sets live; the environment's EDGEKIT_DATA by default.
        image_shape: (height, width, channels) that a folder's images are decoded to.
        validation: Share of the training set, of each class alike, that is "validation" and no
            longer "train".
        seed: Draws the validation part.

    Raises:
        DataError: there is no such data, it is damaged, or the part would be empty.
    """
    if part not in PARTS:
        raise DataError(f"{data}: no part {part!r}; choose one of {', '.join(PARTS)}")
    if not 0 <= validation < 1 or (part == "validation" and validation == 0):
        raise DataError(f"{data}: a validation share of {validation} leaves no {part} part")
    whole = _load_whole(data, "test" if part == "test" else "train", data_dir, image_shape)
    if part == "test" or validation == 0:
        return whole
    chosen = _held_out(whole.labels, validation, seed)
    return whole.take(np.flatnonzero(chosen == (part == "validation")), part)


def _load_whole(
    data: str, part: str, data_dir: Path | None, image_shape: tuple[int, int, int] | None
) -> Split:
    if data in DATASETS:
        return DATASETS[data](part, data_dir or _environment_dir())
    path = Path(data)
    if path.is_dir():
        return load_folder(path, part, image_shape)
    if path.suffix == ".npz" and path.is_file():
        return load_npz(path, part)
    raise DataError(
        f"{data}: no such data; give {', '.join(DATASETS)}, a folder with one sub-folder per "
        "class, or an .npz archive"
    )


def _environment_dir() -> Path | None:
    value = os.environ.get("EDGEKIT_DATA")
    return Path(value) if value else None


def _held_out(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """True where an image goes to validation: `share` of each class, drawn by seed."""
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        chosen[members[: round(share * len(members))]] = True
    return chosen
