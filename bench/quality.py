"""What the models of a comparison make of the images: accuracy, mistakes, loss of precision."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.bench.candidate import Candidate
from edgekit.bench.confusion import confusion
from edgekit.bench.details import Details, noise_of_files
from edgekit.bench.precision import ranges_depend_on_batch
from edgekit.bench.results import AccuracyFigures
from edgekit.bench.settings import BenchSettings
from edgekit.bench.signal_to_noise import SignalToNoise
from edgekit.runtime.accuracy import Accuracy, evaluate_with
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import DataError, ModelFileError
from edgekit.runtime.progress import Progress, StageProgress


@dataclass(frozen=True)
class Quality:
    """One model's answers.

    Attributes:
        accuracy: None without data.
        details: What a report shows beside the totals.
    """

    accuracy: AccuracyFigures | None
    details: Details


def measure_quality(
    candidates: Sequence[Candidate],
    split: Split | None,
    settings: BenchSettings,
    report: StageProgress,
) -> list[Quality]:
    """Classify every image of a split with each model; the first is the reference.

    Raises:
        DataError: the images do not fit a model, or it answers with numbers that are not finite.
        ModelFileError: a model cannot be run.
    """
    if split is None:
        return [Quality(None, candidate.details) for candidate in candidates]
    found: list[tuple[Accuracy, float]] = []
    for candidate in candidates:
        before, total = len(split) * len(found), len(split) * len(candidates)

        def progress(done: int, _images: int, before: int = before, total: int = total) -> None:
            report("accuracy", before + done, total)

        found.append(_accuracy(candidate, split, progress))
    noise = _noise(candidates, split, settings, report)
    first = found[0][0]
    return [
        Quality(
            _figures(accuracy, first, len(split) / seconds),
            replace(
                candidate.details,
                confusion=confusion(accuracy, split.class_names),
                signal_to_noise=layers,
            ),
        )
        for candidate, (accuracy, seconds), layers in zip(candidates, found, noise, strict=True)
    ]


def _figures(one: Accuracy, first: Accuracy, images_per_second: float) -> AccuracyFigures:
    return AccuracyFigures(
        one.correct, one.total, one.top1, one.ci95, one.flips(first), images_per_second
    )


def _accuracy(candidate: Candidate, split: Split, progress: Progress) -> tuple[Accuracy, float]:
    """A model's answers, and the seconds that they took."""
    if candidate.preprocessing is None:
        raise AssertionError("checked when the model was loaded")
    batch_size = 1 if ranges_depend_on_batch(candidate.model) else None
    started = time.perf_counter()
    try:
        accuracy = evaluate_with(
            candidate.loaded.classify,
            candidate.preprocessing,
            split,
            batch_size=batch_size,
            progress=progress,
        )
    except (DataError, ModelFileError) as error:
        raise type(error)(f"{candidate.path}: {error}") from error
    return accuracy, time.perf_counter() - started


def _noise(
    candidates: Sequence[Candidate], split: Split, settings: BenchSettings, report: StageProgress
) -> list[SignalToNoise | None]:
    """Each model beside the first, tensor by tensor, where the settings ask for it."""
    found: list[SignalToNoise | None] = [None] * len(candidates)
    if settings.noise_images is None:
        return found
    first = candidates[0]
    for index, candidate in enumerate(candidates[1:], 1):
        if first.preprocessing is None or candidate.preprocessing is None:
            raise AssertionError("checked when the models were loaded")
        found[index] = noise_of_files(
            first.path,
            candidate.path,
            (first.preprocessing, candidate.preprocessing),
            split,
            settings.noise_images,
        )
        report("signal to noise", index, len(candidates) - 1)
    return found
