"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

# Called with (done, total).
Progress = Callable[[int, int], None]
# Called with (stage, done, total), for work of several stages.
StageProgress = Callable[[str, int, int], None]


def silent(_stage: str, _done: int, _total: int) -> None:
    """A `StageProgress` that nobody listens to."""


def stage_of(report: StageProgress, stage: str) -> Progress:
    """What the work of one stage is given."""
    return lambda done, total: report(stage, done, total)
