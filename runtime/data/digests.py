"""Which images are the same, byte for byte."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.data.source import Images

_DIGEST_BYTES = 8
_BATCH_SIZE = 64


def digest(*arrays: NDArray[Any]) -> int:
    """Eight bytes that two samples share by chance once in 2^64 pairs."""
    found = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for array in arrays:
        found.update(array.tobytes())
    return int.from_bytes(found.digest(), "little")


class DigestedImages:
    """Images that take down a digest of each as it is read.

    Attributes:
        seen: Whether each was read: bool [N].
    """

    def __init__(self, source: Images) -> None:
        self._source = source
        self._digests = np.zeros(len(source), np.uint64)
        self.seen = np.zeros(len(source), np.bool_)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image: (height, width, channels)."""
        return self._source.shape

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images at `indices`: uint8 [len(indices), height, width, channels]."""
        images = self._source.read(indices)
        for index, image in zip(indices, images, strict=True):
            if not self.seen[index]:
                self._digests[index], self.seen[index] = digest(image), True
        return images

    @property
    def digests(self) -> NDArray[np.uint64]:
        """Digests of the images that were read."""
        return self._digests[self.seen]

    def all_digests(self) -> NDArray[np.uint64]:
        """Digests of all images [N]; those that were not read are read now."""
        rest = np.flatnonzero(~self.seen)
        for start in range(0, len(rest), _BATCH_SIZE):
            self.read(rest[start : start + _BATCH_SIZE])
        return self._digests
