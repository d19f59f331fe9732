"""An .npz archive with x_train, y_train, x_test and y_test."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.data.source import ArrayImages, Split
from edgekit.runtime.errors import DataError

# Classes that are only numbered get a name each; a label above this is no class.
MAX_NUMBERED_CLASSES = 1_000_000

# What numpy and zipfile raise on files that are damaged, encrypted or packed in an unknown way.
_DAMAGED = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def load_npz(path: Path, part: str) -> Split:
    """Load a part of an archive: images uint8 [N, H, W] or [N, H, W, C], labels integers [N].

    An array `class_names` is optional; classes are numbered without it.

    Raises:
        DataError: no archive, an array is missing, or has another type or shape.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = {f"x_{part}", f"y_{part}"} - set(archive.files)
            if missing:
                raise DataError(
                    f"{path}: has no {' and no '.join(sorted(missing))}; it needs x_train, "
                    "y_train, x_test and y_test"
                )
            images, labels = archive[f"x_{part}"], archive[f"y_{part}"]
            names = archive["class_names"] if "class_names" in archive.files else None
            labels_of_all = [archive[key] for key in ("y_train", "y_test") if key in archive.files]
    except _DAMAGED as error:
        raise DataError(f"{path}: not a readable .npz archive ({error}); write it again") from error
    if images.ndim == 3:
        images = images[..., None]
    shaped = images.ndim == 4 and images.shape[3] in (1, 3) and min(images.shape[1:]) > 0
    if images.dtype != np.uint8 or not shaped:
        raise DataError(
            f"{path}: x_{part} is {images.dtype} {list(images.shape)}; it must be uint8 "
            "[N, H, W], [N, H, W, 1] or [N, H, W, 3]"
        )
    _check_labels(path, f"y_{part}", labels)
    if names is None:
        names = _numbers(path, labels_of_all)
    if names.ndim != 1:
        raise DataError(f"{path}: class_names is {list(names.shape)}; it must be a list of names")
    class_names = tuple(str(name) for name in names)
    return Split(str(path), part, ArrayImages(images), labels.astype(np.int64), class_names)


def _check_labels(path: Path, key: str, labels: NDArray[np.generic]) -> None:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: {key} is {labels.dtype} {list(labels.shape)}; it must be integers [N]"
        )


def _numbers(path: Path, labels_of_all: list[NDArray[np.generic]]) -> NDArray[np.int64]:
    """A number for each class that any part of the archive has."""
    for labels in labels_of_all:
        _check_labels(path, "y_train or y_test", labels)
    largest = max(int(labels.max(initial=0)) for labels in labels_of_all)
    if largest >= MAX_NUMBERED_CLASSES:
        raise DataError(
            f"{path}: label {largest} is no class; labels must count up from 0, or give class_names"
        )
    return np.arange(largest + 1)
