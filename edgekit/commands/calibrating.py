"""What `edgekit quantize` does around a calibration: its data, its cache, what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgekit import __version__, console
from edgekit.commands.images import DataSource
from edgekit.export.agreement import Agreement, agreement
from edgekit.export.calibration import CalibrationReader
from edgekit.export.calibrators import Calibrator, calibrator
from edgekit.export.calibrators.cache import CalibrationFile
from edgekit.export.static import DEFAULT_METHOD
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
        reused: Whether the ranges were taken from it, and nothing was calibrated.
    """

    path: Path
    reused: bool


def check_cache(path: Path, files: Iterable[Path]) -> None:
    """Refuse a cache before any work is done.

    Raises:
        OutputError: the file is one of `files`, or cannot be written.
        InputError: it is the output's.
    """
    models = list(files)
    check_output(path, force=True, inputs=models)
    if path.absolute() in [model.absolute() for model in models]:
        raise InputError(f"{path}: is the model's own file; choose another --calib-cache")


def open_calibrator(
    calibration: Calibration,
    precision: str,
    reader: CalibrationReader,
    preprocessing: Preprocessing,
    *,
    force: bool,
) -> tuple[Calibrator, CalibrationFile | None]:
    """The calibrator of a conversion, and the file that keeps its ranges where there is one.

    Raises:
        InputError: there is no such method, or the file was made otherwise and `force` is not set.
        DataError: the images cannot be read.
    """
    levels = _LEVELS.get(precision, 256)
    plain = calibrator(calibration.method, levels=levels)
    if calibration.cache is None:
        return plain, None
    manifest = {
        "method": calibration.method,
        "method_settings": dict(plain.settings),
        "levels": levels,
        **reader.settings,
        "preprocessing": preprocessing.to_metadata(),
        "classes": reader.class_counts(),
        "sample_hashes": [f"{digest:016x}" for digest in reader.digests().tolist()],
        "edgekit": __version__,
    }
    kept = CalibrationFile(calibration.cache, manifest, replace=force)
    return calibrator(calibration.method, levels=levels, cache=kept), kept


def cache_use(kept: CalibrationFile | None) -> CacheUse | None:
    """Write the cache, unless all of it was there, and say what became of it.

    Raises:
        OutputError: it cannot be written.
    """
    if kept is None:
        return None
    kept.save()
    return CacheUse(kept.path, kept.reused)


def measure_agreement(
    before: ir.Model,
    after: ir.Model,
    preprocessing: Preprocessing,
    reader: CalibrationReader,
    left_over: Split | None,
) -> Agreement:
    """Compare a conversion with its origin on images that calibration did not use.

    Args:
        before: The float32 model.
        after: The quantized model.
        preprocessing: That of both.
        reader: The calibration data, which serves where no other images are left.
        left_over: Training images that calibration did not use.

    Raises:
        EdgekitError: the images or a model cannot be used.
    """
    feeds, held_out = reader, False
    if left_over is not None:
        try:
            feeds = CalibrationReader.from_split(
                left_over, preprocessing, before, samples=min(_AGREEMENT_SAMPLES, len(left_over))
            )
            held_out = True
        except DataError:  # fewer than the model's fixed batch takes
            pass
    return agreement(before, after, feeds, held_out=held_out)


def digested(split: Split) -> Split:
    """The split, which takes down digests of its images as they are read."""
    return replace(split, images=DigestedImages(split.images))


def overlap_warnings(reader: CalibrationReader, evaluated: Split) -> tuple[str, ...]:
    """Tell of evaluation images that were calibrated on, byte for byte.

    Args:
        reader: The calibration data.
        evaluated: What accuracy was measured on, from `digested`.
    """
    if not isinstance(evaluated.images, DigestedImages):
        return ()
    shared = int(np.isin(evaluated.images.digests, reader.digests()).sum())
    if not shared:
        return ()
    return (
        f"{shared:,} of {len(evaluated):,} evaluation images of {evaluated.name} are calibration "
        "images, byte for byte: the accuracy is that of images that the ranges were fitted to",
    )


def tell(warnings: Iterable[str]) -> None:
    """Say warnings on standard error."""
    for warning in warnings:
        console.say(f"warning: {warning}")
