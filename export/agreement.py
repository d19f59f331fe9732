"""How closely a converted model follows the one that it was made from, without any labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from edgekit.export.calibration import Feed
from edgekit.export.graph import session_source
from edgekit.runtime.errors import DataError, ModelFileError
from edgekit.runtime.session import open_session


@dataclass(frozen=True)
class Agreement:
    """Two models on the same samples.

    Attributes:
        samples: How many.
        held_out: Whether calibration saw none of them.
        top1: Share of the samples that both give the same class, 0 to 1.
        snr_db: Power of the first model's outputs over that of the difference, in decibels; None
            where there is no difference.
    """

    samples: int
    held_out: bool
    top1: float
    snr_db: float | None

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> Self:
        """An agreement from its fields.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: they are none.
        """
        snr_db = figures["snr_db"]
        return cls(
            int(figures["samples"]),
            bool(figures["held_out"]),
            float(figures["top1"]),
            None if snr_db is None else float(snr_db),
        )

    def __str__(self) -> str:
        samples = "held-out images" if self.held_out else "calibration images, as none are left"
        noise = "no difference" if self.snr_db is None else f"logits {self.snr_db:.1f} dB"
        return f"{self.top1:.2%} to the same class, {noise}, on {self.samples} {samples}"


def agreement(
    before: ir.Model, after: ir.Model, feeds: Iterable[Feed], *, held_out: bool = True
) -> Agreement:
    """Run two models on the same batches and compare their first outputs.

    Args:
        before: The reference.
        after: What became of it, with the same inputs.
        feeds: Batches that both take.
        held_out: Whether calibration saw none of the samples; for the record.

    Raises:
        DataError: there are no samples.
        ModelFileError: a model cannot be run, or its outputs are not finite, or not one row a
            sample.
    """
    samples = equal = 0
    signal = noise = 0.0
    with session_source(before) as first, session_source(after) as second:
        sessions = [open_session(source) for source in (first, second)]
    for feed in feeds:
        expected, found = (_logits(session, feed) for session in sessions)
        samples += len(expected)
        equal += int((expected.argmax(axis=1) == found.argmax(axis=1)).sum())
        signal += float((expected**2).sum())
        noise += float(((found - expected) ** 2).sum())
    if not samples:
        raise DataError("there is no sample to compare the models on")
    snr_db = 10 * math.log10(signal / noise) if noise and signal else None
    return Agreement(samples, held_out, equal / samples, snr_db)


def _logits(session: ort.InferenceSession, feed: Feed) -> NDArray[np.float64]:
    try:
        output: Any = session.run([session.get_outputs()[0].name], dict(feed))[0]
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ModelFileError(f"the model cannot be run: {' '.join(str(error).split())}") from error
    samples = len(next(iter(feed.values())))
    if not isinstance(output, np.ndarray) or output.shape[:1] != (samples,):
        raise ModelFileError("the model's first output is not one row a sample; not a classifier")
    rows = np.asarray(output, np.float64).reshape(len(output), -1)
    if not np.isfinite(rows).all():
        raise ModelFileError("the model's outputs are not finite on calibration data")
    return rows
