"""Several models side by side: accuracy, counts, size, latency, memory and scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgekit.bench.confusion import confusion
from edgekit.bench.details import Details, noise_of_files
from edgekit.bench.figures import Figures, read_figures
from edgekit.bench.latency import Latency, latency_run, measure, summarize
from edgekit.bench.machine import describe_machine
from edgekit.bench.memory import peak_rss_bytes
from edgekit.bench.provenance import provenance
from edgekit.bench.results import AccuracyFigures, BenchReport, ModelResult
from edgekit.bench.settings import BenchSettings
from edgekit.bench.shapes import Shape
from edgekit.bench.signal_to_noise import SignalToNoise
from edgekit.export.graph import load_graph, model_preprocessing
from edgekit.runtime.accuracy import Accuracy, evaluate
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import DataError, InputError
from edgekit.runtime.preprocessing import Preprocessing, preprocessing_of
from edgekit.runtime.session import model_input, open_session

# (stage, done, total); stages are "count", "accuracy", "latency", "memory" and "signal to noise"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Candidate:
    path: Path
    figures: Figures
    preprocessing: Preprocessing | None
    session: ort.InferenceSession
    details: Details


def bench_models(
    paths: Sequence[Path],
    split: Split | None = None,
    settings: BenchSettings | None = None,
    *,
    progress: Progress | None = None,
) -> BenchReport:
    """Compare model files; the first is the reference.

    Args:
        paths: ONNX files.
        split: Labelled images; without them there is no accuracy, and latency is measured on
            random input.
        settings: How to run.
        progress: Called with (stage, done, total) as the work goes on.

    Raises:
        ModelFileError: a file is damaged, cannot be counted or cannot be run.
        DataError: the data does not fit a model (size, number or names of the classes).
        InputError: no model is given, or a file fixes another batch size.
    """
    if not paths:
        raise InputError("no model to bench: give at least one .onnx file")
    settings = settings or BenchSettings()
    if split is None and settings.noise_images is not None:
        raise InputError("--signal-to-noise needs images: give some with --data")
    if split is not None:
        split = _limited(split, settings.limit)
    report = progress or (lambda _stage, _done, _total: None)
    candidates = []
    for index, path in enumerate(paths):
        candidates.append(_candidate(path, split, settings))
        report("count", index + 1, len(paths))
    accuracies = _accuracies(candidates, split, report)
    latencies = _latencies(candidates, split, settings, report)
    memory = []
    for index, candidate in enumerate(candidates):
        memory.append(_memory(candidate, split, settings))
        report("memory", index + 1, len(candidates))
    noise = _noise(candidates, split, settings, report)
    return BenchReport(
        machine=describe_machine(),
        settings=settings,
        data=None if split is None else split.name,
        split=None if split is None else split.part,
        models=tuple(
            ModelResult(
                candidate.figures,
                _accuracy_figures(accuracy, accuracies[0]),
                latency,
                peak,
                _details(candidate, split, accuracy, layers),
            )
            for candidate, accuracy, latency, peak, layers in zip(
                candidates, accuracies, latencies, memory, noise, strict=True
            )
        ),
    )


def _limited(split: Split, limit: int | None) -> Split:
    if limit is None or limit >= len(split):
        return split
    return split.take(np.linspace(0, len(split) - 1, limit).astype(np.int64))


def _candidate(path: Path, split: Split | None, settings: BenchSettings) -> _Candidate:
    model = load_graph(path)
    figures, counts = read_figures(path, model, settings.input_shapes, settings.conventions)
    session = open_session(path, threads=settings.threads)
    preprocessing = model_preprocessing(model)
    if split is not None:
        entry = model_input(session)
        preprocessing = preprocessing_of(
            model.metadata_props,
            settings.input_shapes.get(entry.name, entry.shape),
            mean=settings.mean,
            std=settings.std,
        )
    details = Details(counts.nodes, provenance(model.metadata_props))
    return _Candidate(path, figures, preprocessing, session, details)


def _accuracies(
    candidates: Sequence[_Candidate], split: Split | None, report: Progress
) -> list[Accuracy | None]:
    if split is None:
        return [None] * len(candidates)
    found: list[Accuracy | None] = []
    for candidate in candidates:
        before, total = len(split) * len(found), len(split) * len(candidates)

        def progress(done: int, _images: int, before: int = before, total: int = total) -> None:
            report("accuracy", before + done, total)

        found.append(_accuracy(candidate, split, progress))
    return found


def _accuracy_figures(one: Accuracy | None, first: Accuracy | None) -> AccuracyFigures | None:
    if one is None or first is None:
        return None
    return AccuracyFigures(one.correct, one.total, one.top1, one.ci95, one.flips(first))


def _details(
    candidate: _Candidate,
    split: Split | None,
    accuracy: Accuracy | None,
    noise: SignalToNoise | None,
) -> Details:
    if split is None or accuracy is None:
        return candidate.details
    matrix = confusion(accuracy, split.class_names)
    return replace(candidate.details, confusion=matrix, signal_to_noise=noise)


def _noise(
    candidates: Sequence[_Candidate],
    split: Split | None,
    settings: BenchSettings,
    report: Progress,
) -> list[SignalToNoise | None]:
    """Each model beside the first, tensor by tensor, where the settings ask for it."""
    found: list[SignalToNoise | None] = [None] * len(candidates)
    if settings.noise_images is None:
        return found
    first = candidates[0]
    for index, candidate in enumerate(candidates[1:], 1):
        if split is None or first.preprocessing is None or candidate.preprocessing is None:
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


def _accuracy(
    candidate: _Candidate, split: Split, progress: Callable[[int, int], None]
) -> Accuracy:
    if candidate.preprocessing is None:
        raise AssertionError("checked when the model was loaded")
    try:
        return evaluate(candidate.session, candidate.preprocessing, split, progress=progress)
    except DataError as error:
        raise DataError(f"{candidate.path}: {error}") from error


def _latencies(
    candidates: Sequence[_Candidate],
    split: Split | None,
    settings: BenchSettings,
    report: Progress,
) -> list[Latency]:
    runs = [
        latency_run(candidate.session, settings.batch_size, _samples(candidate, split, settings))
        for candidate in candidates
    ]
    times = measure(
        runs,
        warmup=settings.warmup,
        iterations=settings.iterations,
        progress=lambda done, total: report("latency", done, total),
    )
    return [summarize(series, settings.batch_size) for series in times]


def _samples(
    candidate: _Candidate, split: Split | None, settings: BenchSettings
) -> NDArray[np.generic] | None:
    """A batch to time on: the first images, or random input where only the shape is known."""
    if split is not None and candidate.preprocessing is not None:
        first = np.arange(min(settings.batch_size, len(split)))
        return candidate.preprocessing(split.images.read(first))
    shape = _sample_shape(candidate, settings)
    if shape is None:
        return None
    return np.random.default_rng(0).random((settings.batch_size, *shape), np.float32)


def _memory(candidate: _Candidate, split: Split | None, settings: BenchSettings) -> int | None:
    shape = _sample_shape(candidate, settings)
    if split is not None and candidate.preprocessing is not None:
        shape = candidate.preprocessing.input_shape
    return peak_rss_bytes(
        candidate.path,
        batch_size=settings.batch_size,
        threads=settings.threads,
        input_shape=shape,
    )


def _sample_shape(candidate: _Candidate, settings: BenchSettings) -> Shape | None:
    """Shape of one sample where the settings or the model's metadata give it."""
    given = settings.input_shapes.get(model_input(candidate.session).name)
    if given is not None:
        return tuple(given[1:])
    return None if candidate.preprocessing is None else candidate.preprocessing.input_shape
