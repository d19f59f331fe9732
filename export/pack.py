"""Store no zero and no spare bit: weights as masks and codes that the stock runtime unpacks once.

The file holds streams of bits, codes and values, each shared by many tensors, and the few standard
operators that rebuild the dense tensors from them. They depend on nothing but constants, so that
onnxruntime computes them once, at load: the graph that runs is the one that ran before. That is
not believed but checked on the graph that onnxruntime makes of the packed model, and so are its
outputs, which must be equal bit for bit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

from edgekit.export.graph import from_proto, set_metadata, to_proto
from edgekit.export.packing.builder import Builder
from edgekit.export.packing.check import Loaded, load
from edgekit.export.packing.codebook import check_bits, share_values
from edgekit.export.packing.decoder import FUNCTION_DOMAIN, MIN_OPSET, Blob, write_blob
from edgekit.export.packing.slim import drop_suffixes, slim, slim_quantizers
from edgekit.export.packing.storage import Packable, Storage, choose
from edgekit.export.verify import largest_difference, random_inputs, run_outputs
from edgekit.runtime.errors import ModelFileError, PassError

Form = Literal["inline", "function"]

METADATA_KEY = "edgekit.pack"

_TYPES = (
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.INT16,
    ir.DataType.UINT16,
    ir.DataType.INT32,
)
# Readers of sizes and the like, which shape inference wants as constants.
_STRUCTURAL = ("Resize", "Upsample", "Pad", "Tile", "Range", "Expand", "If", "Loop", "Scan")
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_MULTIPLIED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_HANDED_ON = ("Cast", "Identity", "Reshape", "Transpose")
# Model-local functions came with this version of the format.
_FUNCTION_IR_VERSION = 8


@dataclass(frozen=True)
class PackReport:
    """What packing did.

    Attributes:
        form: "inline" or "function".
        codebook: Bits of the codes that weights were rounded to; None where packing was exact.
        tensors: How each packed tensor of more than one axis is stored, by name.
        others: Number of other tensors in shared blobs.
        max_error: With a codebook, the largest error of an output against the model before,
            relative to that output's largest value; else None.
        bytes_before: Size of the model that was packed.
        bytes_after: Size of the packed one.
        notes: What else the user should know, one sentence each.
    """

    form: Form
    codebook: int | None
    tensors: Mapping[str, str]
    others: int
    max_error: float | None
    bytes_before: int
    bytes_after: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PackResult:
    """A packed model and what was done to it."""

    model: ir.Model
    report: PackReport


@dataclass(frozen=True)
class _Attempt:
    model: ir.Model
    blobs: list[Blob]
    streams: dict[str, Blob]


def pack(
    model: ir.Model,
    *,
    form: Form = "inline",
    codebook: int | None = None,
    inputs: Mapping[str, NDArray[Any]] | None = None,
    runtime_options: Mapping[str, str] | None = None,
) -> PackResult:
    """Store a model's tensors in their smallest exact form, and check that nothing else changes.

    Args:
        model: Any model of opset 13 or later; it is not changed.
        form: "inline" writes the decoders into the graph, which loads everywhere; "function" into
            model-local functions, which read better and which OpenVINO refuses.
        codebook: Round weights to so many bits' worth of values a tensor first; 2 to 6.
        inputs: What to compare outputs on, an array for each input; random numbers where None.
        runtime_options: Session options of onnxruntime under which the result must hold.

    Returns:
        The packed model, with the same inputs, outputs and metadata.

    Raises:
        InputError: the codebook's width is out of range.
        ModelFileError: the model is packed already, its opset is too old, it does not run, or it
            has no weights that a codebook rounds.
        PassError: onnxruntime does not make the same of the packed model.
    """
    check_unpacked(model)
    if codebook is not None:
        check_bits(codebook)
    if model.opset_imports.get("", 0) < MIN_OPSET:
        raise ModelFileError(
            f"packing needs opset {MIN_OPSET} or later, the model has "
            f"{model.opset_imports.get('', 0)}: export it again at a newer one"
        )
    source = from_proto(to_proto(model))
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(source)
    feeds = random_inputs(source) if inputs is None else inputs
    max_error = None
    if codebook is not None:
        before = run_outputs(source, feeds)
        share_values(source, codebook)
        max_error = largest_difference(before, run_outputs(source, feeds))
    attempt, notes = _first_that_folds(source, form, feeds, runtime_options)
    weights = {t.name: str(b.storage) for b in attempt.blobs for t in b.tensors if _is_weight(t)}
    entry = {"form": form, "codebook": codebook, "storage": Counter(weights.values())}
    set_metadata(attempt.model, {METADATA_KEY: json.dumps(entry)})
    packed = to_proto(attempt.model)
    onnx.checker.check_model(packed, full_check=True)
    report = PackReport(
        form=form,
        codebook=codebook,
        tensors=weights,
        others=sum(len(blob.tensors) for blob in attempt.blobs) - len(weights),
        max_error=max_error,
        bytes_before=to_proto(model).ByteSize(),
        bytes_after=packed.ByteSize(),
        notes=tuple(notes),
    )
    return PackResult(attempt.model, report)


def check_unpacked(model: ir.Model) -> None:
    """Refuse a model whose weights a step would not find, because they are packed.

    Raises:
        ModelFileError: it is packed.
    """
    if METADATA_KEY in model.metadata_props:
        raise ModelFileError("the model is packed already: start from the one before --pack")


def _first_that_folds(
    source: ir.Model,
    form: Form,
    feeds: Mapping[str, NDArray[Any]],
    options: Mapping[str, str] | None,
) -> tuple[_Attempt, list[str]]:
    """Pack as small as can be, then more carefully, until onnxruntime sees the model as it was."""
    reference = load(source, feeds, options)
    banned: set[Storage] = set()
    notes: list[str] = []
    for small_quantizers in (True, False):
        while True:
            attempt = _attempt(source, form, banned, small_quantizers)
            loaded = load(attempt.model, feeds, options)
            if _same(reference, loaded):
                return attempt, notes
            left = {b.storage for name, b in attempt.streams.items() if name in loaded.computed}
            if not left:
                break
            banned |= left
            notes += [f"{s}: not used, onnxruntime does not unpack it at load" for s in left]
        notes.append("zero points and biases stay as they were: onnxruntime needs them so")
    hint = "leave out --pack" if form == "inline" else "use --pack inline"
    raise PassError(
        "packing changed what onnxruntime makes of the model "
        f"({_changes(reference, loaded)}): {hint}"
    )


def _attempt(
    source: ir.Model, form: Form, banned: set[Storage], small_quantizers: bool
) -> _Attempt:
    model = from_proto(to_proto(source))
    drop_suffixes(model)
    keep = {
        str(value.name)
        for value in model.graph.initializers.values()
        if value.const_value is not None and len(value.const_value.shape) > 1
    }
    if small_quantizers:
        slim_quantizers(model)
    blobs = _blobs(_packables(model), banned)
    functions: dict[str, ir.Function] | None = {} if form == "function" else None
    made = []
    for index, blob in enumerate(blobs):
        builder = Builder(f"\x01{index}.")
        write_blob(builder, blob, functions)
        for value in builder.constants:
            model.graph.initializers.add(value)
        made.append(builder.nodes)
    first = next(iter(model.graph))
    model.graph.insert_before(first, [node for nodes in made for node in nodes])
    _add_functions(model, functions or {})
    slim(model, keep)
    streams = {
        str(output.name): blob
        for blob, nodes in zip(blobs, made, strict=True)
        for node in nodes
        for output in node.outputs
    }
    return _Attempt(model, blobs, streams)


def _packables(model: ir.Model) -> list[Packable]:
    found = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if (
            tensor is None
            or tensor.dtype not in _TYPES
            or not tensor.shape
            or not tensor.size
            or value.is_graph_input()
            or value.is_graph_output()
            or any(user.op_type in _STRUCTURAL for user, _ in value.uses())
        ):
            continue
        found.append(Packable(value, signed_zeros=not _is_multiplied(value)))
    return found


def _is_multiplied(value: ir.Value) -> bool:
    """Whether a value goes into sums of products alone, in which the sign of a zero is lost."""
    return not value.is_graph_output() and all(
        user.op_type in _MULTIPLIED
        or (user.op_type in _HANDED_ON and _is_multiplied(user.outputs[0]))
        for user, _ in value.uses()
    )


def _blobs(tensors: list[Packable], banned: set[Storage]) -> list[Blob]:
    """Tensors grouped by element type, by what they are for, and by how they are stored."""
    by_kind: dict[tuple[np.dtype[Any], bool], list[Packable]] = {}
    for tensor in tensors:
        by_kind.setdefault((tensor.dtype, _is_quantizer(tensor)), []).append(tensor)
    blobs = []
    for alike in by_kind.values():
        groups: dict[Storage, list[Packable]] = {}
        for tensor, storage in choose(alike, banned).items():
            groups.setdefault(storage, []).append(tensor)
        blobs += [Blob(storage, group) for storage, group in groups.items()]
    return blobs


def _add_functions(model: ir.Model, functions: Mapping[str, ir.Function]) -> None:
    if not functions:
        return
    model.opset_imports[FUNCTION_DOMAIN] = 1
    model.ir_version = max(model.ir_version, _FUNCTION_IR_VERSION)
    for function in functions.values():
        function.graph.opset_imports[""] = model.opset_imports[""]
        model.functions[function.identifier()] = function


def _is_quantizer(tensor: Packable) -> bool:
    """Whether a tensor holds scales or zero points, which do not count as learned."""
    return any(index and user.op_type in _QUANTIZERS for user, index in tensor.value.uses())


def _is_weight(tensor: Packable) -> bool:
    return len(tensor.shape) > 1


def _same(reference: Loaded, loaded: Loaded) -> bool:
    return reference.operators == loaded.operators and reference.same_outputs(loaded)


def _changes(reference: Loaded, loaded: Loaded) -> str:
    if reference.operators == loaded.operators:
        return "its outputs differ"
    more, fewer = loaded.operators - reference.operators, reference.operators - loaded.operators
    parts = [f"{n} {op} more" for op, n in more.items()]
    parts += [f"{n} {op} fewer" for op, n in fewer.items()]
    return ", ".join(parts)
