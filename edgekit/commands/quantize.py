"""`edgekit quantize`: from a float32 file to a smaller precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgekit import console
from edgekit.commands.calibration_report import check_calibration_report, report_calibration
from edgekit.commands.images import AS_STORED, DataSource, Normalization
from edgekit.commands.packing import Packing
from edgekit.commands.target import TargetChoice
from edgekit.export.calibration import CalibrationReader, stratified_sample
from edgekit.export.graph import (
    load_graph,
    model_preprocessing,
    save_graph,
    session_source,
    set_metadata,
)
from edgekit.export.pack import PackReport, check_unpacked
from edgekit.export.quantize import quantize
from edgekit.export.quantize_report import QuantizeReport
from edgekit.export.static import DEFAULT_METHOD, StaticOptions
from edgekit.runtime.accuracy import evaluate
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import AccuracyError, InputError
from edgekit.runtime.files import check_output
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.runtime.session import open_session

THIS_MACHINE = TargetChoice()


@dataclass(frozen=True)
class Calibration:
    """Which images a static conversion sees.

    Attributes:
        data: A data set, of which the training part is used.
        method: How ranges are found.
        samples: How many images; None for the default, or all where there are fewer.
        seed: Draws them.
    """

    data: DataSource
    method: str = DEFAULT_METHOD
    samples: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class DropLimit:
    """How much accuracy a conversion may cost.

    Attributes:
        points: Percentage points of top-1 accuracy.
        data: A data set, of which the test part is used; None for the calibration data's training
            images that calibration did not use.
    """

    points: float
    data: DataSource | None = None


@dataclass(frozen=True)
class AccuracyDrop:
    """What a conversion cost.

    Attributes:
        data: What it was measured on.
        samples: Images.
        before: Top-1 of the float model, 0 to 1.
        after: Top-1 of the converted model, 0 to 1.
    """

    data: str
    samples: int
    before: float
    after: float

    @property
    def points(self) -> float:
        """Percentage points lost; negative where accuracy rose."""
        return (self.before - self.after) * 100


@dataclass(frozen=True)
class QuantizeResult:
    """A converted model.

    Attributes:
        output: The file.
        report: What became of each node.
        drop: What it cost; None where no limit was given.
        bytes_before: Size of the input file.
        bytes_after: Size of the output file.
        packing: How tensors were packed; None where that was not asked for.
    """

    output: Path
    report: QuantizeReport
    drop: AccuracyDrop | None
    bytes_before: int
    bytes_after: int
    packing: PackReport | None = None


def quantize_file(
    path: Path,
    output: Path,
    *,
    precision: str = "int8",
    calibration: Calibration | None = None,
    exclude: str | None = None,
    keep_io: bool = True,
    max_drop: DropLimit | None = None,
    normalization: Normalization = AS_STORED,
    packing: Packing | None = None,
    calibration_report: Path | None = None,
    target: TargetChoice = THIS_MACHINE,
    force: bool = False,
) -> QuantizeResult:
    """Convert a model file to a smaller precision.

    Args:
        path: The float32 model.
        output: The file to write.
        precision: A key of export.quantize.PRECISIONS.
        calibration: Images for the precisions that need them.
        exclude: Regular expression for the names of nodes that stay float32.
        keep_io: For fp16: leave the model's input and output float32.
        max_drop: Accuracy that may be lost; without it none is measured.
        normalization: Mean and deviation in place of the model's.
        packing: Store the tensors packed; the accuracy that a codebook costs counts as lost.
        calibration_report: A file for the distribution and the range of each quantized tensor.
        target: The processor to write an int8 model for.
        force: Replace an existing output.

    Raises:
        EdgekitError: a file or the data cannot be used; AccuracyError if too much accuracy is
            lost, in which case nothing is written.
    """
    check_output(output, force=force, inputs=[path])
    target.check(precision)
    if calibration_report is not None:
        check_calibration_report(calibration_report, precision, force=force, files=[path, output])
    model = load_graph(path)
    check_unpacked(model)
    by_hand = normalization != AS_STORED
    preprocessing = normalization.of(model) if calibration or max_drop or by_hand else None
    reader = held_out = None
    if preprocessing and calibration:
        images = calibration.data.load("train", preprocessing)
        reader = CalibrationReader.from_split(
            images, preprocessing, model, samples=calibration.samples, seed=calibration.seed
        )
        held_out = _left_over(images, reader)
    if preprocessing and max_drop and max_drop.data:
        held_out = max_drop.data.load("test", preprocessing)
    if max_drop and held_out is None:
        raise InputError("--max-drop has no images to measure on; name some with --eval")
    with console.progress("calibrating") as advance:
        result = quantize(
            model,
            precision,
            reader=reader,
            method=calibration.method if calibration else DEFAULT_METHOD,
            exclude=exclude,
            keep_io=keep_io,
            static=target.tune(StaticOptions()),
            progress=advance,
        )
    if preprocessing and (by_hand or model_preprocessing(model) is None):
        set_metadata(result.model, preprocessing.to_metadata())
    for warning in target.warnings(result.model, output):
        console.say(f"warning: {warning}")
    converted, packed = result.model, None
    if packing is not None:
        converted, packed = packing.apply(converted)
    drop = None
    if preprocessing and max_drop and held_out:
        # A dynamic model takes its ranges from the whole batch; a device gives it one image.
        at_once = 1 if precision == "dynamic-int8" else None
        drop = measure_drop(model, converted, preprocessing, held_out, at_once)
        _check_drop(drop, max_drop, output)
    save_graph(converted, output)
    if calibration_report is not None and reader is not None:
        report_calibration(calibration_report, model, result, reader, output)
    sizes = path.stat().st_size, output.stat().st_size
    return QuantizeResult(output, result.report, drop, *sizes, packed)


def measure_drop(
    before: ir.Model,
    after: ir.Model,
    preprocessing: Preprocessing,
    split: Split,
    batch_size: int | None = None,
) -> AccuracyDrop:
    """Accuracy of a model and of its conversion on the same images, `batch_size` at once.

    Raises:
        DataError: the images do not fit the models.
    """
    top1 = []
    for label, model in (("float", before), ("converted", after)):
        with session_source(model) as source, console.progress(f"accuracy, {label}") as advance:
            session = open_session(source)
            result = evaluate(
                session, preprocessing, split, batch_size=batch_size, progress=advance
            )
            top1.append(result.top1)
    return AccuracyDrop(f"{split.name} ({split.part})", len(split), *top1)


def _left_over(split: Split, reader: CalibrationReader) -> Split | None:
    """The images that calibration does not see; None where it sees them all."""
    samples, seed = reader.settings["samples"], reader.settings["seed"]
    seen = stratified_sample(split.labels, samples, seed)
    unseen = np.setdiff1d(np.arange(len(split)), seen)
    return split.take(unseen) if len(unseen) else None


def _check_drop(drop: AccuracyDrop, limit: DropLimit, output: Path) -> None:
    if drop.points > limit.points:
        raise AccuracyError(
            f"{output}: not written: top-1 dropped {drop.points:.2f} points, from "
            f"{drop.before:.2%} to {drop.after:.2%} on {drop.samples} images of {drop.data}, more "
            f"than --max-drop {limit.points:g}; try another --method, more --samples, or --exclude"
        )
