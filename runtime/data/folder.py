"""A folder with one sub-folder of images per class."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from PIL import Image

from edgekit.runtime.data.source import (
    UNDECODABLE,
    FolderImages,
    Split,
    decode_image,
    orientation,
)
from edgekit.runtime.errors import DataError

EXTENSIONS = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
logger = logging.getLogger(__name__)

_FIRST_TURNED = 5  # from this orientation on, rows are columns


def load_folder(folder: Path, part: str, image_shape: tuple[int, int, int] | None) -> Split:
    """List a part of a folder's images; they are decoded when they are read.

    A folder with `train/` and `test/` (or `val/`) has these parts. One without is a single set,
    which serves as either part.

    Args:
        folder: The folder; classes are its sub-folders in alphabetical order, hidden
            ones left out.
        part: "train" or "test".
        image_shape: (height, width, channels) to decode to; that of the first image by default.

    Raises:
        DataError: the folder or a class in it is empty, its first image does not decode, or the
            name of a class is not UTF-8.
    """
    root = _part_folder(folder, part)
    classes = sorted(_sub_folders(root))
    if not classes:
        raise DataError(
            f"{root}: has no sub-folders; put each class's images into a folder of its own"
        )
    for child in classes:
        _check_name(child)
    paths: list[Path] = []
    labels: list[int] = []
    for label, child in enumerate(classes):
        found = sorted(path for path in child.rglob("*") if _is_image(path))
        if not found:
            raise DataError(f"{child}: has no images; remove the folder or fill it")
        paths += found
        labels += [label] * len(found)
    images = FolderImages(paths, image_shape or _shape_of(paths[0]))
    names = tuple(child.name for child in classes)
    return Split(str(folder), part, images, np.asarray(labels, np.int64), names)


def _check_name(folder: Path) -> None:
    try:
        folder.name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{folder.parent}: the name of the class {folder.name!r} is not UTF-8, which files of "
            "models need; rename the folder"
        ) from error


def _sub_folders(folder: Path) -> list[Path]:
    return [child for child in folder.iterdir() if child.is_dir() and not _hidden(child)]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not _hidden(path)


def _hidden(path: Path) -> bool:
    """Whether it is a program's own (`.ipynb_checkpoints`, macOS's `._cat.png`)."""
    return path.name.startswith(".")


def _part_folder(folder: Path, part: str) -> Path:
    if not (folder / "train").is_dir():
        if names := _only_tests(folder):
            if part == "train":
                raise DataError(
                    f"{folder}: has a {names[0]}/ folder but no train/ beside it; add one"
                )
            return folder / names[0]
        if part == "train":
            logger.warning(
                "%s has no train/ and test/ folders, so that all of it serves as either: accuracy "
                "on it will be accuracy on images that were trained or calibrated on",
                folder,
            )
        return folder
    for name in ("train",) if part == "train" else ("test", "val"):
        if (folder / name).is_dir():
            return folder / name
    raise DataError(f"{folder}: has a train/ folder but no test/ beside it; add one")


def _only_tests(folder: Path) -> list[str]:
    """The folders for testing, where there is none for anything else."""
    names = sorted(child.name for child in _sub_folders(folder))
    return names if set(names) <= {"test", "val"} else []


def _shape_of(path: Path) -> tuple[int, int, int]:
    try:
        with Image.open(path) as image:
            gray = image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")
            shape = image.height, image.width, 1 if gray else 3
            turned = orientation(image) >= _FIRST_TURNED
    except UNDECODABLE as error:
        raise DataError(f"{path}: does not decode as an image; replace or remove it") from error
    if turned:
        shape = shape[1], shape[0], shape[2]
    decode_image(path, shape)
    return shape
