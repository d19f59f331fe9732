"""Calibration data for the refinements: a part judges what the rest teaches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edgekit.export.calibration import BATCH_SIZE, Feed

_JUDGES = 128
_JUDGING_PART = 4  # one in so many batches
_LEARNERS = 512


@dataclass(frozen=True)
class Samples:
    """Calibration data in two parts, in memory.

    Attributes:
        learners: What refinements learn from.
        judges: What they are judged on; no part of `learners` where there are batches to part.
    """

    learners: tuple[Feed, ...]
    judges: tuple[Feed, ...]

    @classmethod
    def of(cls, feeds: Iterable[Feed], *, whole: bool = False) -> Samples:
        """Part the first `_LEARNERS` samples, and as many as are to judge.

        Args:
            feeds: Calibration data.
            whole: Whether batches stay as they are, for a model of a fixed batch size; a batch
                alone then both teaches and judges.
        """
        kept: list[Feed] = []
        count = 0
        for feed in feeds if whole else _small(feeds):
            if count >= _LEARNERS + _JUDGES:
                break
            kept.append(feed)
            count += _size(feed)
        if whole:
            judging = max(1, min(len(kept) // _JUDGING_PART, _JUDGES // max(1, _size(kept[0]))))
            return cls(tuple(kept[:-judging] or kept), tuple(kept[-judging:]))
        learning = count - max(1, min(count // _JUDGING_PART, _JUDGES))
        learners, judges = _span(kept, 0, learning), _span(kept, learning, count)
        return cls(tuple(learners or judges), tuple(judges))

    def first(self, samples: int) -> list[Feed]:
        """As many of the learners' batches as hold so many samples."""
        kept: list[Feed] = []
        for feed in self.learners:
            if kept and sum(map(_size, kept)) >= samples:
                break
            kept.append(feed)
        return kept


def _size(feed: Feed) -> int:
    return len(next(iter(feed.values())))


def _small(feeds: Iterable[Feed]) -> Iterator[Feed]:
    """The same samples in batches of few."""
    for feed in feeds:
        for start in range(0, _size(feed), BATCH_SIZE):
            yield _cut(feed, start, start + BATCH_SIZE)


def _span(feeds: Iterable[Feed], start: int, end: int) -> list[Feed]:
    """The samples from `start` on and before `end`, batches cut where need be."""
    found: list[Feed] = []
    first = 0
    for feed in feeds:
        size = _size(feed)
        low, high = max(start - first, 0), min(end - first, size)
        if low < high:
            found.append(_cut(feed, low, high))
        first += size
    return found


def _cut(feed: Feed, start: int, end: int) -> Feed:
    return {name: array[start:end] for name, array in feed.items()}
