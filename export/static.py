"""Static quantization, stage by stage; each stage is a module of its own.

| stage | what it does | module |
|---|---|---|
| equalize | channels of one tensor reach equally far | refinement.py |
| calibrate | the range of each tensor, from real data | calibrators/ |
| choose | where several methods are tried, the best | method_choice.py |
| write | pairs of QuantizeLinear and DequantizeLinear | to_qdq.py |
| refine | biases corrected, weights rounded by what layers give | refinement.py |

`to_static` runs them in order. What each of them may be told is a field of `StaticOptions`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import onnx_ir as ir

from edgekit.export.calibration import CalibrationReader, Feed, has_fixed_batch
from edgekit.export.calibrators import Calibrator, Ranges, calibrator
from edgekit.export.gate_codes import put_gates_on_codes, reach_gates
from edgekit.export.graph import digest, from_proto, to_proto
from edgekit.export.image_channels import fit_image_channels
from edgekit.export.keep_float import keep_float
from edgekit.export.kernel_shapes import fit_kernels
from edgekit.export.method_choice import MethodChoice, choose_method
from edgekit.export.openvino_form import (
    OPENVINO_OPS,
    leave_others_float,
    signed_tensors,
    unweighted_concats,
)
from edgekit.export.own_constants import give_own_constants
from edgekit.export.refinement import (
    Equalization,
    Refinement,
    Trial,
    Written,
    not_tried,
    refine,
    try_equalization,
)
from edgekit.export.refinement_samples import Samples
from edgekit.export.shared_scales import LARGEST_RATIO, keep_clips, share_scales
from edgekit.export.static_options import DEFAULT_METHOD, StaticOptions
from edgekit.export.threshold_codes import put_thresholds_on_codes
from edgekit.export.to_qdq import QDQ_OPS, raise_opset, to_qdq
from edgekit.export.uint8_input import give_codes, pixel_ranges
from edgekit.export.unquantizable import unquantizable
from edgekit.export.wider_channels import widen_channels
from edgekit.runtime.progress import StageProgress, silent, stage_of


@dataclass(frozen=True)
class Static:
    """A quantized model.

    Attributes:
        model: The model.
        reference: The float32 model whose tensors its codes stand for: the one given, or that one
            equalized.
        settings: Every setting that was used.
        notes: What else the user should know, one sentence each.
        left: Names of nodes that stay float32 for what they are, and why.
    """

    model: ir.Model
    reference: ir.Model
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)


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
        progress: Told how far it is; stages are "trying equalization", "calibrating", "choosing a
            method", "correcting biases" and "rounding adaptively".

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
    candidates = method.candidates(model, reader, QDQ_OPS, stage_of(progress, "calibrating"))
    chosen = job.chosen(model, candidates)
    written = _write(model, candidates[chosen.method], options)
    quantized, more = job.refined(written)
    _finish(quantized, options)
    settings = {
        **reader.settings,
        "method": chosen.method,
        **method.settings_of(chosen.method),
    }
    settings["kernels"] = options.used_kernels
    settings |= options.refinements.settings
    if trials := (*tried, *chosen.trials, *more):
        settings["refinements"] = [trial.to_json() for trial in trials]
    notes = (*not_tried(job.model, options.refinements, trials), *_notes(written.apart))
    return Static(quantized, model, settings, notes, written.left)


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

    def chosen(self, model: ir.Model, candidates: Mapping[str, Ranges]) -> MethodChoice:
        """Which method's ranges to use, whatever is excluded."""
        if len(candidates) == 1:
            return MethodChoice(next(iter(candidates)))
        plain = replace(self.options, exclude=(), wider=())
        return self.method.cache.recall(
            digest(model, "method", *self._codes()),
            lambda: choose_method(
                model,
                candidates,
                lambda ranges: _write(model, ranges, plain).quantized,
                self.samples.judges,
                stage_of(self.progress, "choosing a method"),
            ).to_finding(),
            lambda finding: MethodChoice.of(finding, tuple(candidates)),
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
        tried = self.options.refinements
        return ("equalize", tried.equalize, tried.bias_correction, *self._codes())

    def _codes(self) -> tuple[str, ...]:
        o = self.options
        return tuple(map(str, (o.activations, o.weights, o.reduce_range, o.used_kernels)))


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
    left = unquantizable(model, ranges, has_8_bits=options.has_8_bits)
    options = replace(options, exclude={*options.exclude, *left})
    if options.used_kernels == "fast":
        fit_kernels(model, options.exclude)
        widen_channels(model, options.exclude)
    give_own_constants(model, options.exclude)
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
    keep_float(quantized, left)
    give_codes(quantized)
    return Written(model, quantized, codes.apart, left)


def _for_onnxruntime(model: ir.Model, ranges: Ranges, options: StaticOptions) -> _Codes:
    reached = reach_gates(model, ranges, options.exclude) if options.has_8_bits else ranges
    shared = share_scales(model, reached, options.exclude)
    return _Codes(keep_clips(model, shared.ranges, options.exclude), shared.apart, QDQ_OPS)


def _for_openvino(model: ir.Model, ranges: Ranges, options: StaticOptions) -> _Codes:
    shared = share_scales(model, ranges, {*options.exclude, *unweighted_concats(model)})
    signed = signed_tensors(model, shared.ranges) if options.has_8_bits else ()
    return _Codes(shared.ranges, shared.apart, OPENVINO_OPS, signed)


def _finish(quantized: ir.Model, options: StaticOptions) -> None:
    """Rewrite in place what is exact on codes, or within what rounding the codes costs."""
    if options.kernels != "openvino":
        put_thresholds_on_codes(quantized)
        put_gates_on_codes(quantized, options.exclude)
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
