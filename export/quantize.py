"""Smaller numbers: a float32 model in one of `PRECISIONS`, and what became of each node."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgekit.export.calibration import CalibrationReader, Feed
from edgekit.export.calibration_spool import FeedReader
from edgekit.export.calibrators import Calibrator
from edgekit.export.executed import executed
from edgekit.export.gemm_factors import fold_gemm_factors
from edgekit.export.graph import (
    from_proto,
    inline_functions,
    nodes,
    session_source,
    set_metadata,
    store_constants,
    to_proto,
)
from edgekit.export.half import (
    to_fp16_storage,
)
from edgekit.export.keep_float import keep_float
from edgekit.export.liveness.shapes import check_shapes
from edgekit.export.passes.fold_pad import FoldPad
from edgekit.export.precisions import PRECISIONS, Job
from edgekit.export.quantize_report import QuantizeReport, account
from edgekit.export.split_activations import split_hard_swish
from edgekit.export.static_options import DEFAULT_METHOD, StaticOptions
from edgekit.export.thresholds import take_batch_norm_out
from edgekit.export.to_qdq import WEIGHTED_OPS
from edgekit.export.unquantizable import bound_pads
from edgekit.export.verify import random_inputs, run_outputs
from edgekit.runtime.errors import InputError, ModelFileError, reason_of
from edgekit.runtime.preprocessing import PREFIX
from edgekit.runtime.progress import StageProgress, silent
from edgekit.runtime.session import INPUT_TYPES, open_session

# What nodes that are not quantized may be kept in.
FALLBACKS = ("float", "int16", "fp16")

_QUANTIZED_OPS = re.compile(r"(Dynamic)?QuantizeLinear|DequantizeLinear|QLinear\w+|\w+Integer")


@dataclass(frozen=True)
class QuantizeResult:
    """A converted model and what was done to it.

    Attributes:
        model: The converted model.
        report: What was done.
        origin: The float32 model in the form that was converted, its nodes named.
        reference: The float32 model whose tensors the codes stand for: the same, or equalized.
    """

    model: ir.Model
    report: QuantizeReport
    origin: ir.Model
    reference: ir.Model


def quantize(
    model: ir.Model,
    precision: str,
    *,
    reader: CalibrationReader | Iterable[Feed] | FeedReader | None = None,
    method: str | Calibrator = DEFAULT_METHOD,
    exclude: str | None = None,
    fallback: str = FALLBACKS[0],
    keep_io: bool = True,
    static: StaticOptions | None = None,
    progress: StageProgress = silent,
) -> QuantizeResult:
    """Convert a float32 model to one of `PRECISIONS`.

    Args:
        model: A float32 model; it is not changed.
        precision: A key of `PRECISIONS`.
        reader: Calibration data, for the precisions that need it: a `CalibrationReader`, or any
            iterable of `{input name: array}`, or any reader in onnxruntime's protocol. fp16 checks
            the range of activations on it.
        method: A key of `CALIBRATORS`, or a calibrator, for the precisions that need calibration.
        exclude: Regular expression; nodes in whose name it is found stay float32.
        fallback: What these nodes are kept in, one of `FALLBACKS`: float; for int8 also int16,
            which gives their inputs and outputs 16 bits, or fp16, which only stores their weights
            in half precision.
        keep_io: For fp16: leave the graph's inputs and outputs float32.
        static: For int8 and int16: how; `method` and `exclude` take the place of its own.
        progress: Told how far calibration and refinements are, as by `to_static`.

    Returns:
        A model that the checker and onnxruntime accept, with the settings in its metadata, and
        the report.

    Raises:
        InputError: there is no such precision or method, a precision that needs calibration gets
            no reader, or the regular expression is not one or matches no node.
        DataError: the calibration data is unusable, or does not fit the model.
        ModelFileError: the model is quantized or half precision already, has nothing to quantize,
            or the result would not run.
    """
    if precision not in PRECISIONS:
        raise InputError(f"no precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    entry = PRECISIONS[precision]
    if entry.calibrated and reader is None:
        raise InputError(f"{precision} needs calibration data: give some with --calib")
    check_fallback(fallback, precision)
    _check_float(model)
    options = static or StaticOptions()
    pattern = None if exclude is None else _pattern(exclude)
    prepared = _prepare(model)
    given = [str(node.name) for node in prepared.graph]
    work, notes = _rewritten(prepared, precision, options, pattern)
    chosen = frozenset[str]()
    if pattern is not None:
        chosen, folded = _excluded(work, pattern, given)
        notes += folded
    wider, excluded = (chosen, frozenset[str]()) if fallback == "int16" else (frozenset(), chosen)
    if reader is not None and not isinstance(reader, CalibrationReader):
        reader = CalibrationReader.from_feeds(reader)
    options = replace(options, method=method, exclude=excluded, wider=wider)
    job = Job(work, reader, options, excluded, keep_io, progress)
    done = entry.convert(job)
    settings: dict[str, Any] = dict(done.settings)
    if exclude is not None:
        settings |= {"exclude": exclude, "excluded": sorted(chosen), "fallback": fallback}
    keep_float(done.model, excluded)
    kept = _half_weights(done.model, chosen) if fallback == "fp16" else done.model
    result = _finish(kept, model, precision, settings)
    converted, left = account(
        work,
        result,
        excluded,
        op_types=entry.op_types,
        weights_only=entry.weights_only,
        reasons=done.left,
    )
    notes += done.notes
    ran = executed(result, excluded) if entry.op_types else None
    report = QuantizeReport(precision, converted, left, notes, settings, ran)
    reference = work if done.reference is None else done.reference
    return QuantizeResult(result, report, work, reference)


def _rewritten(
    model: ir.Model, precision: str, options: StaticOptions, exclude: re.Pattern[str] | None
) -> tuple[ir.Model, tuple[str, ...]]:
    """The model in the form that its precision takes best, and what to tell of that."""
    note = None
    if precision == "int8" and options.takes_batch_norm_out:
        taken, note = take_batch_norm_out(model, exclude)
        model = model if taken is model else _prepare(taken)
    if PRECISIONS[precision].op_types:
        FoldPad()(model)
        kept = {str(n.name) for n in model.graph if exclude and exclude.search(str(n.name))}
        fold_gemm_factors(model, kept)
    if PRECISIONS[precision].calibrated:
        bound_pads(model)
    if precision == "int8" and options.kernels != "openvino":  # which has a kernel for HardSwish
        split_hard_swish(model)
    return model, () if note is None else (note,)


def check_fallback(fallback: str, precision: str) -> None:
    """Refuse a fallback that there is not, or not with a precision.

    Raises:
        InputError: it is so.
    """
    if fallback not in FALLBACKS:
        raise InputError(f"no fallback {fallback!r}; choose one of {', '.join(FALLBACKS)}")
    if fallback != "float" and precision != "int8":
        raise InputError(
            f"--fallback {fallback} is for int8: with {precision} excluded nodes stay float32, "
            "leave it out"
        )


def _check_float(model: ir.Model) -> None:
    quantized = Counter(n.op_type for n in nodes(model) if _QUANTIZED_OPS.fullmatch(n.op_type))
    if quantized:
        found = ", ".join(f"{count} {name}" for name, count in quantized.most_common(2))
        raise ModelFileError(
            f"the model is quantized already ({found}): start from the float32 model"
        )
    halves = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    values = [v for graph in model.graphs() for v in (*graph.inputs, *graph.initializers.values())]
    if any(value.dtype in halves for value in values):
        raise ModelFileError("the model is half precision already: start from the float32 model")
    if not any(node.op_type in WEIGHTED_OPS for node in nodes(model)):
        raise ModelFileError(
            f"the model has no {', '.join(WEIGHTED_OPS[:-1])} or {WEIGHTED_OPS[-1]}: "
            "there is nothing to convert"
        )


def _prepare(model: ir.Model) -> ir.Model:
    """A copy with constants as initializers, types inferred, and a name for every node."""
    check_shapes(model)
    work = from_proto(to_proto(model))
    inline_functions(work)
    store_constants(work)
    ir.passes.Sequential(common.NameFixPass(), common.ShapeInferencePass())(work)
    _ask_types(work)
    for index, node in enumerate(work.graph):
        node.name = node.name or f"{node.op_type.lower()}_{index}"
    return work


def _ask_types(model: ir.Model) -> None:
    """Take from onnxruntime the types behind operators of its own, which onnx cannot infer."""
    unknown = {str(v.name): v for n in model.graph for v in n.outputs if v.name and v.dtype is None}
    if not unknown:
        return
    probe = from_proto(to_proto(model))
    probe.graph.outputs[:] = [v for n in probe.graph for v in n.outputs if v.name in unknown]
    with session_source(probe) as source:
        answers = open_session(source, optimize=False).get_outputs()
    for answer in answers:
        if answer.type in INPUT_TYPES:
            value = unknown[answer.name]
            value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(INPUT_TYPES[answer.type])))
            value.shape = ir.Shape(answer.shape)


def _pattern(exclude: str) -> re.Pattern[str]:
    try:
        return re.compile(exclude)
    except re.error as error:
        raise InputError(
            f"--exclude {exclude!r} is no regular expression ({error}): escape special characters"
        ) from error


def _excluded(
    model: ir.Model, pattern: re.Pattern[str], given: Sequence[str]
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Names of the nodes to leave, and a note where all that were named have been folded away."""
    names = [str(node.name) for node in model.graph]
    found = frozenset(filter(pattern.search, names))
    if found:
        return found, ()
    if gone := list(filter(pattern.search, given)):
        return found, (
            f"--exclude {pattern.pattern!r} leaves nothing: what it names was folded into what is "
            f"around it ({', '.join(gone[:5])})",
        )
    close = difflib.get_close_matches(pattern.pattern, names, n=5, cutoff=0.3) or names[:5]
    raise InputError(
        f"--exclude {pattern.pattern!r} matches no node; close names: {', '.join(close)}"
    )


def _finish(
    result: ir.Model, original: ir.Model, precision: str, settings: Mapping[str, Any]
) -> ir.Model:
    result.metadata_props.clear()
    result.metadata_props.update(original.metadata_props)
    set_metadata(result, {f"{PREFIX}precision": precision})
    if settings:
        set_metadata(result, {f"{PREFIX}calibration": json.dumps(settings)})
    result.producer_name, result.producer_version = (
        original.producer_name,
        original.producer_version,
    )
    try:
        onnx.checker.check_model(to_proto(result), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"the {precision} model is not valid ONNX ({reason})") from error
    _check_runs(result, original, precision)
    return result


def _check_runs(result: ir.Model, original: ir.Model, precision: str) -> None:
    """Run the result once, on made-up inputs.

    Raises:
        ModelFileError: onnxruntime cannot load it, or cannot run it though it runs the original.
    """
    with session_source(result) as source:
        session = open_session(source)
    try:
        session.run(None, random_inputs(result, batch=1))
    except Exception as error:  # onnxruntime's exceptions share no base class
        if _runs(original):
            raise ModelFileError(
                f"onnxruntime cannot run the {precision} model ({reason_of(error)}): leave the "
                "node out with --exclude"
            ) from error


def _runs(model: ir.Model) -> bool:
    try:
        run_outputs(model, random_inputs(model, batch=1))
    except ModelFileError:
        return False
    return True


def _half_weights(model: ir.Model, names: Collection[str]) -> ir.Model:
    """The model with the weights of the nodes of these names stored in half precision."""
    others = {str(node.name) for node in model.graph} - set(names)
    return to_fp16_storage(model, exclude=others)[0]
