"""Outputs appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.runtime.errors import OutputError

FLAG = "-o/--output"


def check_output(
    path: Path,
    *,
    force: bool = False,
    inputs: Iterable[Path] = (),
    outputs: Iterable[Path] = (),
    folder: bool = False,
    flag: str = FLAG,
) -> None:
    """Refuse an output before any work is done for it.

    Args:
        path: The file or folder that will be written.
        force: Allow it to exist already.
        inputs: Files that are read; none of them may be the output.
        outputs: Files that are written besides; likewise.
        folder: Whether a folder will be written; else a file.
        flag: The option that names it.

    Raises:
        OutputError: it is one of the inputs or other outputs, exists already, cannot be written,
            or is something else than a file (a folder).
    """
    for source in inputs:
        if _same_file(path, source):
            raise OutputError(f"{path}: the output is also the input; choose another {flag}")
    for other in outputs:
        if _same_file(path, other) or path.resolve() == other.resolve():
            raise OutputError(f"{path}: is another output's own file; choose another {flag}")
    _check_kind(path, folder=folder, flag=flag)
    if path.exists() and not force:
        raise OutputError(f"{path}: exists already; choose another {flag} or give --force")
    parent = _nearest_existing(path.absolute().parent)
    if not parent.is_dir():
        raise OutputError(f"{path}: {parent} is not a folder; choose another {flag}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: no permission to write in {parent}; choose another {flag}")


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a path in a scratch folder beside `path`; on success rename it to `path`.

    Whatever else is written into the scratch folder moves along, renamed last to first, so that
    an external-data file is in place before the model that names it. On any exception the old
    file stays and the scratch folder is removed.

    Raises:
        OutputError: the folder cannot be made or written, or `path` is no regular file.
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


def _check_kind(path: Path, *, folder: bool, flag: str = FLAG) -> None:
    """Refuse to replace anything but a file (a folder), such as a device or a link to one."""
    if path.exists() and not (path.is_dir() if folder else path.is_file()):
        found = "a folder" if path.is_dir() else "a file" if folder else "no regular file"
        raise OutputError(f"{path}: is {found}; choose another {flag}")


def _same_file(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def _replace(source: Path, target: Path) -> None:
    _check_kind(target, folder=source.is_dir())
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
