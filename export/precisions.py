"""The precisions that edgekit writes.

| precision | weights | activations | calibration |
|---|---|---|---|
| `int8` | int8 per channel | uint8 | yes |
| `int16` | int8 per channel | uint16 | yes |
| `dynamic-int8` | int8 per channel | uint8, as they come | no |
| `fp16` | float16 | float16 | no |
| `fp16-storage` | float16 in the file | float32 | no |
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir

from edgekit.export.calibration import CalibrationReader
from edgekit.export.half import (
    SMALLEST,
    HalfReport,
    check_activations,
    to_fp16,
    to_fp16_storage,
)
from edgekit.export.static import to_static
from edgekit.export.static_options import StaticOptions
from edgekit.export.to_dynamic_int8 import DYNAMIC_OPS, to_dynamic_int8
from edgekit.export.to_qdq import QDQ_OPS, ActivationType
from edgekit.runtime.progress import StageProgress


@dataclass(frozen=True)
class Job:
    """A conversion as the entries of `PRECISIONS` get it; the model is theirs."""

    model: ir.Model
    reader: CalibrationReader | None
    static: StaticOptions
    exclude: Collection[str]
    keep_io: bool
    progress: StageProgress


@dataclass(frozen=True)
class Done:
    """What an entry of `PRECISIONS` makes of a job.

    Attributes:
        model: The converted model.
        notes: What else the user should know, one sentence each.
        settings: Every setting that was used.
        reference: The float32 model whose tensors the codes stand for, where that is another.
        left: Names of nodes that stay float32 for what they are, and why.
    """

    model: ir.Model
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    reference: ir.Model | None = None
    left: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Precision:
    """One row of `PRECISIONS`.

    Attributes:
        convert: Does it.
        calibrated: Whether it needs calibration data.
        op_types: Operators that it converts; empty for all.
        weights_only: Whether it leaves nodes without weights as they are.
    """

    convert: Callable[[Job], Done]
    calibrated: bool = False
    op_types: tuple[str, ...] = ()
    weights_only: bool = False


def _static(activations: ActivationType | None = None) -> Callable[[Job], Done]:
    """A static conversion, with activations of that type or of the one that the options name."""

    def convert(job: Job) -> Done:
        assert job.reader is not None
        options = replace(job.static, activations=activations or job.static.activations)
        done = to_static(job.model, job.reader, options, job.progress)
        settings = {**done.settings, **options.code_settings}
        return Done(done.model, done.notes, settings, done.reference, done.left)

    return convert


def _dynamic(job: Job) -> Done:
    settings = job.static.code_settings
    del settings["activations"]
    model, left = to_dynamic_int8(job.model, job.exclude, reduce_range=job.static.reduce_range)
    return Done(model, settings=settings, left=left)


def _half(job: Job) -> Done:
    check_activations(job.model, job.reader, job.progress)
    model, report = to_fp16(job.model, keep_io=job.keep_io, exclude=job.exclude)
    settings = {} if job.reader is None else job.reader.settings
    return Done(model, tuple(_half_notes(report)), {**settings, "keep_io": job.keep_io})


def _half_storage(job: Job) -> Done:
    model, report = to_fp16_storage(job.model, exclude=job.exclude)
    return Done(model, tuple(_half_notes(report)))


def _half_notes(report: HalfReport) -> Iterator[str]:
    yield from map(str, report.out_of_range)
    if report.flushed:
        count = sum(tensor.count for tensor in report.flushed)
        largest = max(tensor.largest for tensor in report.flushed)
        names = ", ".join(tensor.tensor for tensor in report.flushed)
        yield (
            f"{count} values up to {largest:.3g} became zero, below half precision's "
            f"{SMALLEST:.3g}, in {names}"
        )


PRECISIONS: dict[str, Precision] = {
    "int8": Precision(_static(), calibrated=True, op_types=QDQ_OPS),
    "int16": Precision(_static("QUInt16"), calibrated=True, op_types=QDQ_OPS),
    "dynamic-int8": Precision(_dynamic, op_types=DYNAMIC_OPS),
    "fp16": Precision(_half),
    "fp16-storage": Precision(_half_storage, weights_only=True),
}
