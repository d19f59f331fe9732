"""An .npz archive with x_train, y_train, x_test and y_test."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.data.source import ArrayImages, Split
from edgekit.runtime.errors import DataError

# Classes that are only numbered get a name each; a label above this is no class.
MAX_NUMBERED_CLASSES = 1_000_000


def load_npz(path: Path, part: str) -> Split:
    """Load a part of an archive: images uint8 [N, H, W] or [N, H, W, C], labels integers [N].

    An array `class_names` is optional; classes are numbered without it.

    Raises:
        DataError: no archive, an array is missing, or has another type or shape.
    """
    arrays = _read(path, part)
    missing = {f"x_{part}", f"y_{part}"} - arrays.keys()
    if missing:
        raise DataError(
            f"{path}: has no {' and no '.join(sorted(missing))}; it needs x_train, y_train, x_test "
            "and y_test"
        )
    images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
    names = arrays.get("class_names")
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
        names = _numbers(path, [arrays[key] for key in ("y_train", "y_test") if key in arrays])
    if names.ndim != 1:
        raise DataError(f"{path}: class_names is {list(names.shape)}; it must be a list of names")
    try:
        class_names = tuple(n.decode() if isinstance(n, bytes) else str(n) for n in names)
    except (SystemError, UnicodeDecodeError) as error:  # numpy does not check what it reads
        raise DataError(f"{path}: class_names is no text; write it again") from error
    return Split(str(path), part, ArrayImages(images), labels.astype(np.int64), class_names)


def _read(path: Path, part: str) -> dict[str, NDArray[Any]]:
    """The arrays that a part needs, by key, as far as they are there."""
    keys = (f"x_{part}", "y_train", "y_test", "class_names")
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise zipfile.BadZipFile("it is no zip archive")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {key: np.asarray(archive[key]) for key in keys if key in archive.files}
    except Exception as error:  # whatever numpy, zipfile and its decoders meet, MemoryError too
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{path}: not a readable .npz archive ({reason}); write it again"
        ) from error


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
