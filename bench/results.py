"""What a comparison finds, and the JSON object that it becomes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from edgekit.bench.details import Details
from edgekit.bench.figures import Figures
from edgekit.bench.latency import Latency
from edgekit.bench.machine import Machine
from edgekit.bench.settings import BenchSettings

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class AccuracyFigures:
    """Accuracy of one model.

    Attributes:
        correct: Images whose class was found.
        total: Images looked at.
        top1: Their quotient.
        ci95: 95% confidence interval of `top1`.
        flips_vs_first: Images to which the first model gives another class.
    """

    correct: int
    total: int
    top1: float
    ci95: tuple[float, float]
    flips_vs_first: int


@dataclass(frozen=True)
class ModelResult:
    """One model's row.

    Attributes:
        figures: Identity, counts and scores.
        accuracy: None without data.
        latency: Times of one run of a batch.
        peak_rss_bytes: Peak memory of a process that runs the model once; None where the system
            does not tell.
        details: Nodes, mistakes, origin and the like; None where they are not wanted.
    """

    figures: Figures
    accuracy: AccuracyFigures | None
    latency: Latency
    peak_rss_bytes: int | None
    details: Details | None = None

    def to_json(self) -> dict[str, Any]:
        """The model's object in the report's `models`."""
        figures, latency = self.figures, self.latency
        return {
            **figures.identity_json(),
            "accuracy": None
            if self.accuracy is None
            else {**asdict(self.accuracy), "ci95": list(self.accuracy.ci95)},
            **figures.counts_json(),
            "latency_ms": {
                "p50": latency.p50_ms,
                "p90": latency.p90_ms,
                "p99": latency.p99_ms,
                "mean": latency.mean_ms,
                "min": latency.min_ms,
            },
            "throughput_ips": latency.throughput_ips,
            "peak_rss_bytes": self.peak_rss_bytes,
            "score": figures.score_json(),
            **({} if self.details is None else self.details.to_json()),
        }


@dataclass(frozen=True)
class BenchReport:
    """A whole comparison; the first model is the reference.

    Attributes:
        machine: Where it ran.
        settings: How it ran.
        data: Name of the data set; None without one.
        split: Part of the data set; None without one.
        models: One row each, in the order given.
    """

    machine: Machine
    settings: BenchSettings
    data: str | None
    split: str | None
    models: tuple[ModelResult, ...]

    def to_json(self) -> dict[str, Any]:
        """One object for `json.dumps`; its keys are a contract."""
        settings = self.settings
        return {
            "schema_version": SCHEMA_VERSION,
            "edgekit": version("edgekit"),
            "machine": {**asdict(self.machine), "isa": list(self.machine.isa)},
            "settings": {
                "data": self.data,
                "split": self.split,
                "threads": settings.threads,
                "batch_size": settings.batch_size,
                "warmup": settings.warmup,
                "iterations": settings.iterations,
                "limit": settings.limit,
                "mean": None if settings.mean is None else list(settings.mean),
                "std": None if settings.std is None else list(settings.std),
                "input_shapes": {n: list(shape) for n, shape in settings.input_shapes.items()},
                "score": asdict(settings.conventions),
            },
            "models": [model.to_json() for model in self.models],
        }
