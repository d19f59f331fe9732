"""Batches that can be read only once, kept on disk to be read again."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.errors import DataError


class FeedReader(Protocol):
    """Calibration data in onnxruntime's protocol."""

    def get_next(self) -> Mapping[str, NDArray[Any]] | None:
        """The next batch; None after the last."""


class Spool:
    """A temporary file of batches, gone with the process; one batch is in memory at a time."""

    def __init__(self, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> None:
        """Write all batches.

        Raises:
            DataError: one is no dictionary of arrays.
        """
        self._file = tempfile.TemporaryFile(prefix="edgekit-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._entries: list[tuple[int, tuple[str, ...]]] = []
        for feed in feeds:
            check_kind(feed)
            self._entries.append((self._file.tell(), tuple(feed)))
            for array in feed.values():
                np.save(self._file, np.asarray(array), allow_pickle=False)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._entries)

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        """All batches, from the first."""
        for offset, names in self._entries:
            self._file.seek(offset)
            yield {name: np.load(self._file, allow_pickle=False) for name in names}


def batches_of(feeds: object) -> Iterator[Mapping[str, NDArray[Any]]]:
    """The batches of an iterable, or of a reader with `get_next` as onnxruntime's have it.

    Raises:
        DataError: it is neither.
    """
    get_next = getattr(feeds, "get_next", None)
    if callable(get_next):
        while feed := get_next():
            yield feed
    elif isinstance(feeds, Iterable):
        yield from feeds
    else:
        raise DataError(
            f"calibration data is {type(feeds).__name__}: give batches as {{input name: array}}, "
            "or a reader with get_next"
        )


def check_kind(feed: object) -> None:
    """Refuse what is no batch.

    Raises:
        DataError: it is no dictionary of numeric arrays.
    """
    if not isinstance(feed, Mapping) or not all(
        isinstance(array, np.ndarray) and array.dtype.kind in "biuf" for array in feed.values()
    ):
        raise DataError(
            f"a batch of calibration data is {type(feed).__name__}: give {{input name: array}}, "
            "with arrays of numpy"
        )
