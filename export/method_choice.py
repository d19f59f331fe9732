"""Which calibration method suits a model: the one whose logits come closest to the float model's.

A model is quantized with the ranges of each method, before any refinement, and compared on samples
as the refinements are: by the signal-to-noise ratio of the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

import onnx_ir as ir

from edgekit.export.agreement import agreement
from edgekit.export.calibration import Feed
from edgekit.export.calibrators import Ranges
from edgekit.export.calibrators.cache import Finding
from edgekit.export.refinement import Trial
from edgekit.runtime.progress import Progress


@dataclass(frozen=True)
class MethodChoice:
    """A calibration method for a model.

    Attributes:
        method: Its name.
        trials: What was tried in its place before it, and after; none where there was no choice.
    """

    method: str
    trials: tuple[Trial, ...] = ()

    def to_finding(self) -> Finding:
        """For a calibration cache."""
        return {"method": self.method, "trials": [asdict(trial) for trial in self.trials]}

    @classmethod
    def of(cls, finding: Finding, methods: Sequence[str]) -> Self:
        """What a finding holds.

        Raises:
            KeyError, TypeError, ValueError: it is none of `to_finding`, or names another method.
        """
        if finding["method"] not in methods:
            raise ValueError(finding["method"])
        return cls(str(finding["method"]), tuple(map(Trial.of, finding["trials"])))


def choose_method(
    model: ir.Model,
    candidates: Mapping[str, Ranges],
    quantize: Callable[[Ranges], ir.Model],
    judges: Sequence[Feed],
    progress: Progress,
) -> MethodChoice:
    """Try the ranges of several methods; the first stays where no other does better.

    Args:
        model: The float32 model.
        candidates: The ranges that each method found.
        quantize: Writes the model's quantized form.
        judges: Calibration data to compare on.
        progress: Told of methods tried and their total.
    """
    (best, ranges), *others = candidates.items()
    best_db = agreement(model, quantize(ranges), judges).snr_db
    trials = []
    for done, (name, ranges) in enumerate(others, 1):
        progress(done, len(candidates))
        if ranges == candidates[best]:
            continue
        found_db = agreement(model, quantize(ranges), judges).snr_db
        trial = Trial.judged("method", f"{name}, not {best}", (best_db, found_db))
        trials.append(trial)
        if trial.kept:
            best, best_db = name, found_db
    progress(len(candidates), len(candidates))
    return MethodChoice(best, tuple(trials))
