"""An .npz archive with x_train, y_train, x_test and y_test."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from edgekit.runtime.data.source import ArrayImages, Split
from edgekit.runtime.errors import DataError


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
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable .npz archive ({error}); write it again") from error
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise DataError(
            f"{path}: x_{part} is {images.dtype} {list(images.shape)}; it must be uint8 "
            "[N, H, W], [N, H, W, 1] or [N, H, W, 3]"
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: y_{part} is {labels.dtype} {list(labels.shape)}; it must be integers [N]"
        )
    if names is None:
        names = np.arange(max(int(array.max(initial=0)) for array in labels_of_all) + 1)
    class_names = tuple(str(name) for name in names)
    return Split(str(path), part, ArrayImages(images), labels.astype(np.int64), class_names)
