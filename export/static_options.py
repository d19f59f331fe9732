"""What a static conversion may be told."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from edgekit.export.calibrators import Calibrator
from edgekit.export.refinement import Refinements
from edgekit.export.to_qdq import ActivationType, WeightType

Kernels = Literal["fast", "keep", "openvino"]
BatchNorm = Literal["threshold", "keep"]

DEFAULT_METHOD = "minmax"


@dataclass(frozen=True)
class StaticOptions:
    """How a static conversion goes about it.

    Attributes:
        method: How ranges are found: a key of `CALIBRATORS`, `AUTO`, or a calibrator at work.
        activations: Type of the codes of activations.
        weights: Type of the codes of weights.
        reduce_range: Whether weights keep to 7 bits, which no 16-bit accumulator overflows on.
        target: The processor that these were chosen for, for the record.
        exclude: Names of nodes that stay float32.
        wider: Names of nodes whose inputs and outputs get 16 bits, in a model of 8.
        kernels: "fast" stores zeros where onnxruntime has a faster kernel for it; "keep" does not;
            "openvino" quantizes what OpenVINO's kernels need quantized (openvino_form.py).
        batch_norm: "threshold" takes it out of an int8 model (thresholds.py), "keep" does not; nor
            does anything for OpenVINO's kernels.
        refinements: What to try for accuracy's sake.
    """

    method: str | Calibrator = DEFAULT_METHOD
    activations: ActivationType = "QUInt8"
    weights: WeightType = "QInt8"
    reduce_range: bool = False
    target: str | None = None
    exclude: Collection[str] = ()
    wider: Collection[str] = ()
    kernels: Kernels = "fast"
    batch_norm: BatchNorm = "threshold"
    refinements: Refinements = field(default_factory=Refinements)

    @property
    def takes_batch_norm_out(self) -> bool:
        """Whether batch norm becomes thresholds on codes."""
        return self.batch_norm == "threshold" and self.kernels != "openvino"

    @property
    def has_8_bits(self) -> bool:
        """Whether the codes of activations have 8 bits."""
        return self.activations in ("QUInt8", "QInt8")

    @property
    def used_kernels(self) -> Kernels:
        """Which kernels shapes are made for: onnxruntime has its fast ones for 8 bits alone."""
        return self.kernels if self.has_8_bits or self.kernels != "fast" else "keep"

    @property
    def code_settings(self) -> dict[str, Any]:
        """What the codes are like, as it is recorded."""
        processor = {} if self.target is None else {"target": self.target}
        return {
            **processor,
            "activations": self.activations,
            "weight_bits": 7 if self.reduce_range else 8,
        }
