"""A folder with one sub-folder of images per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from edgekit.runtime.data.source import FolderImages, Split, decode_image
from edgekit.runtime.errors import DataError

EXTENSIONS = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def load_folder(folder: Path, part: str, image_shape: tuple[int, int, int] | None) -> Split:
    """List a part of a folder's images; they are decoded when they are read.

    A folder with `train/` and `test/` (or `val/`) has these parts. One without is a single set,
    which serves as either part.

    Args:
        folder: The folder; classes are its sub-folders in alphabetical order.
        part: "train" or "test".
        image_shape: (height, width, channels) to decode to; that of the first image by default.

    Raises:
        DataError: the folder or a class in it is empty, or its first image does not decode.
    """
    root = _part_folder(folder, part)
    classes = sorted(child for child in root.iterdir() if child.is_dir())
    if not classes:
        raise DataError(
            f"{root}: has no sub-folders; put each class's images into a folder of its own"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, child in enumerate(classes):
        found = sorted(path for path in child.rglob("*") if path.suffix.lower() in EXTENSIONS)
        if not found:
            raise DataError(f"{child}: has no images; remove the folder or fill it")
        paths += found
        labels += [label] * len(found)
    images = FolderImages(paths, image_shape or _shape_of(paths[0]))
    names = tuple(child.name for child in classes)
    return Split(str(folder), part, images, np.asarray(labels, np.int64), names)


def _part_folder(folder: Path, part: str) -> Path:
    if not (folder / "train").is_dir():
        return folder
    for name in ("train",) if part == "train" else ("test", "val"):
        if (folder / name).is_dir():
            return folder / name
    raise DataError(f"{folder}: has a train/ folder but no test/ beside it; add one")


def _shape_of(path: Path) -> tuple[int, int, int]:
    try:
        with Image.open(path) as image:
            gray = image.mode in ("1", "L", "I", "I;16", "F")
            shape = image.height, image.width, 1 if gray else 3
    except OSError as error:
        raise DataError(f"{path}: does not decode as an image; replace or remove it") from error
    decode_image(path, shape)
    return shape
