"""A run's folder: whose it is, what an earlier attempt left, and what the run came to.

A run folder holds recipe.toml (a copy), inputs.json (where the paths of the recipe lead, if it has
any), .lock (held by the process that trains), last.ckpt (the state after the last whole epoch, for
resuming), metrics.csv, tensorboard/, and when the run is finished model.safetensors and
summary.json. Channel pruning is a second stage with a state and logs of its own in fine-tune/; what
it starts from is trained.safetensors.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit.runtime.errors import MissingExtraError, OutputError, RecipeError
from edgekit.runtime.files import replace_atomically
from edgekit.train.fit import LAST, METRICS, TENSORBOARD
from edgekit.train.prune_channels import ChannelPruning
from edgekit.train.recipe import Recipe, parse_recipe
from edgekit.train.settings import from_mapping
from edgekit.train.teacher_outputs import FOLDER

try:
    from filelock import FileLock, Timeout
except ModuleNotFoundError as missing:
    raise MissingExtraError("filelock", "train") from missing

History = list[dict[str, float]]

RECIPE = "recipe.toml"
INPUTS = "inputs.json"
MODEL = "model.safetensors"
SUMMARY = "summary.json"
TRAINED = "trained.safetensors"
FINE_TUNE = "fine-tune"
_LOCK = ".lock"
_CONTENTS = (SUMMARY, MODEL, TRAINED, LAST, METRICS, TENSORBOARD, FINE_TUNE, INPUTS, RECIPE)


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        checkpoint: The trained network.
        last_accuracy: Top-1 of the saved weights on the validation part, 0 to 1; None without one.
        best_accuracy: The highest that an epoch of the last stage reached.
        images_per_second: Median over the epochs, evaluation left out.
        seconds: Time spent on training batches, over all stages and attempts.
        channel_pruning: What channel pruning did; None without it.
        was_finished: Whether the run had been finished before and nothing was trained.
    """

    checkpoint: Path
    last_accuracy: float | None
    best_accuracy: float | None
    images_per_second: float
    seconds: float
    channel_pruning: ChannelPruning | None = None
    was_finished: bool = False


def find_finished(recipe: Recipe, run_dir: Path) -> RunResult | None:
    """The result of a run that was finished before; also refuses a folder of another run.

    Raises:
        OutputError: the folder is none of this recipe's runs.
    """
    _check_same_run(recipe, run_dir)
    if not (run_dir / MODEL).is_file():
        return None
    try:
        summary = json.loads((run_dir / SUMMARY).read_text("utf-8"))
        if (cut := summary.pop("channel_pruning", None)) is not None:
            cut = from_mapping(ChannelPruning, cut, where="channel_pruning")
        return RunResult(run_dir / MODEL, **summary, channel_pruning=cut, was_finished=True)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, RecipeError) as error:
        raise OutputError(f"{run_dir / SUMMARY}: is damaged; train anew with --force") from error


def check_is_run(run_dir: Path) -> None:
    """Refuse a folder with files that are no run's.

    Raises:
        OutputError: it has some.
    """
    if not run_dir.is_dir() or (run_dir / RECIPE).is_file():
        return
    # What is left where a run was killed before its recipe was there.
    begun = re.compile(rf"{re.escape(INPUTS)}|{_LOCK}|{FOLDER}|\.({RECIPE}|{INPUTS})\..*")
    if not all(begun.fullmatch(path.name) for path in run_dir.iterdir()):
        raise OutputError(f"{run_dir}: holds other files; choose another folder for the run")


def _check_same_run(recipe: Recipe, run_dir: Path) -> None:
    if not run_dir.exists():
        return
    if not run_dir.is_dir():
        raise OutputError(f"{run_dir}: is not a folder; choose another for the run")
    check_is_run(run_dir)
    copy = run_dir / RECIPE
    if not copy.is_file():
        return
    try:
        same = parse_recipe(copy.read_text("utf-8"), origin=str(copy)) == recipe
    except (RecipeError, OSError, UnicodeDecodeError):
        same = False
    if not same:
        raise OutputError(
            f"{run_dir}: holds a run of another recipe; choose another folder or give --force"
        )
    read = _read_inputs(run_dir)
    for key, path in recipe.inputs().items():
        if key in read and _is_another(read[key], path):
            raise OutputError(
                f"{run_dir}: holds a run whose {key} is {read[key]}, not {path.resolve()}; choose "
                "another folder or give --force"
            )


def _read_inputs(run_dir: Path) -> dict[str, Path]:
    """What the run reads, by key; nothing where that was not written."""
    try:
        written = json.loads((run_dir / INPUTS).read_text("utf-8"))
        return {key: Path(path) for key, path in written.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _is_another(earlier: Path, path: Path) -> bool:
    """Whether they are two; what is no longer where it was may have been moved with the run."""
    return earlier.exists() and not (path.exists() and earlier.samefile(path))


def check_inputs_stay(recipe: Recipe, run_dir: Path) -> None:
    """Refuse to clear a folder for a run that reads what would be cleared.

    Raises:
        OutputError: the start, the teacher or the data is among it.
    """
    cleared = [run_dir.resolve() / name for name in _CONTENTS]
    for key, path in recipe.inputs().items():
        own = path.parent.resolve() / path.name
        if any(own.is_relative_to(part) for part in cleared):
            raise OutputError(
                f"{path}: {key} names it, and --force would delete it; copy it elsewhere or choose "
                "another folder for the run"
            )


@contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """Keep other processes from training in the folder, which is made if it is not there.

    Raises:
        OutputError: one is at it, or the folder cannot be made.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{run_dir}: cannot be made: {error.strerror or error}") from error
    lock = FileLock(run_dir / _LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise OutputError(
            f"{run_dir}: another process trains there; wait for it, or choose another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def prepare_folder(recipe: Recipe, run_dir: Path, *, force: bool) -> None:
    """Make the folder with the recipe's copy and what it reads.

    With force, what earlier runs left is cleared.

    Raises:
        OutputError: something cannot be removed or written.
    """
    if force:
        for name in _CONTENTS:
            _remove(run_dir / name)
    if not (run_dir / RECIPE).is_file():
        if inputs := {key: str(path.resolve()) for key, path in recipe.inputs().items()}:
            with replace_atomically(run_dir / INPUTS) as staged:
                staged.write_text(json.dumps(inputs, indent=2) + "\n", "utf-8")
        with replace_atomically(run_dir / RECIPE) as staged:
            staged.write_text(recipe.text, "utf-8")


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be removed: {error.strerror or error}") from error


def _seconds(metrics: Path) -> float:
    if not metrics.is_file():
        return 0.0
    with metrics.open(newline="") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def summarize(
    run_dir: Path, history: History, cut: ChannelPruning | None = None, *, write: bool = True
) -> RunResult:
    """Write summary.json, which marks the run as finished.

    Args:
        run_dir: The run folder.
        history: One row for each epoch of the last stage.
        cut: What channel pruning did.
        write: Whether this process is the one that writes.
    """
    accuracies = [row["validation_accuracy"] for row in history if "validation_accuracy" in row]
    summary: dict[str, Any] = {
        "last_accuracy": accuracies[-1] if accuracies else None,
        "best_accuracy": max(accuracies) if accuracies else None,
        "images_per_second": statistics.median(row["images_per_second"] for row in history),
        "seconds": sum(_seconds(folder / METRICS) for folder in (run_dir, run_dir / FINE_TUNE)),
    }
    if write:
        with replace_atomically(run_dir / SUMMARY) as staged:
            told = summary if cut is None else {**summary, "channel_pruning": asdict(cut)}
            staged.write_text(json.dumps(told, indent=2) + "\n", "utf-8")
    return RunResult(run_dir / MODEL, **summary, channel_pruning=cut)
