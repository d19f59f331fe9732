"""Images and labels of a data set, in memory or read from disk as they are needed."""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from edgekit.runtime.errors import DataError

# What Pillow raises on files that are damaged or made to do harm.
UNDECODABLE = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)
# EXIF's orientation -> what turns the image upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Images(Protocol):
    """A row of equally sized uint8 images, wherever they live."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image: (height, width, channels)."""

    def __len__(self) -> int:
        """Number of images."""

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images at `indices`: uint8 [len(indices), height, width, channels]."""


class ArrayImages:
    """Images that are in memory already."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image: (height, width, channels)."""
        height, width, channels = self.array.shape[1:]
        return height, width, channels

    def __len__(self) -> int:
        return len(self.array)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images at `indices`: uint8 [len(indices), height, width, channels]."""
        return self.array[indices]


class FolderImages:
    """Image files, decoded when they are read, on all cores.

    An image of another size is cut to the aspect ratio of `shape` around its center and resized
    with an antialiasing filter; it becomes gray or RGB as `shape` has 1 or 3 channels.
    """

    def __init__(self, paths: Sequence[Path], shape: tuple[int, int, int]) -> None:
        self.paths = paths
        self._shape = shape

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image: (height, width, channels)."""
        return self._shape

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images at `indices`: uint8 [len(indices), height, width, channels].

        Raises:
            DataError: a file is gone or does not decode.
        """
        output = np.empty((len(indices), *self._shape), np.uint8)
        paths = (self.paths[index] for index in indices)
        for row, image in enumerate(self._pool.map(lambda p: decode_image(p, self._shape), paths)):
            output[row] = image
        return output


def decode_image(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Decode one image file to uint8 [height, width, channels].

    Raises:
        DataError: the file is missing, no image, cut short, or unreasonably large, or its gray
            values have no known range.
    """
    height, width, channels = shape
    try:
        with Image.open(path) as file:
            _check_gray(path, file)
            upright = _eight_bits(_upright(file))
            image = upright.convert("L" if channels == 1 else "RGB")
            if image.size != (width, height):
                image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
            return np.asarray(image, np.uint8).reshape(shape)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image; check the path") from error
    except UNDECODABLE as error:
        raise DataError(f"{path}: does not decode as an image; replace or remove it") from error


def orientation(image: Image.Image) -> int:
    """EXIF's orientation of an image, 1 to 8; 1, which is upright, where it tells none."""
    found = image.getexif().get(ExifTags.Base.Orientation)
    return found if isinstance(found, int) and found in _TURNS else 1


def _upright(file: Image.Image) -> Image.Image:
    """An image turned as it is to be seen; Pillow's own function would write the EXIF again."""
    file.load()  # which turns a TIFF
    turn = _TURNS.get(orientation(file))
    return file if turn is None else file.transpose(turn)


def _check_gray(path: Path, file: Image.Image) -> None:
    """Refuse gray values of 32 bits, but for a .pgm's, which Pillow scales to 16."""
    if file.mode == "F" or (file.mode == "I" and file.format != "PPM"):
        raise DataError(
            f"{path}: has gray values of 32 bits, whose range is not known; save it with 8 or 16"
        )


def _eight_bits(image: Image.Image) -> Image.Image:
    """An image of 16-bit gray values scaled to 8 bits; Pillow would cut them off at 255."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        name: The data set, as it was asked for.
        part: "train", "validation" or "test".
        images: The images, uint8.
        labels: Index into `class_names` for each image: int64 [N].
        class_names: Names of the classes.
    """

    name: str
    part: str
    images: Images
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise DataError(
                f"{self.name}: {len(self.images)} images but {len(self.labels)} labels in its "
                f"{self.part} part"
            )
        if len(self.labels) == 0:
            raise DataError(f"{self.name}: its {self.part} part is empty")
        if self.labels.min() < 0 or self.labels.max() >= len(self.class_names):
            raise DataError(
                f"{self.name}: labels of its {self.part} part must lie in 0 to "
                f"{len(self.class_names) - 1}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def label(self) -> str:
        """The name without the folders that lead to it, which a shipped file must not tell."""
        return Path(self.name).resolve().name

    def take(self, indices: NDArray[np.int64], part: str | None = None) -> Split:
        """The images at `indices` as a split of their own; nothing is read yet."""
        return replace(
            self,
            part=part or self.part,
            images=_View(self.images, indices),
            labels=self.labels[indices],
        )


@dataclass(frozen=True)
class _View:
    """Some of another source's images, in another order."""

    source: Images
    indices: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.source.shape

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.source.read(self.indices[indices])


def batches(
    split: Split,
    batch_size: int,
    indices: NDArray[np.int64] | None = None,
    ahead: int = 2,
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Read a split batch by batch, the next `ahead` batches in the background.

    Args:
        split: What to read.
        batch_size: Images a batch; the last one may be smaller.
        indices: Which images, in which order; all of them in their own order by default.
        ahead: Batches that are read before they are asked for, which bounds the memory.

    Yields:
        Images uint8 [B, height, width, channels] and labels int64 [B].
    """
    order = np.arange(len(split)) if indices is None else indices
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if isinstance(split.images, ArrayImages):
        for chunk in chunks:
            yield split.images.read(chunk), split.labels[chunk]
        return
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        pending: deque[tuple[Future[NDArray[np.uint8]], NDArray[np.int64]]] = deque()
        for chunk in chunks:
            pending.append((reader.submit(split.images.read, chunk), chunk))
            if len(pending) > ahead:
                future, done = pending.popleft()
                yield future.result(), split.labels[done]
        for future, done in pending:
            yield future.result(), split.labels[done]
