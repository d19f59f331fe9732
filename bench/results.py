"""What a comparison finds, and the JSON object that it becomes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from edgekit.bench.cold_start import ColdStart
from edgekit.bench.conditions import Conditions
from edgekit.bench.details import Details
from edgekit.bench.figures import Figures
from edgekit.bench.latency import Latency
from edgekit.bench.loadgen import LoadgenRun
from edgekit.bench.machine import Machine
from edgekit.bench.profile import Profile
from edgekit.bench.settings import BenchSettings
from edgekit.bench.sweep import Timing

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
        images_per_second: Speed of the evaluation, preprocessing included.
    """

    correct: int
    total: int
    top1: float
    ci95: tuple[float, float]
    flips_vs_first: int
    images_per_second: float | None = None


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
        timing: How `latency` was found, and its ratio to the first model's.
        cold_start: Load and first run in fresh processes, and their memory.
        sweep: Latency at every pair of threads and batch size that was asked for.
        profile: Where the time goes; None where it was not asked for.
        loadgen: LoadGen's runs.
        difference_to_onnxruntime: Largest difference of an output, relative to the largest output,
            where another engine runs the model; None for onnxruntime.
    """

    figures: Figures
    accuracy: AccuracyFigures | None
    latency: Latency
    peak_rss_bytes: int | None
    details: Details | None = None
    timing: Timing | None = None
    cold_start: ColdStart | None = None
    sweep: tuple[Timing, ...] = ()
    profile: Profile | None = None
    loadgen: tuple[LoadgenRun, ...] = ()
    difference_to_onnxruntime: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The model's object in the report's `models`."""
        figures = self.figures
        return {
            **figures.identity_json(),
            "accuracy": None
            if self.accuracy is None
            else {**asdict(self.accuracy), "ci95": list(self.accuracy.ci95)},
            **figures.counts_json(),
            "latency_ms": self.latency.to_json(),
            "throughput_ips": self.latency.throughput_ips,
            "peak_rss_bytes": self.peak_rss_bytes,
            "score": figures.score_json(),
            **({} if self.timing is None else self.timing.reliability_json()),
            "cold_start_ms": None if self.cold_start is None else self.cold_start.times_json(),
            "memory_bytes": None if self.cold_start is None else self.cold_start.memory_json(),
            "sweep": [timing.to_json() for timing in self.sweep],
            "profile": None if self.profile is None else self.profile.to_json(),
            "loadgen": [run.to_json() for run in self.loadgen],
            "difference_to_onnxruntime": self.difference_to_onnxruntime,
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
        conditions: What the machine was like meanwhile; None where nobody looked.
        engine_version: Version of the engine that ran the models; "" where nobody asked.
        pinned_cores: The cores that the process was kept on; None where it was not.
    """

    machine: Machine
    settings: BenchSettings
    data: str | None
    split: str | None
    models: tuple[ModelResult, ...]
    conditions: Conditions | None = None
    engine_version: str = ""
    pinned_cores: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """One object for `json.dumps`; its keys are a contract."""
        conditions = self.conditions
        return {
            "schema_version": SCHEMA_VERSION,
            "edgekit": version("edgekit"),
            "machine": {
                **asdict(self.machine),
                "isa": list(self.machine.isa),
                "conditions": None if conditions is None else conditions.to_json(),
            },
            "settings": {
                "data": self.data,
                "split": self.split,
                **self.settings.to_json(),
                "engine_version": self.engine_version,
                "pinned_cores": None if self.pinned_cores is None else list(self.pinned_cores),
            },
            "models": [model.to_json() for model in self.models],
        }
