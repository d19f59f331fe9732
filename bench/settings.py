"""How a comparison is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgekit.bench.scores import ScoreConventions
from edgekit.bench.shapes import Shape
from edgekit.runtime.errors import InputError


@dataclass(frozen=True)
class BenchSettings:
    """How to run the comparison.

    Attributes:
        threads: Threads within an operator; operators run one after the other.
        batch_size: Samples in a timed run.
        warmup: Runs of each model before any is timed.
        iterations: Timed runs of each model.
        limit: Images to look at, spread evenly over the data; None for all.
        mean: In place of the mean that each model carries, in units of pixel / 255; one value
            serves all channels.
        std: In place of the standard deviation, likewise.
        input_shapes: Shapes of inputs by name, for axes that are open in a file.
        conventions: What the MicroNet rules leave open.
        noise_images: Images on which each model is compared with the first, tensor by tensor; None
            leaves that out.
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

    def __post_init__(self) -> None:
        lowest = {"threads": 1, "batch_size": 1, "warmup": 0, "iterations": 1, "limit": 1}
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} {value} must be at least {least}")
