"""Refinements of a quantized model, each kept only where it helps on samples it has not seen.

| step | what it does | module |
|---|---|---|
| equalize | scales channels of the float model | equalize.py |
| correct biases | takes mean errors out of biases | correct_biases.py |
| round adaptively | chooses weights' codes by layers' outputs | rounding.py |

What helps is told by the signal-to-noise ratio of the logits: the power of the float model's over
that of the difference. Some samples judge, and the refinements learn from others: see
refinement_samples.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import numpy as np
import onnx_ir as ir

from edgekit.export.agreement import agreement
from edgekit.export.calibration import Feed
from edgekit.export.calibrators.cache import Finding
from edgekit.export.constant_changes import constant_changes, from_text, to_text, with_changes
from edgekit.export.correct_biases import add_missing_biases, correct_biases
from edgekit.export.equalize import Scaling, find_scaling
from edgekit.export.graph import from_proto, nodes, to_proto
from edgekit.export.layerwise import affordable
from edgekit.export.refinement_samples import Samples
from edgekit.export.rounding import DEFAULT_SECONDS, round_adaptively
from edgekit.export.weight_grid import weight_grids
from edgekit.runtime.progress import StageProgress, stage_of

Switch = Literal["auto", "on", "off"]
Rounding = Literal["nearest", "adaptive"]

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
        left: Names of nodes that stay float32 for what they are, and why.
    """

    model: ir.Model
    quantized: ir.Model
    apart: Mapping[str, float] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)


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
        options: What to try.
        quantize: Writes the quantized form of a float model from a few samples.
        progress: Told how far it is.
    """
    if not _can_be_walked(model) or weight_grids(model):
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
    if not _can_be_walked(quantized):
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


def not_tried(model: ir.Model, options: Refinements, trials: Sequence[Trial]) -> tuple[str, ...]:
    """What was asked for and could not be tried, and why, one sentence each.

    Args:
        model: The float32 model that was to be refined.
        options: What was to be tried; what is "auto" may be left out without a word.
        trials: What was tried.
    """
    asked = {
        "equalize": ("--equalize on", options.equalize == "on"),
        "correct biases": ("--bias-correction on", options.bias_correction == "on"),
        "round adaptively": ("--rounding adaptive", options.rounding == "adaptive"),
    }
    tried = {trial.step for trial in trials}
    left = [flag for step, (flag, given) in asked.items() if given and step not in tried]
    return tuple(f"{flag} was not tried: {_why_not(model)}" for flag in left)


def _why_not(model: ir.Model) -> str:
    """Why a step was not tried; where all nodes can be walked, that is equalization alone."""
    if not _can_be_walked(model):
        return "the model has subgraphs"
    return "weights lie on a grid" if weight_grids(model) else "no channel can be scaled"


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
