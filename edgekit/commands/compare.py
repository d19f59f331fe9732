"""`edgekit compare`: where two versions of a model differ, tensor by tensor and image by image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit import console
from edgekit.bench.details import noise_of_files
from edgekit.bench.figures import file_sha256
from edgekit.bench.flips import Flip, flips
from edgekit.bench.precision import ranges_depend_on_batch
from edgekit.bench.provenance import provenance
from edgekit.bench.signal_to_noise import SignalToNoise
from edgekit.commands.images import AS_STORED, DataSource, Normalization
from edgekit.export.graph import load_graph
from edgekit.runtime.accuracy import Accuracy, evaluate
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import DataError, EdgekitError, InputError, ModelFileError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.runtime.session import open_session

SCHEMA_VERSION = 1
DEFAULT_SAMPLES = 512


@dataclass(frozen=True)
class Side:
    """One of the two files.

    Attributes:
        path: The file.
        sha256: Of the file.
        top1: Its accuracy on the images, 0 to 1.
    """

    path: Path
    sha256: str
    top1: float


@dataclass(frozen=True)
class CompareResult:
    """Two versions of a model.

    Attributes:
        before: The first.
        after: The second.
        data: The data set.
        split: The part of it.
        samples: Images that both have seen, spread evenly over it.
        noise: What differs inside.
        flips: Images that changed class.
        normalization: Mean and deviation that were given in place of the models'.
        notes: What keeps the ratios from telling a loss, one sentence each.
    """

    before: Side
    after: Side
    data: str
    split: str
    samples: int
    noise: SignalToNoise
    flips: tuple[Flip, ...]
    normalization: Normalization = AS_STORED
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """One object for `json.dumps`; layers come worst first."""
        noise = self.noise.to_json()
        noise["layers"] = [asdict(one) for one in self.noise.found.worst_first]
        return {
            "schema_version": SCHEMA_VERSION,
            "edgekit": version("edgekit"),
            "settings": {
                "data": self.data,
                "split": self.split,
                "samples": self.samples,
                **asdict(self.normalization),
            },
            "models": [asdict(side) | {"path": str(side.path)} for side in self.sides],
            "signal_to_noise": noise,
            "flips": [asdict(flip) for flip in self.flips],
            "notes": list(self.notes),
        }

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both files."""
        return self.before, self.after


def compare_files(
    before: Path,
    after: Path,
    data: DataSource,
    part: str = "test",
    *,
    samples: int = DEFAULT_SAMPLES,
    normalization: Normalization,
) -> CompareResult:
    """Run two versions of a model on the same images.

    Args:
        before: The first file, the reference.
        after: The second.
        data: Labelled images.
        part: Part of the data.
        samples: How many of its images, spread evenly; all where it has fewer.
        normalization: Mean and deviation in place of the models'.

    Raises:
        ModelFileError: a file cannot be used, or the two share no tensor.
        InputError: they take other images or tell other classes.
        DataError: the data does not fit them.
    """
    models = {path: load_graph(path) for path in (before, after)}
    ways = {path: _preprocessing(path, model, normalization) for path, model in models.items()}
    _check_alike(before, ways[before], after, ways[after])
    split = data.load(part, ways[before])
    indices = np.linspace(0, len(split) - 1, min(samples, len(split))).astype(np.int64)
    chosen = split.take(indices)
    answers = {path: _answers(path, models[path], ways[path], chosen) for path in models}
    with console.progress("signal to noise") as advance:
        noise = noise_of_files(
            before, after, (ways[before], ways[after]), chosen, len(chosen), advance
        )
    first, second = (Side(path, file_sha256(path), answers[path].top1) for path in (before, after))
    changed = flips(answers[before], answers[after], indices, split.class_names)
    notes = tuple(
        f"{path} was equalized: channels inside it are scaled, so that a low ratio there is no loss"
        for path, model in models.items()
        if _is_equalized(model)
    )
    return CompareResult(
        first,
        second,
        split.name,
        split.part,
        len(chosen),
        noise,
        changed,
        normalization,
        notes,
    )


def _is_equalized(model: ir.Model) -> bool:
    """Whether the quantizer's record says that it kept an equalization."""
    record = provenance(model.metadata_props).get("calibration")
    steps = record.get("refinements") if isinstance(record, dict) else None
    return isinstance(steps, list) and any(
        isinstance(step, dict) and step.get("step") == "equalize" and step.get("kept") is True
        for step in steps
    )


def _preprocessing(path: Path, model: ir.Model, normalization: Normalization) -> Preprocessing:
    try:
        return normalization.of(model)
    except EdgekitError as error:
        raise type(error)(f"{path}: {error}") from error


def _check_alike(before: Path, ours: Preprocessing, after: Path, theirs: Preprocessing) -> None:
    if ours.image_shape != theirs.image_shape:
        raise InputError(
            f"{before} takes images of {_size(ours)}, {after} of {_size(theirs)}: give two "
            "versions of one model"
        )
    if ours.class_names and theirs.class_names and ours.class_names != theirs.class_names:
        named = enumerate(zip_longest(ours.class_names, theirs.class_names))
        index, pair = next((index, pair) for index, pair in named if pair[0] != pair[1])
        raise InputError(
            f"{before} and {after} tell other classes apart (class {index} is {pair[0]!r}, "
            f"{pair[1]!r}): give two versions of one model"
        )


def _size(preprocessing: Preprocessing) -> str:
    height, width, channels = preprocessing.image_shape
    return f"{height}x{width}x{channels}"


def _answers(path: Path, model: ir.Model, preprocessing: Preprocessing, split: Split) -> Accuracy:
    """A model's answers as a device gets them: optimized, and one at a time where that matters."""
    try:
        with console.progress(f"accuracy, {path.name}") as advance:
            return evaluate(
                open_session(path, validate=False),
                preprocessing,
                split,
                batch_size=1 if ranges_depend_on_batch(model) else None,
                progress=advance,
            )
    except (DataError, ModelFileError) as error:
        raise type(error)(f"{path}: {error}") from error
