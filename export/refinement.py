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

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import numpy as np
import onnx_ir as ir

from edgekit.export.agreement import agreement
from edgekit.export.calibration import BATCH_SIZE, Feed
from edgekit.export.calibrators.cache import Finding
from edgekit.export.constant_changes import constant_changes, from_text, to_text, with_changes
from edgekit.export.correct_biases import add_missing_biases, correct_biases
from edgekit.export.equalize import Scaling, find_scaling
from edgekit.export.graph import from_proto, nodes, to_proto
from edgekit.export.layerwise import affordable
from edgekit.export.rounding import DEFAULT_SECONDS, round_adaptively
from edgekit.export.weight_grid import weight_grids
from edgekit.runtime.progress import StageProgress, stage_of

Switch = Literal["auto", "on", "off"]
Rounding = Literal["nearest", "adaptive"]

_JUDGES = 128
_JUDGING_PART = 4  # one in so many batches
_LEARNERS = 512
# What equalization measures, and the trial that decides on it is calibrated on.
_TRIAL_SAMPLES = 128
_MOST_SCALES = 1 << 22  # in a calibration cache, which may be anyone's


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
    def after_writing(self) -> bool:
        """Whether anything is to be tried on the quantized model."""
        return (self.bias_correction, self.rounding) != ("off", "nearest")


@dataclass(frozen=True)
class Written:
    """A quantized model before its last steps, and the float model that its nodes are named after.

    Attributes:
        model: The float32 model, in the form that was quantized.
        quantized: With pairs of QuantizeLinear and DequantizeLinear, and thresholds in floats.
        apart: As in `SharedScales`.
    """

    model: ir.Model
    quantized: ir.Model
    apart: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One refinement that was tried.

    Attributes:
        step: Its name.
        what: How much it changed, in a few words.
        before_db: Signal-to-noise ratio of the logits without it; None where there is no noise.
        after_db: With it.
        kept: Whether the result has it.
    """

    step: str
    what: str
    before_db: float | None
    after_db: float | None
    kept: bool

    @classmethod
    def judged(
        cls, step: str, what: str, ratios: Sequence[float | None], switch: Switch = "auto"
    ) -> Self:
        """A trial that is kept where the second ratio is the better one, or where it must be."""
        before, after = ratios
        better = _or_inf(after) > _or_inf(before)
        return cls(step, what, before, after, better or switch == "on")

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """A trial from its fields.

        Raises:
            KeyError, TypeError, ValueError: they are none.
        """
        before, after = (
            None if entry[key] is None else float(entry[key]) for key in ("before_db", "after_db")
        )
        return cls(str(entry["step"]), str(entry["what"]), before, after, bool(entry["kept"]))

    def to_json(self) -> dict[str, Any]:
        """The trial for a model's metadata."""
        entry = asdict(self)
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


@dataclass(frozen=True)
class Equalization:
    """What trying to equalize a model came to.

    Attributes:
        scaling: What the model gains by; None where it is better off without.
        trials: What was tried; none where no channel can be scaled.
    """

    scaling: Scaling | None = None
    trials: tuple[Trial, ...] = ()

    def applied(self, model: ir.Model) -> tuple[ir.Model, tuple[Trial, ...]]:
        """The model to go on with, and what was tried.

        Raises:
            ValueError: this is of another model.
        """
        scaled = model if self.scaling is None else self.scaling.apply(model)
        return scaled, self.trials

    def to_finding(self) -> Finding:
        """For a calibration cache."""
        scaling = self.scaling
        return {
            "trials": [asdict(trial) for trial in self.trials],
            "scaling": None
            if scaling is None
            else {"scales": to_text(scaling.scales.tobytes()), "count": scaling.count},
        }

    @classmethod
    def of(cls, finding: Finding) -> Self:
        """What a finding holds.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: it is none of `to_finding`.
        """
        trials, scaling = finding["trials"], finding["scaling"]
        if scaling is not None:
            scales = np.frombuffer(from_text(scaling["scales"], _MOST_SCALES * 8), np.float64)
            scaling = Scaling(scales, int(scaling["count"]))
        return cls(scaling, tuple(map(Trial.of, trials)))


def try_equalization(
    model: ir.Model,
    samples: Samples,
    options: Refinements,
    quantize: Callable[[ir.Model, Sequence[Feed]], Written],
    progress: StageProgress,
) -> Equalization:
    """See whether the quantized form of a float model gains by equalization.

    Both forms are quantized on a few samples and get their biases corrected before they are
    compared: what equalization leaves to be corrected is no loss. A model whose weights lie on a
    grid already, trained so, is left alone.

    Args:
        model: The float32 model.
        samples: Calibration data.
        options: Whether to.
        quantize: Writes the quantized form of a float model from a few samples.
        progress: Told how far it is.
    """
    if options.equalize == "off" or not _can_be_walked(model) or weight_grids(model):
        return Equalization()
    few = samples.first(_TRIAL_SAMPLES)
    report, steps = stage_of(progress, "trying equalization"), 4
    plain = quantize(model, few)  # first, since it refuses data and models that are no good
    report(1, steps)
    scaling = find_scaling(model, few)
    if scaling is None:
        return Equalization()
    report(2, steps)
    ratios = []
    learners = affordable(plain.quantized, few) if options.bias_correction != "off" else few
    for written in (plain, quantize(scaling.apply(model), few)):
        result = written.quantized
        if options.bias_correction != "off":
            result, _ = correct_biases(written.model, result, learners)
        ratios.append(_ratio(model, result, samples))
        report(2 + len(ratios), steps)
    trial = Trial.judged("equalize", f"{scaling.count} scales", ratios, options.equalize)
    return Equalization(scaling if trial.kept else None, (trial,))


@dataclass(frozen=True)
class Refinement:
    """What refining a quantized model came to.

    Attributes:
        trials: What was tried.
        changes: Of the constants of the model, once its layers all have biases; see
            `constant_changes`. Empty where nothing helped.
    """

    trials: tuple[Trial, ...] = ()
    changes: Mapping[str, str] = field(default_factory=dict)

    def applied(self, quantized: ir.Model) -> tuple[ir.Model, tuple[Trial, ...]]:
        """The model to go on with, and what was tried.

        Raises:
            KeyError, ValueError: this is of another model.
        """
        if not self.changes:
            return quantized, self.trials
        return with_changes(_with_biases(quantized), self.changes), self.trials

    def to_finding(self) -> Finding:
        """For a calibration cache."""
        return {"trials": [asdict(trial) for trial in self.trials], "changes": dict(self.changes)}

    @classmethod
    def of(cls, finding: Finding) -> Self:
        """What a finding holds.

        Raises:
            KeyError, TypeError, ValueError: it is none of `to_finding`.
        """
        return cls(tuple(map(Trial.of, finding["trials"])), dict(finding["changes"]))


def refine(
    written: Written, samples: Samples, options: Refinements, progress: StageProgress
) -> Refinement:
    """Correct biases and round adaptively, as far as asked for and as it helps.

    Args:
        written: The quantized model.
        samples: Calibration data.
        options: What to try.
        progress: Told of layers done and their total.
    """
    model, quantized = written.model, written.quantized
    if not options.after_writing or not _can_be_walked(quantized):
        return Refinement()
    learners = affordable(quantized, samples.learners)
    before, best = _ratio(model, quantized, samples), quantized
    trials: list[Trial] = []

    def judge(step: str, what: str, candidate: ir.Model, switch: Switch = "auto") -> None:
        nonlocal before, best
        ratios = [before, _ratio(model, candidate, samples)]
        trial = Trial.judged(step, what, ratios, switch)
        trials.append(trial)
        if trial.kept:
            before, best = trial.after_db, candidate

    if options.bias_correction != "off":
        report = stage_of(progress, "correcting biases")
        candidate, layers = correct_biases(model, quantized, learners, report)
        judge("correct biases", f"{layers} layers", candidate, options.bias_correction)
    if options.rounding == "adaptive":
        report = stage_of(progress, "rounding adaptively")
        rounded = round_adaptively(
            model, quantized, learners, seconds=options.rounding_seconds, progress=report
        )
        left = f", {len(rounded.left)} left as they are" if rounded.left else ""
        judge("round adaptively", f"{rounded.layers} layers{left}", rounded.model)
    changes = {} if best is quantized else constant_changes(_with_biases(quantized), best)
    return Refinement(tuple(trials), changes)


def _with_biases(quantized: ir.Model) -> ir.Model:
    """A copy in which every layer has a bias, as the refinements make it."""
    result = from_proto(to_proto(quantized))
    add_missing_biases(result)
    return result


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
