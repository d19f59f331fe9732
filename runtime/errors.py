"""Every error that edgekit raises on purpose.

    EdgekitError
    ├── InputError              exit status 2: the caller can mend it
    │   ├── CheckpointError     a checkpoint that does not load or does not fit
    │   ├── DataError           a data set that is missing, empty, damaged or of the wrong shape
    │   ├── MissingExtraError   a package that an extra installs is not there
    │   ├── ModelFileError      an .onnx file that is missing, damaged or not what the step takes
    │   ├── OutputError         a target that exists, equals an input or cannot be written
    │   └── RecipeError         a recipe with an unknown key or a value out of range
    ├── CheckFailedError        exit status 1: a check of edgekit's own failed
    │   ├── AccuracyError       accuracy below a stated limit, or a drop above one
    │   ├── ExactnessError      quantized operators that do not compute what they should
    │   ├── GateError           a model of a comparison breaks a limit that was set for it
    │   ├── ParityError         the exported graph and the torch module disagree
    │   ├── PassError           a graph pass changed what the model computes
    │   └── TrainingError       training diverged
    └── TerminatedError         exit status 143: the system asked the process to end (SIGTERM)

A message is one line that says what is wrong, where, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar


class EdgekitError(Exception):
    """Base of all; `exit_status` is what the command line ends with."""

    exit_status: ClassVar[int] = 2


class InputError(EdgekitError):
    """Something given to edgekit cannot be used as it is."""


class CheckpointError(InputError):
    """A checkpoint does not load, or belongs to another architecture."""


class DataError(InputError):
    """A data set is missing, empty, damaged, or does not fit the model."""


class MissingExtraError(InputError):
    """A package is missing that one of edgekit's extras installs."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package}, which is not installed: "
            f"pip install 'edgekit[{extra}]'"
        )


class ModelFileError(InputError):
    """An ONNX file is missing, damaged, or not what this step takes."""


class OutputError(InputError):
    """An output exists already, equals an input, or cannot be written."""


class RecipeError(InputError):
    """A recipe has an unknown key, or a value that it may not have."""


class CheckFailedError(EdgekitError):
    """A check of edgekit's own failed; the figure is in the message."""

    exit_status: ClassVar[int] = 1


class AccuracyError(CheckFailedError):
    """Accuracy is below a stated limit, or dropped by more than one."""


class ExactnessError(CheckFailedError):
    """Quantized operators of the installed runtime are not exact on this processor."""


class GateError(CheckFailedError):
    """A model of a comparison breaks a limit; the message names gate, model and figure."""


class ParityError(CheckFailedError):
    """The exported graph and the torch module disagree."""


class PassError(CheckFailedError):
    """A graph pass changed what the model computes."""


class TrainingError(CheckFailedError):
    """Training diverged; the message says at which epoch and step."""


class TerminatedError(EdgekitError):
    """A SIGTERM ended a training; what it had done is kept."""

    exit_status: ClassVar[int] = 143  # as shells say it: 128 and the number of SIGTERM


def reason_of(error: Exception) -> str:
    """What another library's error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a model's file in errors of steps that know the model in memory alone.

    Raises:
        ModelFileError: one is raised inside; its message begins with the file.
    """
    try:
        yield
    except ModelFileError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise type(error)(f"{path}: {error}") from error
