"""`edgekit study`: many trainings of one recipe, varied, each taken to its converted models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import console
from edgekit.bench.figures import read_figures
from edgekit.commands.study_front import study_front_png
from edgekit.commands.study_results import (
    Measured,
    Row,
    Summary,
    read_csv,
    summarize,
    summary_markdown,
    write_csv,
)
from edgekit.commands.target import TargetChoice
from edgekit.commands.train import RUNS
from edgekit.export.calibration import CalibrationReader, single_input
from edgekit.export.graph import load_graph, save_graph, session_source
from edgekit.export.optimize import optimize
from edgekit.export.precisions import PRECISIONS
from edgekit.export.quantize import quantize
from edgekit.export.static_options import StaticOptions
from edgekit.runtime.accuracy import evaluate
from edgekit.runtime.errors import (
    CheckFailedError,
    CheckpointError,
    MissingExtraError,
    OutputError,
    RecipeError,
)
from edgekit.runtime.files import write_text
from edgekit.runtime.session import open_session

try:
    from filelock import FileLock, Timeout
except ModuleNotFoundError as missing:
    raise MissingExtraError("filelock", "train") from missing

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.runtime.data.source import Split
    from edgekit.runtime.preprocessing import Preprocessing
    from edgekit.train.run import RunResult
    from edgekit.train.study import Study, Training
    from edgekit.train.training_data import TrainingData

RESULTS = "results.csv"
SUMMARY = "summary.md"
FRONT = "front.png"
FLOAT = "fp32"
_VERIFY_SAMPLES = 8
# What another training of the study need not meet, unlike missing data or a full disk.
_OF_ONE_RECIPE = (CheckFailedError, CheckpointError, RecipeError)


@dataclass(frozen=True)
class StudyResult:
    """What a study came to.

    Attributes:
        name: The study's.
        folder: Where the runs, results.csv and summary.md are.
        rows: One for each variant, seed and precision.
        summaries: One for each variant and precision.
        elsewhere: Trainings that have no rows yet, since other processes are at them.
        failures: Trainings that failed, each with the reason.
    """

    name: str
    folder: Path
    rows: tuple[Row, ...]
    summaries: tuple[Summary, ...]
    elsewhere: tuple[str, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)


def run_study(
    study: str,
    output: Path | None,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    accelerator: str = "auto",
) -> StudyResult:
    """Train every variant that results.csv does not know yet, convert it and measure it.

    Accuracy is that on the recipe's validation part; the test part is never read. results.csv,
    summary.md and front.png are written anew after each training, so that an interrupted study
    leaves what it has, and goes on from there when it is started again, on another machine too.
    Processes that run the same study share the work: each training is done by one of them. One that
    fails by its own recipe does not keep the others from being done.

    Args:
        study: A .toml file or the name of a shipped study.
        output: The folder for the runs and the results; runs/ and the study's name by default.
        data_dir: Where named data sets live.
        download: Fetch a named data set that is not there.
        accelerator: Kind of device, in Lightning's terms.

    Raises:
        EdgekitError: the study, a recipe or the data cannot be used.
    """
    from edgekit.train.run import run_recipe
    from edgekit.train.study import load_study
    from edgekit.train.training_data import load_training_data

    loaded = load_study(study)
    _check(loaded.trainings)
    output = output or RUNS / loaded.name
    _check_folder(output)

    def train(training: Training, place: int) -> None:
        folder = output / training.folder
        console.say(f"{place}/{len(loaded.trainings)}  {training.folder}")
        run = run_recipe(
            training.recipe, folder, data_dir=data_dir, download=download, accelerator=accelerator
        )
        data = load_training_data(training.recipe, data_dir=data_dir, download=download)
        measured = _measure(run.checkpoint, data, training.precisions, folder)
        _write(output, loaded, _rows(training, run, measured))

    failures: dict[str, str] = {}
    for place, training in enumerate(loaded.trainings, 1):
        with _claimed(training, output) as is_mine:
            if is_mine and not _known_rows(training, read_csv(output / RESULTS)):
                try:
                    train(training, place)
                except _OF_ONE_RECIPE as error:
                    failures[training.folder] = str(error)
    rows = _write(output, loaded)
    missing = [one.folder for one in loaded.trainings if not _known_rows(one, rows)]
    elsewhere = tuple(folder for folder in missing if folder not in failures)
    summaries = tuple(summarize(rows))
    return StudyResult(loaded.name, output, tuple(rows), summaries, elsewhere, failures)


def _check_folder(output: Path) -> None:
    """Refuse to write over what no study left there."""
    others = [name for name in (SUMMARY, FRONT) if (output / name).exists()]
    if others and not (output / RESULTS).exists():
        raise OutputError(
            f"{output / others[0]}: exists, and is no study's, which has {RESULTS} beside it; "
            "choose another folder"
        )


@contextmanager
def _claimed(training: Training, output: Path) -> Iterator[bool]:
    """Whether this process has a training to itself."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output}: cannot be made: {error.strerror or error}") from error
    lock = FileLock(output / f".{training.folder}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _check(trainings: Sequence[Training]) -> None:
    for training in trainings:
        for precision in training.precisions:
            if precision not in (FLOAT, *PRECISIONS):
                raise RecipeError(
                    f"precisions: {precision!r} is none; choose of {FLOAT}, {', '.join(PRECISIONS)}"
                )
        if not training.recipe.data.validation:
            raise RecipeError("data.validation: a study judges by the validation part; set it")


def _known_rows(training: Training, known: Sequence[Row]) -> list[Row]:
    """A training's rows from what an earlier run measured; none where something is missing."""
    same = [row for row in known if row.recipe == training.digest]
    by_precision = {row.measured.precision: row for row in same}
    if not by_precision.keys() >= set(training.precisions):
        return []
    return [
        replace(by_precision[precision], group=variant.group, variant=variant.name)
        for variant in training.variants
        for precision in variant.precisions
    ]


def _measure(
    checkpoint: Path, data: TrainingData, precisions: Sequence[str], folder: Path
) -> list[Measured]:
    """Export a network, convert it to each precision, count and evaluate the files."""
    from edgekit.export.to_onnx import to_onnx
    from edgekit.train.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    model = to_onnx(loaded.build(), loaded.preprocessing, source=checkpoint.name)
    reader = CalibrationReader.from_split(data.train, loaded.preprocessing, model)
    name = str(single_input(model).name)
    optimize(model, inputs={name: next(iter(reader))[name][:_VERIFY_SAMPLES]})
    found = []
    for precision in precisions:
        path = folder / f"{precision}.onnx"
        converted = model if precision == FLOAT else _convert(model, precision, reader)
        save_graph(converted, path)
        found.append(
            _figures(path, load_graph(path), precision, data.validation, loaded.preprocessing)
        )
    return found


def _convert(model: ir.Model, precision: str, reader: CalibrationReader) -> ir.Model:
    """For this processor, in the shapes that the network has: zeros for speed would be MACs."""
    static = TargetChoice().tune(StaticOptions(kernels="keep"), precision)
    return quantize(model, precision, reader=reader, static=static).model


def _figures(
    path: Path,
    model: ir.Model,
    precision: str,
    validation: Split | None,
    preprocessing: Preprocessing,
) -> Measured:
    assert validation is not None
    figures, _ = read_figures(path, model)
    # Such a model takes its ranges from the whole batch; a device gives it one image at a time.
    at_once = 1 if precision == "dynamic-int8" else None
    with session_source(model) as source:
        session = open_session(source)
        result = evaluate(session, preprocessing, validation, batch_size=at_once)
    return Measured(
        precision=precision,
        correct=result.correct,
        total=result.total,
        params=figures.params,
        nonzero=figures.nonzero,
        macs=figures.macs,
        effective_macs=figures.effective_macs,
        file_bytes=figures.file_bytes,
        imt=figures.score.imt,
        micronet2019=figures.score.micronet2019,
    )


def _rows(training: Training, run: RunResult, measured: Iterable[Measured]) -> list[Row]:
    recipe = training.recipe
    return [
        Row(
            recipe=training.digest,
            group=variant.group,
            variant=variant.name,
            seed=recipe.seed,
            epochs=recipe.all_epochs,
            train_seconds=round(run.seconds, 1),
            images_per_second=round(run.images_per_second, 1),
            measured=one,
        )
        for variant in training.variants
        for one in measured
        if one.precision in variant.precisions
    ]


def _write(folder: Path, study: Study, new: Sequence[Row] = ()) -> list[Row]:
    """Add rows to those of the folder, and write all that is made of them; returns the study's.

    Rows of other recipes and precisions stay in results.csv: the study may have had them, or may
    get them again.
    """
    with FileLock(folder / ".results.lock"):
        known = [*read_csv(folder / RESULTS), *new]
        rows = [row for training in study.trainings for row in _known_rows(training, known)]
        if rows:
            shown = {(row.recipe, row.measured.precision) for row in rows}
            others = [row for row in known if (row.recipe, row.measured.precision) not in shown]
            write_csv(folder / RESULTS, [*rows, *others])
            summaries = summarize(rows)
            write_text(folder / SUMMARY, summary_markdown(study.name, summaries))
            study_front_png(study.name, summaries, folder / FRONT)
    return rows
