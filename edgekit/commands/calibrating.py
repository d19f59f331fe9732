"""What `edgekit quantize` does around a calibration: its data, its cache, what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from edgekit import __version__, console
from edgekit.bench.int8_kernels import int8_kernels
from edgekit.bench.machine import describe_machine
from edgekit.commands.images import DataSource
from edgekit.export.agreement import Agreement, agreement
from edgekit.export.calibration import CalibrationReader
from edgekit.export.calibrators import Calibrator, calibrator
from edgekit.export.calibrators.cache import CalibrationFile
from edgekit.export.graph import digest
from edgekit.export.precisions import PRECISIONS
from edgekit.export.static_options import DEFAULT_METHOD
from edgekit.runtime.data.digests import DigestedImages
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import DataError, InputError
from edgekit.runtime.files import check_output
from edgekit.runtime.preprocessing import Preprocessing

_AGREEMENT_SAMPLES = 256
_LEVELS = {"int16": 1 << 16}


@dataclass(frozen=True)
class Calibration:
    """Which images a static conversion sees.

    Attributes:
        data: A data set, of which the training part is used.
        method: How ranges are found.
        samples: How many images; None for the default, or all where there are fewer.
        seed: Draws them.
        cache: A file that keeps the ranges; it is made where it is not there.
    """

    data: DataSource
    method: str = DEFAULT_METHOD
    samples: int | None = None
    seed: int = 0
    cache: Path | None = None


@dataclass(frozen=True)
class CacheUse:
    """What became of a calibration cache.

    Attributes:
        path: The file.
        reused: Whether the ranges were taken from it, and the model was not calibrated.
    """

    path: Path
    reused: bool

    def __str__(self) -> str:
        return f"ranges taken from {self.path}" if self.reused else f"ranges kept in {self.path}"


def check_cache(
    path: Path | None, precision: str, *, inputs: Iterable[Path], outputs: Iterable[Path]
) -> None:
    """Refuse a cache before any work is done.

    Args:
        path: The cache; None for none.
        precision: What the model is converted to.
        inputs: Files that are read; none of them may be the cache.
        outputs: Files that are written besides; likewise.

    Raises:
        InputError: nothing is calibrated for that precision.
        OutputError: the file is one of those, or cannot be written.
    """
    if path is None:
        return
    if precision in PRECISIONS and not PRECISIONS[precision].calibrated:
        raise InputError(f"--calib-cache: {precision} chooses no ranges; leave it out")
    check_output(path, force=True, inputs=inputs, outputs=outputs, flag="--calib-cache")


def check_method(calibration: Calibration | None, precision: str) -> None:
    """Refuse a calibration method where no ranges are found.

    Raises:
        InputError: the precision has none.
    """
    chosen = calibration is not None and calibration.method != DEFAULT_METHOD
    if chosen and precision in PRECISIONS and not PRECISIONS[precision].calibrated:
        raise InputError(f"--method: {precision} chooses no ranges; leave it out")


@dataclass(frozen=True)
class CalibrationRun:
    """A calibration at work.

    Attributes:
        images: The training part that its samples are of.
        reader: The samples.
        method: Finds ranges on them.
        left_over: Images that it does not see; None where it sees them all.
        kept: The file that keeps the ranges, where there is one.
    """

    images: Split
    reader: CalibrationReader
    method: Calibrator
    left_over: Split | None
    kept: CalibrationFile | None

    @classmethod
    def open(
        cls,
        calibration: Calibration,
        precision: str,
        model: ir.Model,
        preprocessing: Preprocessing,
        *,
        force: bool,
    ) -> CalibrationRun:
        """Find the samples, and the cache where there is one.

        Raises:
            InputError: there is no such method, or the cache was made otherwise and `force` is not
                set.
            DataError: the images cannot be read, or do not fit the model.
        """
        images = calibration.data.load("train", preprocessing)
        reader = CalibrationReader.from_split(
            images, preprocessing, model, samples=calibration.samples, seed=calibration.seed
        )
        levels = _LEVELS.get(precision, 256)
        method, kept = calibrator(calibration.method, levels=levels), None
        if calibration.cache is not None:
            manifest = _manifest(method, levels, reader, preprocessing)
            kept = CalibrationFile(calibration.cache, manifest, kernels=_kernels(), replace=force)
            method = calibrator(calibration.method, levels=levels, cache=kept)
        return cls(images, reader, method, _left_over(images, reader), kept)

    def agreement(
        self, before: ir.Model, after: ir.Model, preprocessing: Preprocessing
    ) -> Agreement | None:
        """Compare a conversion with its origin on images that calibration did not use.

        Where it used all, those serve. None where nothing was calibrated.

        Raises:
            EdgekitError: the images or a model cannot be used.
        """
        if not self.method.used:
            return None
        feeds, held_out = self.reader, False
        if self.left_over is not None:
            count = min(_AGREEMENT_SAMPLES, len(self.left_over))
            # Fewer images than the model's fixed batch takes are as good as none.
            with suppress(DataError):
                feeds = CalibrationReader.from_split(
                    self.left_over, preprocessing, before, samples=count
                )
                held_out = True
        key = digest(after, digest(before), feeds.digests().tobytes().hex())
        return self.method.cache.recall(
            key,
            lambda: asdict(agreement(before, after, feeds, held_out=held_out)),
            Agreement.of,
        )

    def warn(self, evaluated: Split | None) -> tuple[str, ...]:
        """Say what makes the calibration, or its evaluation on a split, doubtful."""
        warnings = self.method.warnings
        if evaluated is not None:
            warnings += _overlap(self.reader, evaluated)
        for warning in warnings:
            console.say(f"warning: {warning}")
        return warnings

    def save_cache(self) -> CacheUse | None:
        """Write the cache, unless all of it was there, and say what became of it.

        Raises:
            OutputError: it cannot be written.
        """
        if self.kept is None:
            return None
        self.kept.save()
        return CacheUse(self.kept.path, self.kept.reused)


def _kernels() -> str:
    """What integers run on here: decides agreement, and which refinements help."""
    return f"onnxruntime {ort.__version__}, {int8_kernels(describe_machine().isa).name}:"


def digested(split: Split) -> Split:
    """The split, which takes down digests of its images as they are read."""
    return replace(split, images=DigestedImages(split.images))


def _manifest(
    method: Calibrator, levels: int, reader: CalibrationReader, preprocessing: Preprocessing
) -> dict[str, object]:
    """All that decides the ranges of a model."""
    return {
        "method": method.name,
        "method_settings": dict(method.settings),
        "levels": levels,
        **reader.settings,
        "preprocessing": preprocessing.to_metadata(),
        "classes": reader.class_counts(),
        "sample_hashes": [f"{digest:016x}" for digest in reader.digests().tolist()],
        "edgekit": __version__,
    }


def _left_over(split: Split, reader: CalibrationReader) -> Split | None:
    assert reader.positions is not None
    unseen = np.setdiff1d(np.arange(len(split)), reader.positions)
    return split.take(unseen) if len(unseen) else None


def _overlap(reader: CalibrationReader, evaluated: Split) -> tuple[str, ...]:
    """Tell of evaluation images, from `digested`, that were calibrated on, byte for byte."""
    if not isinstance(evaluated.images, DigestedImages):
        return ()
    shared = int(np.isin(evaluated.images.digests, reader.digests()).sum())
    if not shared:
        return ()
    return (
        f"{shared:,} of {len(evaluated):,} evaluation images of {evaluated.name} are calibration "
        "images, byte for byte: the accuracy is that of images that the ranges were fitted to",
    )
