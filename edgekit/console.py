"""Where the command line writes: results on standard output, all else on standard error."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NoReturn

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from edgekit.runtime.progress import Progress, StageProgress

# A table that goes to a file or a pipe is not folded to a terminal's width.
WIDE_COLUMNS = 240
CLOSED_PIPE = 141  # as shells say it: 128 and the number of SIGPIPE


class _Console(Console):
    def on_broken_pipe(self) -> None:
        end_of_pipe()


def end_of_pipe() -> NoReturn:
    """End without a word: who read standard output has stopped."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # takes what is still to be flushed
    raise SystemExit(CLOSED_PIPE)


def write_any_character() -> None:
    """Let standard output escape what its encoding lacks, as standard error does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def output() -> Console:
    """Standard output."""
    return _console(sys.stdout.isatty(), stderr=False)


def messages() -> Console:
    """Standard error."""
    return _console(sys.stderr.isatty(), stderr=True)


def fits(renderable: RenderableType) -> bool:
    """Whether standard output shows it without breaking its lines."""
    target = output()
    return (
        Measurement.get(target, target.options.update(width=WIDE_COLUMNS), renderable).maximum
        <= target.width
    )


def _console(is_terminal: bool, *, stderr: bool) -> Console:
    width = None if is_terminal or "COLUMNS" in os.environ else WIDE_COLUMNS
    # Names out of a model are shown as they are, brackets and all.
    return _Console(stderr=stderr, width=width, highlight=False, emoji=False, markup=False)


def say(line: str) -> None:
    """Tell the user something, on one line however long, whatever names are in it."""
    printable = "".join(character if character.isprintable() else " " for character in line)
    messages().print(printable, soft_wrap=True)


class _Spoken(logging.Handler):
    """Says each record once, with its level in front, however many models it holds for."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{record.levelname.lower()}: {record.getMessage()}"
        if line not in self._said:
            self._said.add(line)
            say(line)


def log_to_standard_error() -> None:
    """Show warnings of edgekit's own loggers, and no other library's, on standard error."""
    logger = logging.getLogger("edgekit")
    logger.handlers = [_Spoken()]
    logger.propagate = False
    logger.setLevel(logging.WARNING)


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """Show a bar on a terminal; yields what takes (done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = messages()
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(label, total=None)

        def advance(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield advance


@contextmanager
def stages() -> Iterator[StageProgress]:
    """Show a bar for the stage that work is at; yields what takes (stage, done, total)."""
    with ExitStack() as bars:
        shown: dict[str, Progress] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in shown:
                bars.close()
                shown[stage] = bars.enter_context(progress(stage))
            shown[stage](done, total)

        yield advance
