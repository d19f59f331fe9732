"""Outputs appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.runtime.errors import OutputError


def check_output(path: Path, *, force: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output before any work is done for it.

    Args:
        path: The file or folder that will be written.
        force: Allow it to exist already.
        inputs: Files that are read; none of them may be the output.

    Raises:
        OutputError: it is one of the inputs, exists already, or cannot be written.
    """
    for source in inputs:
        if path.exists() and source.exists() and path.samefile(source):
            raise OutputError(f"{path}: the output is also the input; choose another -o/--output")
    if path.exists() and not force:
        raise OutputError(f"{path}: exists already; choose another -o/--output or give --force")
    parent = _nearest_existing(path.absolute().parent)
    if not parent.is_dir():
        raise OutputError(f"{path}: {parent} is not a folder; choose another -o/--output")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: no permission to write in {parent}; choose another -o/--output")


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a path in a scratch folder beside `path`; on success rename it to `path`.

    Whatever else is written into the scratch folder moves along, renamed last to first, so that
    an external-data file is in place before the model that names it. On any exception the old
    file stays and the scratch folder is removed.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        staged = scratch / path.name
        yield staged
        for part in sorted(scratch.iterdir(), key=lambda part: part == staged):
            _replace(part, path.parent / part.name)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, as UTF-8.

    Raises:
        OutputError: it cannot be written.
    """
    with replace_atomically(path) as staged:
        staged.write_text(text, "utf-8")


def _replace(source: Path, target: Path) -> None:
    if source.is_file():  # what mkstemp would narrow to 0600 gets the permissions of any new file
        source.chmod(0o666 & ~_umask())
    os.replace(source, target)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _nearest_existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
