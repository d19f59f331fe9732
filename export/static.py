"""Static quantization, stage by stage; each stage is a module of its own.

| stage | what it does | module |
|---|---|---|
| equalize | channels of one tensor reach equally far | refinement.py |
| calibrate | the range of each tensor, from real data | calibrators/ |
| write | pairs of QuantizeLinear and DequantizeLinear | to_qdq.py |
| refine | biases corrected, weights rounded by what layers give | refinement.py |

`to_static` runs them in order. What each of them may be told is a field of `StaticOptions`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import onnx_ir as ir

from edgekit.export.calibration import CalibrationReader, Feed, has_fixed_batch
from edgekit.export.calibrators import Calibrator, Ranges, calibrator
from edgekit.export.gate_codes import put_gates_on_codes, reach_gates
from edgekit.export.graph import digest, from_proto, to_proto
from edgekit.export.image_channels import fit_image_channels
from edgekit.export.kernel_shapes import fit_kernels
from edgekit.export.openvino_form import (
    OPENVINO_OPS,
    leave_others_float,
    signed_tensors,
    unweighted_concats,
)
from edgekit.export.refinement import (
    Equalization,
    Refinement,
    Refinements,
    Trial,
    Written,
    refine,
    try_equalization,
)
from edgekit.export.refinement_samples import Samples
from edgekit.export.shared_scales import LARGEST_RATIO, keep_clips, share_scales
from edgekit.export.threshold_codes import put_thresholds_on_codes
from edgekit.export.to_qdq import QDQ_OPS, ActivationType, WeightType, raise_opset, to_qdq
from edgekit.export.uint8_input import give_codes, pixel_ranges
from edgekit.export.wider_channels import widen_channels
from edgekit.runtime.progress import StageProgress, silent, stage_of

Kernels = Literal["fast", "keep", "openvino"]
BatchNorm = Literal["threshold", "keep"]

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
        reference: The float32 model whose tensors its codes stand for: the one given, or that one
            equalized.
        settings: Every setting that was used.
        notes: What else the user should know, one sentence each.
    """

    model: ir.Model
    reference: ir.Model
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def to_static(
    model: ir.Model,
    reader: CalibrationReader,
    options: StaticOptions,
    progress: StageProgress = silent,
) -> Static:
    """Quantize a model from calibration data.

    Args:
        model: A float32 model, its nodes named; it is not changed.
        reader: Calibration data.
        options: What each stage is told.
        progress: Told how far it is; stages are "trying equalization", "calibrating", "correcting
            biases" and "rounding adaptively".

    Raises:
        DataError: the calibration data is unusable, or does not fit the model.
        ModelFileError: the model cannot be quantized.
        InputError: there is no such method.
    """
    levels = 1 << 16 if options.activations == "QUInt16" else 256
    method = calibrator(options.method, levels=levels)
    model = raise_opset(model, "QUInt16" if options.wider else options.activations)
    job = _Job(model, reader, options, method, levels, progress)
    model, tried = job.equalized()
    # Found once, whatever is excluded.
    ranges = method.ranges(model, reader, QDQ_OPS, stage_of(progress, "calibrating"))
    written = _write(model, ranges, options)
    quantized, more = job.refined(written)
    _finish(quantized, options)
    settings = {**reader.settings, "method": method.name, **method.settings}
    settings["kernels"] = options.used_kernels
    settings |= options.refinements.settings
    if trials := (*tried, *more):
        settings["refinements"] = [trial.to_json() for trial in trials]
    return Static(quantized, model, settings, _notes(written.apart))


@dataclass(frozen=True)
class _Job:
    """What the refinements of a model depend on; what they find goes into the method's cache."""

    model: ir.Model
    reader: CalibrationReader
    options: StaticOptions
    method: Calibrator
    levels: int
    progress: StageProgress

    @cached_property
    def samples(self) -> Samples:
        return Samples.of(self.reader, whole=has_fixed_batch(self.model))

    def equalized(self) -> tuple[ir.Model, tuple[Trial, ...]]:
        """The float model to quantize, and what was tried."""
        tried = self.options.refinements
        if tried.equalize == "off":
            return self.model, ()
        key = digest(self.model, *self._trial_settings())
        return self.method.cache.recall(
            key,
            lambda: try_equalization(
                self.model, self.samples, tried, self._quick, self.progress
            ).to_finding(),
            lambda finding: Equalization.of(finding).applied(self.model),
        )

    def refined(self, written: Written) -> tuple[ir.Model, tuple[Trial, ...]]:
        """The quantized model to go on with, and what was tried."""
        tried = self.options.refinements
        if not tried.after_writing:
            return written.quantized, ()
        # Equalization has its part in the models.
        settings = (f"{k}={v}" for k, v in tried.settings.items() if k != "equalize")
        key = digest(written.quantized, digest(written.model), *settings)
        return self.method.cache.recall(
            key,
            lambda: refine(written, self.samples, tried, self.progress).to_finding(),
            lambda finding: Refinement.of(finding).applied(written.quantized),
        )

    def _quick(self, form: ir.Model, feeds: Sequence[Feed]) -> Written:
        """A quantized form that tells whether equalization helps, from a few samples."""
        plain = replace(self.options, exclude=(), wider=())
        few = CalibrationReader.from_feeds(feeds)
        ranges = calibrator(DEFAULT_METHOD, levels=self.levels).ranges(form, few, QDQ_OPS)
        return _write(form, ranges, plain)

    def _trial_settings(self) -> tuple[str, ...]:
        options, tried = self.options, self.options.refinements
        codes = (options.activations, options.weights, options.reduce_range, options.used_kernels)
        return tuple(map(str, ("equalize", tried.equalize, tried.bias_correction, *codes)))


@dataclass(frozen=True)
class _Codes:
    """What quantizers are put where.

    Attributes:
        ranges: Lowest and highest value of each tensor.
        apart: Inputs of a Concat with a scale of their own, see shared_scales.py.
        operators: What reads and writes codes.
        signed: Names of tensors whose codes are signed.
    """

    ranges: Ranges
    apart: Mapping[str, float]
    operators: Sequence[str]
    signed: Collection[str] = ()


def _write(model: ir.Model, ranges: Ranges, options: StaticOptions) -> Written:
    """Put quantizers into a float model."""
    model = from_proto(to_proto(model))
    if options.used_kernels == "fast":
        fit_kernels(model, options.exclude)
        widen_channels(model, options.exclude)
    ranges = ranges | pixel_ranges(model)
    for_openvino = options.kernels == "openvino"
    codes = (_for_openvino if for_openvino else _for_onnxruntime)(model, ranges, options)
    quantized = to_qdq(
        model,
        codes.ranges,
        options.activations,
        options.exclude,
        weights=options.weights,
        reduce_range=options.reduce_range,
        wider=options.wider,
        signed=codes.signed,
        operators=codes.operators,
        every_max_pool=for_openvino,
    )
    if for_openvino:
        leave_others_float(quantized)
    give_codes(quantized)
    return Written(model, quantized, codes.apart)


def _for_onnxruntime(model: ir.Model, ranges: Ranges, options: StaticOptions) -> _Codes:
    reached = reach_gates(model, ranges) if options.has_8_bits else ranges
    shared = share_scales(model, reached, options.exclude)
    return _Codes(keep_clips(model, ranges, shared.ranges), shared.apart, QDQ_OPS)


def _for_openvino(model: ir.Model, ranges: Ranges, options: StaticOptions) -> _Codes:
    shared = share_scales(model, ranges, {*options.exclude, *unweighted_concats(model)})
    signed = signed_tensors(model, shared.ranges) if options.has_8_bits else ()
    return _Codes(shared.ranges, shared.apart, OPENVINO_OPS, signed)


def _finish(quantized: ir.Model, options: StaticOptions) -> None:
    """Rewrite in place what is exact on codes, or within what rounding the codes costs."""
    if options.kernels != "openvino":
        put_thresholds_on_codes(quantized)
        put_gates_on_codes(quantized)
    if options.used_kernels == "fast" and options.target != "arm64":
        fit_image_channels(quantized, outputs=8 if options.target == "avx2" else 4)


def _notes(apart: Mapping[str, float]) -> tuple[str, ...]:
    """What is requantized on the way, and why."""
    if not apart:
        return ()
    inputs = ", ".join(f"{name} ({ratio:.3g} times)" for name, ratio in apart.items())
    return (
        f"inputs of a Concat that are over {LARGEST_RATIO:g} times narrower than what they meet "
        f"there keep a scale of their own, and are requantized: {inputs}",
    )
