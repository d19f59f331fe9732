"""Half precision, in both senses.

`to_fp16` computes in half: weights and activations are float16. `to_fp16_storage` only stores in
half: each weight is a float16 initializer behind one Cast to float32, which onnxruntime folds away
when it loads the model, so that on processors without half-precision kernels it is the one that is
not slower.

Half precision holds magnitudes up to 65504 and, next to zero, down to 2^-24 (5.96e-8). A tensor
with a larger value stays float32, and so do the nodes that read it; a value that is closer to zero
than to 2^-24 becomes zero. Both are reported; nothing is clipped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxruntime as ort
from numpy.typing import NDArray

from edgekit.export.calibration import (
    CalibrationReader,
    Feed,
    check_feed,
    has_fixed_batch,
    in_parts,
)
from edgekit.export.graph import from_proto, session_source, to_proto
from edgekit.export.quiet import quiet
from edgekit.export.verify import random_inputs
from edgekit.runtime.errors import ModelFileError, reason_of
from edgekit.runtime.progress import StageProgress, silent, stage_of
from edgekit.runtime.session import open_session

LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).smallest_subnormal)

# A Cast node takes about as many bytes as halving this many weights saves.
MIN_STORED_ELEMENTS = 64

# Samples in a run: the outputs of all nodes are in memory at once.
_PART_SAMPLES = 4


@dataclass(frozen=True)
class OutOfRange:
    """A tensor with values that half precision does not hold, so it stays float32.

    Attributes:
        tensor: Name of the tensor.
        largest: Its largest magnitude; infinite or NaN where a value is.
        nodes: Nodes that read it and stay float32 with it.
    """

    tensor: str
    largest: float
    nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.tensor} has magnitudes up to {self.largest:.6g}, above half precision's "
            f"{LARGEST:.0f}: it stays float32"
        )


@dataclass(frozen=True)
class Flushed:
    """A tensor some of whose values half precision takes for zero.

    Attributes:
        tensor: Name of the tensor.
        count: How many values became zero.
        largest: The largest magnitude among them.
    """

    tensor: str
    count: int
    largest: float


@dataclass(frozen=True)
class HalfReport:
    """What a conversion to half precision did.

    Attributes:
        tensors: Initializers that are float16 now.
        out_of_range: Tensors that stayed float32 because half precision does not hold them.
        flushed: Tensors some of whose values became zero.
    """

    tensors: int
    out_of_range: tuple[OutOfRange, ...]
    flushed: tuple[Flushed, ...]


def to_fp16(
    model: ir.Model, *, keep_io: bool = True, exclude: Collection[str] = ()
) -> tuple[ir.Model, HalfReport]:
    """Convert weights and activations to half precision with onnxruntime's converter.

    Args:
        model: A float32 model; it is not changed.
        keep_io: Leave graph inputs and outputs float32.
        exclude: Names of nodes that stay float32.

    Returns:
        The converted model, and what half precision could not hold.

    Raises:
        ModelFileError: a body of an If or a Loop reads what half precision does not hold.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    work = from_proto(to_proto(model))
    ir.passes.Sequential(
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        # the converter looks for constants in the main graph alone
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.NameFixPass(),
    )(work)
    out_of_range = tuple(_out_of_range(work))
    _refuse_in_bodies(work, {tensor.tensor for tensor in out_of_range})
    blocked = {*exclude, *(node for tensor in out_of_range for node in tensor.nodes)}
    flushed = tuple(_round_to_half(work, {tensor.tensor for tensor in out_of_range}))
    source = to_proto(work)
    _forget_initializer_types(source)
    with quiet():
        proto = convert_float_to_float16(
            source, keep_io_types=keep_io, node_block_list=sorted(blocked)
        )
    result = from_proto(proto)
    common.TopologicalSortPass()(result)  # the converter appends its Casts at the end
    halves = sum(v.dtype == ir.DataType.FLOAT16 for v in result.graph.initializers.values())
    return result, HalfReport(halves, out_of_range, flushed)


def to_fp16_storage(
    model: ir.Model, *, exclude: Collection[str] = ()
) -> tuple[ir.Model, HalfReport]:
    """Store weights in half precision, each behind one Cast to float32.

    Initializers of fewer than `MIN_STORED_ELEMENTS` elements stay as they are: the Cast would be
    larger than what it saves. So do those that are graph inputs or outputs.

    Args:
        model: A float32 model; it is not changed.
        exclude: Names of nodes whose weights stay float32.

    Returns:
        The converted model, and what half precision could not hold.
    """
    work = from_proto(to_proto(model))
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(work)
    out_of_range = tuple(t for t in _out_of_range(work) if _is_stored(work, t.tensor))
    kept = {tensor.tensor for tensor in out_of_range}
    kept |= {
        str(v.name) for n in work.graph if n.name in exclude for v in n.inputs if v is not None
    }
    names = [n for n in work.graph.initializers if n not in kept and _is_stored(work, n)]
    flushed: list[Flushed] = []
    for name in names:
        value = work.graph.initializers[name]
        weights = _array(value)
        flushed += _flushed(name, weights)
        _store_as_half(work.graph, value, weights)
    return work, HalfReport(len(names), out_of_range, tuple(flushed))


def check_activations(
    model: ir.Model, reader: CalibrationReader | None, progress: StageProgress = silent
) -> None:
    """Look for activations that half precision does not hold.

    The float32 model is run with every intermediate result as an output: run in half precision, a
    processor without half-precision kernels would compute in float32 and show nothing.

    Args:
        model: A float32 model with inferred types; it is not changed.
        reader: Inputs; None for two made-up ones.
        progress: Told how far it is.

    Raises:
        DataError: the inputs do not fit the model.
        ModelFileError: a magnitude is above `LARGEST`; the message names the tensor.
    """
    probe = from_proto(to_proto(model))
    made = [value for node in probe.graph for value in node.outputs]
    floats = [value for value in made if value.type == ir.TensorType(ir.DataType.FLOAT)]
    probe.graph.outputs[:] = floats
    names = [str(value.name) for value in floats]
    with session_source(probe) as source:
        session = open_session(source, optimize=False)
    size = None if has_fixed_batch(model) else _PART_SAMPLES
    feeds = [random_inputs(model)] if reader is None else reader
    report = stage_of(progress, "looking for large activations")
    for done, feed in enumerate(feeds, 1):
        check_feed(model, feed)
        for part in in_parts([feed], size):
            for name, array in zip(names, _run(session, names, part), strict=True):
                _check_magnitude(name, array)
        report(done, len(feeds))


def _run(session: ort.InferenceSession, names: list[str], feed: Feed) -> list[NDArray[Any]]:
    try:
        return list(session.run(names, dict(feed)))
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ModelFileError(f"the model cannot be run: {reason_of(error)}") from error


def _check_magnitude(name: str, array: NDArray[Any]) -> None:
    largest = float(np.abs(array).max(initial=0.0))
    if LARGEST < largest < np.inf:
        raise ModelFileError(
            f"activations reach {largest:.6g} in {name!r}, above half precision's "
            f"{LARGEST:.0f}: use --precision fp16-storage"
        )


def _forget_initializer_types(proto: onnx.ModelProto) -> None:
    """Drop what onnx_ir notes on initializers: the converter would note them all as half."""
    initializers = {tensor.name for tensor in proto.graph.initializer}
    kept = [value for value in proto.graph.value_info if value.name not in initializers]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)


def _floats(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
                yield value


def _array(value: ir.Value) -> NDArray[np.float32]:
    assert value.const_value is not None
    array: NDArray[np.float32] = value.const_value.numpy()
    return array


def _out_of_range(model: ir.Model) -> Iterator[OutOfRange]:
    for value in _floats(model):
        magnitudes = np.abs(_array(value))
        if magnitudes.size and not magnitudes.max() <= LARGEST:  # NaN is not
            readers = sorted({str(use.node.name) for use in value.uses()})
            yield OutOfRange(str(value.name), float(magnitudes.max()), tuple(readers))


def _refuse_in_bodies(model: ir.Model, names: Collection[str]) -> None:
    """The converter cannot leave a node of a body float32: it puts the Casts outside."""
    for value in _floats(model):
        bodies = [user for user, _ in value.uses() if user.graph is not model.graph]
        if value.name in names and bodies:
            raise ModelFileError(
                f"{value.name!r}, which the body of an If or a Loop reads, has magnitudes above "
                f"half precision's {LARGEST:.0f}: use --precision fp16-storage"
            )


def _flushed(name: str, array: NDArray[np.float32]) -> Iterable[Flushed]:
    lost = array[(array != 0) & (array.astype(np.float16) == 0)]
    if lost.size:
        yield Flushed(name, int(lost.size), float(np.abs(lost).max()))


def _round_to_half(model: ir.Model, kept: set[str]) -> Iterator[Flushed]:
    """Round to the nearest half beforehand: onnxruntime's converter would clip to the range."""
    for value in _floats(model):
        if value.name in kept:
            continue
        array = _array(value)
        yield from _flushed(str(value.name), array)
        value.const_value = ir.tensor(
            array.astype(np.float16).astype(np.float32), name=value.name, dtype=ir.DataType.FLOAT
        )


def _is_stored(model: ir.Model, name: str) -> bool:
    value = model.graph.initializers.get(name)
    return (
        value is not None
        and value.dtype == ir.DataType.FLOAT
        and value.const_value is not None
        and value.const_value.size >= MIN_STORED_ELEMENTS
        and not value.is_graph_output()
        and not value.is_graph_input()
    )


def _store_as_half(graph: ir.Graph, value: ir.Value, weights: NDArray[np.float32]) -> None:
    name = str(value.name)
    users = tuple(value.uses())
    cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, name=f"{name}/to_float32")
    decoded = cast.outputs[0]
    decoded.name, decoded.shape = cast.name, value.shape
    decoded.type = ir.TensorType(ir.DataType.FLOAT)
    for node, index in users:
        node.replace_input_with(index, decoded)
    value.const_value = ir.tensor(weights.astype(np.float16), name=name)
    value.type = ir.TensorType(ir.DataType.FLOAT16)
    graph.insert_before(graph[0], cast)
