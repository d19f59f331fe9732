"""The order of execution that needs the least memory at once.

Some nodes come after all that stand before them and before all that stand after them, whatever the
order; between two of them the graph is searched by itself, and the worst part decides. A part is
searched best first over the sets of nodes that have run: what is alive depends on the set alone, so
that the first complete set reached is the best. A part with more sets than `LARGEST_SEARCH` is
ordered greedily instead, and then the result is the best order found, not known to be the best.

The lower bound holds for every order: beside what a node reads and writes, whatever was made before
it for something after it must be there while it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

LARGEST_SEARCH = 20_000


@dataclass(frozen=True)
class Buffer:
    """Memory that some steps write and read.

    Attributes:
        size: Bytes.
        writers: Steps that make it; none for an input, which is there from the start.
        users: Steps that write or read it, as bits of an integer.
        kept: It is a result, and stays.
    """

    size: int
    writers: int
    users: int
    kept: bool = False


@dataclass(frozen=True)
class Flow:
    """Steps in an order in which they can run.

    Attributes:
        needs: For each step, the steps whose results it reads, as bits.
        extra: For each step, bytes that it needs only while it runs.
        buffers: All the memory between them.
    """

    needs: Sequence[int]
    extra: Sequence[int]
    buffers: Sequence[Buffer]


@dataclass(frozen=True)
class Peak:
    """Bytes alive at once, at worst.

    Attributes:
        best: In the best order found.
        file_order: In the order of the file.
        lower_bound: No order needs less; equals `best` where that is proved to be the best.
    """

    best: int
    file_order: int
    lower_bound: int


def least_peak(flow: Flow) -> Peak:
    """Search for the order of least peak memory."""
    if not flow.needs:
        return Peak(0, 0, 0)
    search = _Search(flow)
    parts = list(search.parts())
    target = max(search.bound(part) for part in parts)
    best, proved = target, target
    for part in parts:
        if part.in_order > target:
            found, exact = search.best(part, target)
            best = max(best, min(found, part.in_order))
            proved = max(proved, found if exact else target)
    return Peak(best, max(part.in_order for part in parts), proved)


@dataclass(frozen=True)
class _Part:
    """Steps that run after one splitting step and up to the next.

    Attributes:
        steps: In the order of the file.
        done: The steps that have run before, as bits.
        alive: Bytes alive then.
        in_order: Peak in the order of the file.
    """

    steps: tuple[int, ...]
    done: int
    alive: int
    in_order: int


class _Search:
    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        count = len(flow.needs)
        self._before = [0] * count
        self._after = [0] * count
        for step, needs in enumerate(flow.needs):
            self._before[step] = needs
            for earlier in _bits(needs):
                self._before[step] |= self._before[earlier]
        for step in reversed(range(count)):
            for earlier in _bits(flow.needs[step]):
                self._after[earlier] |= self._after[step] | 1 << step
        self._touched: list[list[Buffer]] = [[] for _ in range(count)]
        for buffer in flow.buffers:
            for step in _bits(buffer.users):
                self._touched[step].append(buffer)

    def parts(self) -> Iterator[_Part]:
        """The parts that can be ordered each by itself."""
        last = len(self._before) - 1
        done, steps = 0, list[int]()
        alive = sum(b.size for b in self._flow.buffers if not b.writers and (b.kept or b.users))
        start, at_start, worst = done, alive, 0
        for step in range(last + 1):
            steps.append(step)
            while_running, alive = self.step(done, alive, step)
            worst = max(worst, while_running)
            done |= 1 << step
            after_all = self._before[step].bit_count() == step
            if (after_all and self._after[step].bit_count() == last - step) or step == last:
                yield _Part(tuple(steps), start, at_start, worst)
                start, at_start, worst, steps = done, alive, 0, []

    def step(self, done: int, alive: int, step: int) -> tuple[int, int]:
        """Bytes while a step runs, and after it."""
        bit = 1 << step
        for buffer in self._touched[step]:
            if buffer.writers & bit and not buffer.writers & done:
                alive += buffer.size
        freed = sum(
            buffer.size
            for buffer in self._touched[step]
            if not buffer.kept and not buffer.users & ~(done | bit)
        )
        return alive + self._flow.extra[step], alive - freed

    def bound(self, part: _Part) -> int:
        """What some step of a part needs in every order."""
        if len(part.steps) == 1:
            return part.in_order
        touched = {id(b): b for step in part.steps for b in self._touched[step]}.values()
        passing = part.alive - sum(
            b.size for b in touched if not b.writers or b.writers & part.done
        )
        return passing + max(self._needed_at(step, touched) for step in part.steps)

    def _needed_at(self, step: int, touched: Iterable[Buffer]) -> int:
        bit = 1 << step
        before, after = self._before[step] | bit, self._after[step] | bit
        return self._flow.extra[step] + sum(
            buffer.size
            for buffer in touched
            if (not buffer.writers or buffer.writers & before)
            and (buffer.kept or buffer.users & after)
        )

    def best(self, part: _Part, target: int) -> tuple[int, bool]:
        """Least peak of a part, at least `target`, and whether it is proved."""
        everything = part.done | sum(1 << step for step in part.steps)
        heap = [(target, 0, part.done, part.alive)]
        least = {part.done: target}
        for _ in range(LARGEST_SEARCH):
            peak, ran, done, alive = heappop(heap)
            if done == everything:
                return peak, True
            for step in part.steps:
                if done >> step & 1 or self._flow.needs[step] & ~done:
                    continue
                while_running, after = self.step(done, alive, step)
                following, worst = done | 1 << step, max(peak, while_running)
                if worst < least.get(following, worst + 1):
                    least[following] = worst
                    heappush(heap, (worst, ran - 1, following, after))
        return self._greedy(part), False

    def _greedy(self, part: _Part) -> int:
        """Peak of a part when each time the step runs that leaves the least."""
        done, alive, worst, waiting = part.done, part.alive, 0, set(part.steps)
        while waiting:
            ready = [step for step in waiting if not self._flow.needs[step] & ~done]
            found = [(*self.step(done, alive, step), step) for step in sorted(ready)]
            within = [entry for entry in found if entry[0] <= worst]
            while_running, alive, step = min(
                within or found, key=lambda entry: (entry[1], entry[0])
            )
            worst = max(worst, while_running)
            done |= 1 << step
            waiting.remove(step)
        return worst


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
