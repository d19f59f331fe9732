"""`edgekit quantize`: from a float32 file to a smaller precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from edgekit import console
from edgekit.commands.accuracy_drop import AccuracyDrop, DropLimit, DropMeter
from edgekit.commands.calibrating import (
    CacheUse,
    Calibration,
    CalibrationRun,
    check_method,
    digested,
)
from edgekit.commands.calibration_report import report_calibration
from edgekit.commands.images import AS_STORED, Normalization, spread
from edgekit.commands.max_drop import (
    CODED,
    SENSITIVITY_IMAGES,
    KeptLayers,
    Search,
    best_path,
    check_search,
)
from edgekit.commands.packing import Packing
from edgekit.commands.quantize_files import check_files
from edgekit.commands.target import TargetChoice
from edgekit.export import quantize as export
from edgekit.export.agreement import Agreement
from edgekit.export.calibration import CalibrationReader
from edgekit.export.calibrators import Calibrator, calibrator
from edgekit.export.graph import load_graph, model_preprocessing, save_graph, set_metadata
from edgekit.export.pack import PackReport, check_unpacked
from edgekit.export.precisions import PRECISIONS
from edgekit.export.quantize_report import QuantizeReport
from edgekit.export.refinement import Refinements
from edgekit.export.sensitivity import Layer, layers
from edgekit.export.static_options import DEFAULT_METHOD, BatchNorm, Kernels, StaticOptions
from edgekit.export.uint8_input import take_pixels
from edgekit.runtime.errors import AccuracyError, InputError
from edgekit.runtime.model_file import disk_bytes
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.runtime.progress import StageProgress, silent

THIS_MACHINE = TargetChoice()


@dataclass(frozen=True)
class QuantizeResult:
    """A converted model.

    Attributes:
        output: The file that was written; where accuracy dropped too far, the best one aside.
        report: What became of each node.
        drop: What it cost; None where no limit was given.
        bytes_before: Size of the input on disk, external data included.
        bytes_after: Size of the output, likewise.
        packing: How tensors were packed; None where that was not asked for.
        kept_layers: How the search for layers to spare ended; None where there was none.
        agreement: How closely it follows the float model; None where nothing was calibrated.
        calibration_cache: What became of the file that keeps ranges; None where there is none.
        warnings: What makes the calibration or its evaluation doubtful, one sentence each.
        normalization: Mean and deviation that were given in place of the model's.
    """

    output: Path
    report: QuantizeReport
    drop: AccuracyDrop | None
    bytes_before: int
    bytes_after: int
    packing: PackReport | None = None
    kept_layers: KeptLayers | None = None
    agreement: Agreement | None = None
    calibration_cache: CacheUse | None = None
    warnings: tuple[str, ...] = ()
    normalization: Normalization = AS_STORED

    def check(self) -> None:
        """Fail where no layers were found whose keeping makes the model good enough.

        Raises:
            AccuracyError: the file that was asked for is not written.
        """
        kept = self.kept_layers
        if kept is None or kept.met or self.drop is None:
            return
        after = f" after {kept.seconds:.0f} s" if kept.timed_out else ""
        raise AccuracyError(
            f"top-1 dropped {self.drop}, more than --max-drop {kept.limit:g}{after}: the best "
            f"file found is {self.output}; try --method auto, or more --samples"
        )


@dataclass(frozen=True)
class _Conversion:
    """A converted model on its way to the file."""

    model: ir.Model
    result: export.QuantizeResult
    packed: PackReport | None = None


@dataclass(frozen=True)
class _Converter:
    """Everything that a conversion depends on but for what it leaves out.

    `stored` is the preprocessing that the result is to carry in place of the model's.
    """

    model: ir.Model
    precision: str
    reader: CalibrationReader | None
    method: Calibrator
    fallback: str
    keep_io: bool
    static: StaticOptions
    stored: Preprocessing | None
    packing: Packing | None

    def __call__(self, exclude: str | None, progress: StageProgress = silent) -> _Conversion:
        result = export.quantize(
            self.model,
            self.precision,
            reader=self.reader,
            method=self.method,
            exclude=exclude,
            fallback=self.fallback,
            keep_io=self.keep_io,
            static=self.static,
            progress=progress,
        )
        if self.stored is not None:
            set_metadata(result.model, self.stored.to_metadata())
        if self.packing is None:
            return _Conversion(result.model, result)
        packed, report = self.packing.apply(result.model)
        return _Conversion(packed, result, report)

    def quick(self, exclude: str | None) -> ir.Model:
        """The same without what makes it smaller or more exact at some length."""
        plain = replace(self.static.refinements, bias_correction="off", rounding="nearest")
        static = replace(self.static, refinements=plain)
        return replace(self, static=static, packing=None)(exclude).model


def quantize_file(
    path: Path,
    output: Path,
    *,
    precision: str = "int8",
    calibration: Calibration | None = None,
    exclude: str | None = None,
    fallback: str = "float",
    keep_io: bool | None = None,
    max_drop: DropLimit | None = None,
    normalization: Normalization = AS_STORED,
    packing: Packing | None = None,
    calibration_report: Path | None = None,
    target: TargetChoice = THIS_MACHINE,
    uint8_input: bool = False,
    kernels: Kernels | None = None,
    batch_norm: BatchNorm | None = None,
    refinements: Refinements | None = None,
    force: bool = False,
) -> QuantizeResult:
    """Convert a model file to a smaller precision.

    Args:
        path: The float32 model.
        output: The file to write.
        precision: A key of export.precisions.PRECISIONS.
        calibration: Images for the precisions that need them.
        exclude: Regular expression for the names of nodes that stay float32.
        fallback: What these are kept in, and those that `max_drop` spares: one of
            export.quantize.FALLBACKS.
        keep_io: For fp16: leave the model's input and output float32; None for yes.
        max_drop: Accuracy that may be lost; without it none is measured. Where a precision of
            codes loses more, layers are looked for to spare; where none do, the best file that was
            found is written to `max_drop.best_path(output)` instead of `output`.
        normalization: Mean and deviation in place of the model's.
        packing: Store the tensors packed; the accuracy that a codebook costs counts as lost.
        calibration_report: A file for the distribution and the range of each quantized tensor.
        target: The processor to write an int8 model for.
        uint8_input: Let the model take pixels, uint8 [N, height, width, channels].
        kernels: For int8: as in StaticOptions; None for the default.
        batch_norm: Likewise.
        refinements: For static ones: what to try so that less accuracy is lost; None for the
            defaults.
        force: Replace an existing output.

    Raises:
        EdgekitError: a file or the data cannot be used; AccuracyError if too much accuracy is
            lost and no layer can be spared, in which case nothing is written.
    """
    target.check(precision)
    int8_only = {"--kernels": kernels, "--batch-norm": batch_norm, "--uint8-input": uint8_input}
    _check_meant(precision, "int8", int8_only)
    _check_meant(precision, "fp16", {"--keep-io": keep_io, "--half-io": keep_io is False})
    _check_batch_norm(kernels, batch_norm)
    check_method(calibration, precision)
    check_search(max_drop, precision)
    refinements = _refinements(refinements, precision)
    check_files(
        path,
        output,
        precision,
        calibration=calibration,
        max_drop=max_drop,
        calibration_report=calibration_report,
        force=force,
    )
    model = load_graph(path)
    check_unpacked(model)
    given, by_hand = normalization, normalization != AS_STORED
    if uint8_input:
        model, by_hand = take_pixels(model, normalization.of(model)), False
        normalization = AS_STORED
    preprocessing = normalization.of(model) if calibration or max_drop or by_hand else None
    run = held_out = None
    if preprocessing and calibration:
        run = CalibrationRun.open(calibration, precision, model, preprocessing, force=force)
        held_out = run.left_over
    if preprocessing and max_drop and max_drop.data:
        held_out = digested(max_drop.data.load("test", preprocessing))
    if max_drop and held_out is None:
        raise InputError("--max-drop has no images to measure on; name some with --eval")
    static = target.tune(
        StaticOptions(
            kernels=kernels or StaticOptions.kernels,
            batch_norm=batch_norm or StaticOptions.batch_norm,
            refinements=refinements,
        ),
        precision,
    )
    reader = run.reader if run else None
    # One calibrator for all conversions: it finds the ranges of a model once.
    method = run.method if run else calibrator(DEFAULT_METHOD)
    noted = preprocessing if by_hand or model_preprocessing(model) is None else None
    convert = _Converter(
        model, precision, reader, method, fallback, keep_io is not False, static, noted, packing
    )
    with console.stages() as advance:
        done = convert(exclude, advance)
    drop = kept = None
    if preprocessing and max_drop and held_out:
        # A dynamic model takes its ranges from the whole batch; a device gives it one image.
        at_once = 1 if precision == "dynamic-int8" else None
        meter = DropMeter(model, preprocessing, held_out, at_once)
        drop = meter.drop(done.model)
        if drop.points > max_drop.points:
            samples = preprocessing(spread(run.images if run else held_out, SENSITIVITY_IMAGES))
            parts = _layers(done.result, drop, max_drop, output)
            names = (precision, fallback)
            search = Search(
                model, parts, convert, convert.quick, meter, max_drop, samples, exclude, names
            )
            found = search.run(done, drop)
            done, drop, kept = found.conversion, found.drop, found.kept
            output = output if kept.met else best_path(output)
    for warning in target.warnings(done.result.model, output):
        console.say(f"warning: {warning}")
    if not done.result.report.converted:
        why = "see what --exclude matches" if exclude else "see why under left in float32"
        console.say(f"warning: no node was converted to {precision}: {why}")
    warnings = run.warn(held_out) if run else ()
    agreement = run.agreement(model, done.model, preprocessing) if run and preprocessing else None
    save_graph(done.model, output)
    cache = run.save_cache() if run else None
    if calibration_report is not None and reader is not None:
        report_calibration(calibration_report, done.result, reader, output)
    sizes = disk_bytes(path), disk_bytes(output)
    return QuantizeResult(
        output,
        done.result.report,
        drop,
        *sizes,
        done.packed,
        kept,
        agreement,
        cache,
        warnings,
        given,
    )


def _refinements(given: Refinements | None, precision: str) -> Refinements:
    """What to try.

    Raises:
        InputError: something else than by default is asked for, and nothing is calibrated.
    """
    chosen = Refinements() if given is None else given
    entry = PRECISIONS.get(precision)
    if chosen != Refinements() and entry is not None and not entry.calibrated:
        names = " and ".join(n for n, one in PRECISIONS.items() if one.calibrated)
        raise InputError(
            f"--equalize, --bias-correction and --rounding are for {names}: leave them out with "
            f"{precision}"
        )
    return chosen


def _check_meant(precision: str, meant: str, flags: Mapping[str, object]) -> None:
    """Refuse flags that mean something for the precision `meant` alone.

    Raises:
        InputError: one is given with another precision.
    """
    given = [flag for flag, value in flags.items() if value]
    if given and precision in PRECISIONS and precision != meant:
        raise InputError(f"{given[0]} is for {meant}: leave it out with {precision}")


def _check_batch_norm(kernels: Kernels | None, batch_norm: BatchNorm | None) -> None:
    """Refuse thresholds where none are made.

    Raises:
        InputError: they are asked for together with OpenVINO's kernels.
    """
    if kernels == "openvino" and batch_norm == "threshold":
        raise InputError(
            f"--batch-norm {batch_norm}: --kernels {kernels} has no thresholds; leave it out"
        )


def _layers(
    result: export.QuantizeResult,
    drop: AccuracyDrop,
    limit: DropLimit,
    output: Path,
) -> tuple[Layer, ...]:
    """The layers of which some may be spared, so that a conversion keeps to its limit.

    Raises:
        AccuracyError: the precision is one of floating point, or there are not two layers.
    """
    left = {node.node for node in result.report.left}
    parts = layers(result.origin, left) if result.report.precision in CODED else ()
    if len(parts) < 2:
        raise AccuracyError(
            f"{output}: not written: top-1 dropped {drop}, more than --max-drop "
            f"{limit.points:g}; try --method auto, more --samples, or another --precision"
        )
    return parts
