from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.data.digests import DigestedImages, digest
from edgekit.runtime.data.source import ArrayImages


def images(count: int = 200) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)


def test_digests_tell_single_pixels_apart() -> None:
    one = images(1)[0]
    other = one.copy()
    other[3, 3, 2] ^= 1
    assert digest(one) == digest(one.copy())
    assert digest(one) != digest(other)


def test_images_are_digested_as_they_are_read() -> None:
    source = images()
    digested = DigestedImages(ArrayImages(source))
    order = np.array([7, 3, 7])
    np.testing.assert_array_equal(digested.read(order), source[order])
    assert digested.digests.tolist() == [digest(source[3]), digest(source[7])]
    assert digested.all_digests().tolist() == [digest(image) for image in source]
    assert len(digested) == 200
    assert digested.shape == (4, 4, 3)


class Once:
    """Images that may be read but once each."""

    shape = (4, 4, 3)

    def __init__(self) -> None:
        self._unread = set(range(200))

    def __len__(self) -> int:
        return 200

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        for index in indices.tolist():
            self._unread.remove(index)
        return images()[indices]


def test_nothing_is_read_twice_for_its_digest() -> None:
    digested = DigestedImages(Once())
    digested.read(np.arange(50, 120))
    digested.all_digests()
    digested.all_digests()
