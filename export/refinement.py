"""Refinements of a quantized model, each kept only where it helps on samples it has not seen.

| step | what it does | module |
|---|---|---|
| equalize | scales channels of the float model | equalize.py |
| correct biases | takes mean errors out of biases | correct_biases.py |
| round adaptively | chooses weights' codes by layers' outputs | rounding.py |

What helps is told by the signal-to-noise ratio of the logits: the power of the float model's over
that of the difference. Calibration data is parted: its last quarter, 128 samples at most, judges,
and the refinements learn from the rest.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import onnx_ir as ir

from edgekit.export.agreement import agreement
from edgekit.export.calibration import BATCH_SIZE, Feed
from edgekit.export.calibrators import Progress
from edgekit.export.correct_biases import correct_biases
from edgekit.export.equalize import equalize
from edgekit.export.graph import nodes, to_proto
from edgekit.export.layerwise import affordable
from edgekit.export.rounding import DEFAULT_SECONDS, round_adaptively
from edgekit.export.weight_grid import weight_grids

Switch = Literal["auto", "on", "off"]
Rounding = Literal["nearest", "adaptive"]

_JUDGES = 128
_JUDGING_PART = 4  # one in so many batches
_LEARNERS = 512
# What equalization measures, and the trial that decides on it is calibrated on.
_TRIAL_SAMPLES = 128


@dataclass(frozen=True)
class Refinements:
    """What is to be tried.

    Attributes:
        equalize: "auto" keeps it where it helps, "on" always, "off" does not try.
        bias_correction: Likewise.
        rounding: "adaptive" tries it and keeps it where it helps.
        rounding_seconds: What adaptive rounding may take.
    """

    equalize: Switch = "auto"
    bias_correction: Switch = "auto"
    rounding: Rounding = "nearest"
    rounding_seconds: float = DEFAULT_SECONDS
    # A search converts one model again and again; whether to equalize it is decided once.
    _equalized: dict[str, tuple[ir.Model, Trial | None]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked for, for a model's metadata."""
        found: dict[str, Any] = {
            "equalize": self.equalize,
            "bias_correction": self.bias_correction,
            "rounding": self.rounding,
        }
        if self.rounding == "adaptive":
            found["rounding_seconds"] = self.rounding_seconds
        return found

    @property
    def any(self) -> bool:
        """Whether anything is to be tried."""
        return (self.equalize, self.bias_correction, self.rounding) != ("off", "off", "nearest")


@dataclass(frozen=True)
class Written:
    """A quantized model before its last steps, and the float model that its nodes are named after.

    Attributes:
        model: The float32 model, in the form that was quantized.
        quantized: With pairs of QuantizeLinear and DequantizeLinear, and thresholds in floats.
    """

    model: ir.Model
    quantized: ir.Model


@dataclass(frozen=True)
class Trial:
    """One refinement that was tried.

    Attributes:
        step: Its name.
        what: How much it changed, in a few words.
        before_db: Signal-to-noise ratio of the logits without it; None where there is no noise.
        after_db: With it.
        kept: Whether the result has it.
        seconds: What it took, the comparison included.
    """

    step: str
    what: str
    before_db: float | None
    after_db: float | None
    kept: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The trial for a model's metadata, without the time, which differs from run to run."""
        entry = asdict(self)
        del entry["seconds"]
        for key in ("before_db", "after_db"):
            entry[key] = None if entry[key] is None else round(entry[key], 2)
        return entry


@dataclass(frozen=True)
class Samples:
    """Calibration data in two parts, in memory.

    Attributes:
        learners: What refinements learn from.
        judges: What they are judged on; no part of `learners` where there are batches to part.
    """

    learners: tuple[Feed, ...]
    judges: tuple[Feed, ...]

    @classmethod
    def of(cls, feeds: Iterable[Feed], *, whole: bool = False) -> Samples:
        """Part the first `_LEARNERS` samples, and as many as are to judge.

        Args:
            feeds: Calibration data.
            whole: Whether batches stay as they are, for a model of a fixed batch size; a batch
                alone then both teaches and judges.
        """
        kept: list[Feed] = []
        count = 0
        for feed in feeds if whole else _small(feeds):
            if count >= _LEARNERS + _JUDGES:
                break
            kept.append(feed)
            count += _size(feed)
        if whole:
            judging = max(1, min(len(kept) // _JUDGING_PART, _JUDGES // max(1, _size(kept[0]))))
            return cls(tuple(kept[:-judging] or kept), tuple(kept[-judging:]))
        learning = count - max(1, min(count // _JUDGING_PART, _JUDGES))
        learners, judges = _span(kept, 0, learning), _span(kept, learning, count)
        return cls(tuple(learners or judges), tuple(judges))

    def first(self, samples: int) -> list[Feed]:
        """As many of the learners' batches as hold so many samples."""
        kept: list[Feed] = []
        for feed in self.learners:
            if kept and sum(map(_size, kept)) >= samples:
                break
            kept.append(feed)
        return kept


def try_equalization(
    model: ir.Model,
    samples: Samples,
    options: Refinements,
    quantize: Callable[[ir.Model, Sequence[Feed]], Written],
) -> tuple[ir.Model, Trial | None]:
    """Equalize a float model, where its quantized form gains by that.

    Both forms are quantized on a few samples and get their biases corrected before they are
    compared: what equalization leaves to be corrected is no loss. A model whose weights lie on a
    grid already, trained so, is left alone.

    Args:
        model: The float32 model.
        samples: Calibration data.
        options: Whether to.
        quantize: Writes the quantized form of a float model from a few samples.

    Returns:
        The model to go on with, and what was tried; None where nothing was.
    """
    if options.equalize == "off" or not _can_be_walked(model) or weight_grids(model):
        return model, None
    key = hashlib.sha256(to_proto(model).SerializeToString(deterministic=True)).hexdigest()
    if key not in options._equalized:
        options._equalized[key] = _try_equalization(model, samples, options, quantize)
    return options._equalized[key]


def _try_equalization(
    model: ir.Model,
    samples: Samples,
    options: Refinements,
    quantize: Callable[[ir.Model, Sequence[Feed]], Written],
) -> tuple[ir.Model, Trial | None]:
    started = time.monotonic()
    few = samples.first(_TRIAL_SAMPLES)
    plain = quantize(model, few)  # first, since it refuses data and models that are no good
    candidate, count = equalize(model, few)
    if not count:
        return model, None
    ratios = []
    learners = affordable(plain.quantized, few) if options.bias_correction != "off" else few
    for written in (plain, quantize(candidate, few)):
        result = written.quantized
        if options.bias_correction != "off":
            result, _ = correct_biases(written.model, result, learners)
        ratios.append(_ratio(model, result, samples))
    return _judge(
        "equalize", f"{count} scales", model, candidate, ratios, options.equalize, started
    )


def refine(
    written: Written,
    samples: Samples,
    options: Refinements,
    progress: Progress | None = None,
) -> tuple[ir.Model, tuple[Trial, ...]]:
    """Correct biases and round adaptively, as far as asked for and as it helps.

    Args:
        written: The quantized model.
        samples: Calibration data.
        options: What to try.
        progress: Called with layers rounded and their total.

    Returns:
        The model to go on with, and what was tried.
    """
    model, quantized = written.model, written.quantized
    trials: list[Trial] = []
    wanted = options.bias_correction != "off" or options.rounding == "adaptive"
    if not wanted or not _can_be_walked(quantized):
        return quantized, ()
    learners = affordable(quantized, samples.learners)
    before, best = _ratio(model, quantized, samples), quantized
    if options.bias_correction != "off":
        started = time.monotonic()
        candidate, layers = correct_biases(model, quantized, learners)
        ratios = [before, _ratio(model, candidate, samples)]
        switch = options.bias_correction
        what = f"{layers} layers"
        best, trial = _judge("correct biases", what, best, candidate, ratios, switch, started)
        before = trial.after_db if trial.kept else before
        trials.append(trial)
    if options.rounding == "adaptive":
        started = time.monotonic()
        rounded = round_adaptively(
            model, quantized, learners, seconds=options.rounding_seconds, progress=progress
        )
        ratios = [before, _ratio(model, rounded.model, samples)]
        what = f"{rounded.layers} layers" + (
            f", {len(rounded.left)} left as they are" if rounded.left else ""
        )
        best, trial = _judge("round adaptively", what, best, rounded.model, ratios, "auto", started)
        trials.append(trial)
    return best, tuple(trials)


def _judge(
    step: str,
    what: str,
    old: ir.Model,
    new: ir.Model,
    ratios: Sequence[float | None],
    switch: Switch,
    started: float,
) -> tuple[ir.Model, Trial]:
    before, after = ratios
    better = _or_inf(after) > _or_inf(before)
    kept = better or switch == "on"
    trial = Trial(step, what, before, after, kept, time.monotonic() - started)
    return (new if kept else old), trial


def _ratio(model: ir.Model, quantized: ir.Model, samples: Samples) -> float | None:
    return agreement(model, quantized, samples.judges).snr_db


def _or_inf(ratio: float | None) -> float:
    return math.inf if ratio is None else ratio


def _can_be_walked(model: ir.Model) -> bool:
    """Whether all nodes stand in the graph itself."""
    return sum(1 for _ in nodes(model)) == len(model.graph)


def _size(feed: Feed) -> int:
    return len(next(iter(feed.values())))


def _small(feeds: Iterable[Feed]) -> Iterator[Feed]:
    """The same samples in batches of few."""
    for feed in feeds:
        for start in range(0, _size(feed), BATCH_SIZE):
            yield _cut(feed, start, start + BATCH_SIZE)


def _span(feeds: Iterable[Feed], start: int, end: int) -> list[Feed]:
    """The samples from `start` on and before `end`, batches cut where need be."""
    found: list[Feed] = []
    first = 0
    for feed in feeds:
        size = _size(feed)
        low, high = max(start - first, 0), min(end - first, size)
        if low < high:
            found.append(_cut(feed, low, high))
        first += size
    return found


def _cut(feed: Feed, start: int, end: int) -> Feed:
    return {name: array[start:end] for name, array in feed.items()}
