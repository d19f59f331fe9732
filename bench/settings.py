"""How a comparison is run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edgekit.bench.engines import DEFAULT_ENGINE, find_engine
from edgekit.bench.loadgen import SCENARIOS
from edgekit.bench.machine import usable_cores
from edgekit.bench.scores import ScoreConventions
from edgekit.bench.shapes import Shape
from edgekit.runtime.errors import InputError

MOST_THREADS = 1024
_LOWEST = {
    "threads": 1,
    "batch_size": 1,
    "warmup": 0,
    "iterations": 1,
    "limit": 1,
    "cold_starts": 0,
    "loadgen_seconds": 0,
}


@dataclass(frozen=True)
class BenchSettings:
    """How to run the comparison.

    Attributes:
        threads: Threads within an operator; operators run one after the other.
        batch_size: Samples in a timed run.
        warmup: Runs in a window of warm-up, see `latency`; 0 for no warm-up.
        iterations: Timed runs of each model.
        limit: Images to look at, spread evenly over the data; None for all.
        mean: In place of the mean that each model carries, in units of pixel / 255; one value
            serves all channels.
        std: In place of the standard deviation, likewise.
        input_shapes: Shapes of inputs by name, for axes that are open in a file.
        conventions: What the MicroNet rules leave open.
        noise_images: Images on which each model is compared with the first, tensor by tensor; None
            leaves that out.
        engine: What runs the models: a key of `engines.ENGINES`.
        sweep_threads: Numbers of threads to measure latency with, beside `threads`.
        sweep_batch_sizes: Batch sizes, likewise, beside `batch_size`.
        pin: Keep the process on as many cores as it has threads.
        cold_starts: Fresh processes a model whose first run is measured; 0 leaves cold start and
            memory out.
        profile: Measure where the time goes, by operator.
        loadgen: MLPerf scenarios to run: "SingleStream", "Offline".
        loadgen_seconds: How long each of them lasts at least.
    """

    threads: int = 1
    batch_size: int = 1
    warmup: int = 10
    iterations: int = 100
    limit: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    conventions: ScoreConventions = field(default_factory=ScoreConventions)
    noise_images: int | None = None
    engine: str = DEFAULT_ENGINE
    sweep_threads: tuple[int, ...] = ()
    sweep_batch_sizes: tuple[int, ...] = ()
    pin: bool = False
    cold_starts: int = 3
    profile: bool = False
    loadgen: tuple[str, ...] = ()
    loadgen_seconds: float = 10.0

    def __post_init__(self) -> None:
        for name, least in _LOWEST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name.replace('_', '-')} {value} must be at least {least}")
        for flag, values in (
            ("--threads", self.sweep_threads),
            ("--batch-sizes", self.sweep_batch_sizes),
        ):
            if any(value < 1 for value in values):
                raise InputError(f"{flag} {', '.join(map(str, values))}: each must be at least 1")
        most = max((self.threads, *self.sweep_threads))
        if most > MOST_THREADS:
            raise InputError(
                f"--threads {most}: more than {MOST_THREADS}; "
                f"this machine has {usable_cores()} cores"
            )
        find_engine(self.engine)
        if self.profile and self.engine != DEFAULT_ENGINE:
            raise InputError(f"--profile reads {DEFAULT_ENGINE}'s own profile: leave out --engine")
        for scenario in self.loadgen:
            if scenario not in SCENARIOS:
                raise InputError(f"--loadgen {scenario}: choose {', '.join(SCENARIOS)} or both")

    @property
    def sweep(self) -> tuple[tuple[int, int], ...]:
        """Every pair (threads, batch size) to measure; empty without a sweep."""
        if not self.sweep_threads and not self.sweep_batch_sizes:
            return ()
        threads = _each_once((self.threads, *self.sweep_threads))
        sizes = _each_once((self.batch_size, *self.sweep_batch_sizes))
        return tuple(itertools.product(threads, sizes))

    def to_json(self) -> dict[str, Any]:
        """The value of the key `settings`, but for the data."""
        return {
            "threads": self.threads,
            "batch_size": self.batch_size,
            "warmup": self.warmup,
            "iterations": self.iterations,
            "limit": self.limit,
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
            "input_shapes": {name: list(shape) for name, shape in self.input_shapes.items()},
            "score": asdict(self.conventions),
            "engine": self.engine,
            "sweep": [{"threads": threads, "batch_size": size} for threads, size in self.sweep],
            "pin": self.pin,
            "cold_starts": self.cold_starts,
            "profile": self.profile,
            "loadgen": list(self.loadgen),
            "loadgen_seconds": self.loadgen_seconds,
            "noise_images": self.noise_images,
        }


def _each_once(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(values))
