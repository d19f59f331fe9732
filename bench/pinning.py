"""Keep a benchmark, and every process that it starts, on the same cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.runtime.errors import InputError

_CPUS = Path("/sys/devices/system/cpu")


@contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...]]:
    """Keep this process on `threads` cores while the body runs; yields their numbers.

    Raises:
        InputError: the system has no such call (macOS, Windows), or too few cores.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("--pin: this system cannot pin a process to cores; leave it out")
    allowed = os.sched_getaffinity(0)
    chosen = choose_cores(allowed, threads)
    os.sched_setaffinity(0, chosen)
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, allowed)


def choose_cores(allowed: set[int], count: int, cpus: Path = _CPUS) -> tuple[int, ...]:
    """Pick cores: the last ones, as the first serves most interrupts; no two of one physical core.

    Args:
        allowed: Numbers to choose from.
        count: How many.
        cpus: Where the system describes them.

    Raises:
        InputError: there are not so many.
    """
    if count > len(allowed):
        raise InputError(
            f"--pin: {count} threads need as many cores, this process may use {len(allowed)}: "
            "give fewer --threads, or leave out --pin"
        )
    seen: set[str] = set()
    first: list[int] = []
    second: list[int] = []
    for core in sorted(allowed, reverse=True):
        siblings = _siblings(core, cpus)
        (second if siblings in seen else first).append(core)
        seen.add(siblings)
    return tuple(sorted((first + second)[:count]))


def _siblings(core: int, cpus: Path) -> str:
    """The hardware threads of a core's physical core, as the system writes them."""
    try:
        return (cpus / f"cpu{core}/topology/thread_siblings_list").read_text("ascii").strip()
    except OSError:
        return str(core)
