"""What is read off one model file: identity and counts, as `bench` and `inspect` print them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgekit.bench.count import Counts, count
from edgekit.bench.scores import ScoreConventions, Scores, score
from edgekit.bench.shapes import Shape, opset_version
from edgekit.runtime.errors import CheckFailedError, naming
from edgekit.runtime.model_file import model_files, read_model


@dataclass(frozen=True)
class Figures:
    """Figures of one model file.

    Attributes:
        path: The file.
        sha256: Of the .onnx file, in hexadecimal.
        opset: Version of ONNX's own operator set.
        precision: See `precision.model_precision`.
        file_bytes: Size on disk, external data included.
        params: Elements of the tensors that hold learned values.
        nonzero: Those that are not zero.
        stored_bits: Bits of all stored values but shapes and axes.
        macs: Multiply-accumulates for one sample.
        effective_macs: Those with non-zero weights.
        uncounted_ops: Operators whose MACs are not known.
        peak_activation_bytes: In the best order found, see `activations`; None where a shape is
            not known.
        score: Both scores.
        file_order_bytes: Peak of the activations in the order of the file.
        lower_bound_bytes: Bytes of activations that no order can do without.
        arena_bytes: What onnxruntime's arena took, see `arena`; None where that was not measured.
        conventions: What the scores leave open.
    """

    path: str
    sha256: str
    opset: int
    precision: str
    file_bytes: int
    params: int
    nonzero: int
    stored_bits: int
    macs: int
    effective_macs: int
    uncounted_ops: tuple[str, ...]
    peak_activation_bytes: int | None
    score: Scores
    file_order_bytes: int | None = None
    lower_bound_bytes: int | None = None
    arena_bytes: int | None = None
    conventions: ScoreConventions = field(default_factory=ScoreConventions)

    def identity_json(self) -> dict[str, Any]:
        """The keys that name the file."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "opset": self.opset,
            "precision": self.precision,
            "file_bytes": self.file_bytes,
        }

    def counts_json(self) -> dict[str, Any]:
        """The keys `params`, `macs` and `activations`."""
        return {
            "params": {
                "total": self.params,
                "nonzero": self.nonzero,
                "stored_bits": self.stored_bits,
            },
            "macs": {
                "dense": self.macs,
                "effective": self.effective_macs,
                "uncounted_ops": list(self.uncounted_ops),
            },
            "activations": {
                "peak_bytes": self.peak_activation_bytes,
                "file_order_bytes": self.file_order_bytes,
                "lower_bound_bytes": self.lower_bound_bytes,
                "arena_bytes": self.arena_bytes,
            },
        }

    def score_json(self) -> dict[str, float]:
        """The value of the key `score`."""
        return {"imt": self.score.imt, "micronet2019": self.score.micronet2019}


def read_figures(
    path: Path,
    model: ir.Model,
    input_shapes: Mapping[str, Shape] | None = None,
    conventions: ScoreConventions | None = None,
) -> tuple[Figures, Counts]:
    """Count a model that was loaded from a file.

    Raises:
        ModelFileError: the file is damaged, or an operator's shapes cannot be inferred.
    """
    with naming(path):
        counts = count(model, input_shapes)
    peak = counts.activations
    figures = Figures(
        path=str(path),
        sha256=file_sha256(path),
        opset=opset_version(model),
        precision=counts.precision,
        file_bytes=sum(part.stat().st_size for part in model_files(read_model(path), path)),
        params=counts.params,
        nonzero=counts.nonzero,
        stored_bits=counts.stored_bits,
        macs=counts.macs,
        effective_macs=counts.effective_macs,
        uncounted_ops=counts.uncounted_ops,
        peak_activation_bytes=counts.peak_activation_bytes,
        score=score(counts, conventions),
        file_order_bytes=peak.file_order if peak else None,
        lower_bound_bytes=peak.lower_bound if peak else None,
        conventions=conventions or ScoreConventions(),
    )
    return figures, counts


def check_counted(figures: Iterable[Figures]) -> None:
    """Fail where a model has operators whose MACs are not counted.

    Raises:
        CheckFailedError: one has; the message names them.
    """
    for model in figures:
        if model.uncounted_ops:
            raise CheckFailedError(
                f"{model.path}: no rule counts the MACs of {', '.join(model.uncounted_ops)}; its "
                "totals lack them (leave out --strict to have them all the same)"
            )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
