"""Static quantization, stage by stage; each stage is a module of its own.

| stage | what it does | module |
|---|---|---|
| calibrate | the range of each tensor, from real data | calibrators/ |
| write | pairs of QuantizeLinear and DequantizeLinear | to_qdq.py |

`to_static` runs them in order. What each of them may be told is a field of `StaticOptions`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import onnx_ir as ir

from edgekit.export.calibration import CalibrationReader
from edgekit.export.calibrators import Calibrator, Progress, calibrator
from edgekit.export.graph import from_proto, to_proto
from edgekit.export.kernel_shapes import fit_kernels
from edgekit.export.shared_scales import keep_clips, share_scales
from edgekit.export.threshold_codes import put_thresholds_on_codes
from edgekit.export.to_qdq import QDQ_OPS, ActivationType, WeightType, raise_opset, to_qdq
from edgekit.export.wider_channels import widen_channels

Kernels = Literal["fast", "keep"]

DEFAULT_METHOD = "minmax"


@dataclass(frozen=True)
class StaticOptions:
    """How a static conversion goes about it.

    Attributes:
        method: How ranges are found: a key of `CALIBRATORS`, or a calibrator at work.
        activations: Type of the codes of activations.
        weights: Type of the codes of weights.
        reduce_range: Whether weights keep to 7 bits, which no 16-bit accumulator overflows on.
        target: The processor that these were chosen for, for the record.
        exclude: Names of nodes that stay float32.
        wider: Names of nodes whose inputs and outputs get 16 bits, in a model of 8.
        kernels: "fast" stores zeros where onnxruntime has a faster kernel for it; "keep" does not.
    """

    method: str | Calibrator = DEFAULT_METHOD
    activations: ActivationType = "QUInt8"
    weights: WeightType = "QInt8"
    reduce_range: bool = False
    target: str | None = None
    exclude: Collection[str] = ()
    wider: Collection[str] = ()
    kernels: Kernels = "fast"

    @property
    def code_settings(self) -> dict[str, Any]:
        """What the codes are like, as it is recorded."""
        return {
            "target": self.target,
            "activations": self.activations,
            "weight_bits": 7 if self.reduce_range else 8,
        }


@dataclass(frozen=True)
class Static:
    """A quantized model.

    Attributes:
        model: The model.
        settings: Every setting that was used.
        notes: What else the user should know, one sentence each.
    """

    model: ir.Model
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def to_static(
    model: ir.Model,
    reader: CalibrationReader,
    options: StaticOptions,
    progress: Progress | None = None,
) -> Static:
    """Quantize a model from calibration data.

    Args:
        model: A float32 model, its nodes named; it is not changed.
        reader: Calibration data.
        options: What each stage is told.
        progress: Called with calibration batches done and their total.

    Raises:
        DataError: the calibration data is unusable, or does not fit the model.
        ModelFileError: the model cannot be quantized.
        InputError: there is no such method.
    """
    levels = 1 << 16 if options.activations == "QUInt16" else 256
    method = calibrator(options.method, levels=levels)
    model = raise_opset(model, "QUInt16" if options.wider else options.activations)
    model = from_proto(to_proto(model))
    ranges = method.ranges(model, reader, QDQ_OPS, progress)  # found once, whatever is excluded
    if options.kernels == "fast":
        fit_kernels(model, options.exclude)
        widen_channels(model, options.exclude)
    shared = share_scales(model, ranges, options.exclude)
    ranges = keep_clips(model, ranges, shared.ranges)
    quantized = to_qdq(
        model,
        ranges,
        options.activations,
        options.exclude,
        weights=options.weights,
        reduce_range=options.reduce_range,
        wider=options.wider,
    )
    put_thresholds_on_codes(quantized)
    settings = {**reader.settings, "method": method.name, **method.settings}
    return Static(quantized, settings)
