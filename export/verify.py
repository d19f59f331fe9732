"""Did a rewrite change what a model computes: run before and after, and measure the difference.

The error of an output is its largest absolute difference, divided by the largest absolute value of
the reference output, so that it does not depend on the scale of a model's logits. Both runs have
onnxruntime's own graph optimizations switched off: with them on, it would fold the reference too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.graph import graphs, model_preprocessing, nodes, session_source
from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.session import open_session

# Exact in real arithmetic means equal up to rounding, which grows with depth: some hundred layers
# stay below a tenth of these (densenet121, float32: 7e-7).
TOLERANCES: dict[ir.DataType, float] = {
    ir.DataType.DOUBLE: 1e-10,
    ir.DataType.FLOAT: 2e-5,
    ir.DataType.FLOAT16: 2e-2,
    ir.DataType.BFLOAT16: 1e-1,
}
# One rounding near a quantizer's threshold moves its output by a whole step.
QUANTIZED_TOLERANCE = 5e-2

_QUANTIZERS = ("QuantizeLinear", "DynamicQuantizeLinear")
_FREE_IMAGE_SIZE = 64
_NO_VERIFY = "give real inputs, or skip the check with --no-verify"


def tolerance(model: ir.Model) -> float:
    """The largest error that counts as rounding, by the coarsest arithmetic in the model."""
    if any(node.op_type in _QUANTIZERS for node in nodes(model)):
        return QUANTIZED_TOLERANCE
    types = {value.dtype for graph in graphs(model) for value in _values(graph)}
    return max(
        (bound for dtype, bound in TOLERANCES.items() if dtype in types),
        default=TOLERANCES[ir.DataType.FLOAT],
    )


def run_outputs(model: ir.Model, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run a model once, unoptimized, on one core.

    Args:
        model: The model; it is not changed.
        inputs: An array for each input of the graph.

    Returns:
        Every output of the graph by name; the parts of a sequence as `name[0]`, `name[1]`, ...

    Raises:
        ModelFileError: onnxruntime cannot load the model or run it on these inputs.
    """
    with session_source(model) as source:
        session = open_session(source, optimize=False)
        try:
            results = session.run(None, dict(inputs))
        except Exception as error:  # onnxruntime's exceptions share no base class
            reason = " ".join(str(error).split())
            raise ModelFileError(
                f"onnxruntime cannot run the model ({reason}): {_NO_VERIFY}"
            ) from error
    outputs: dict[str, NDArray[Any]] = {}
    for output, result in zip(session.get_outputs(), results, strict=True):
        if isinstance(result, np.ndarray):
            outputs[output.name] = result
        elif isinstance(result, list):
            outputs |= {f"{output.name}[{i}]": np.asarray(part) for i, part in enumerate(result)}
        else:
            raise ModelFileError(
                f"output {output.name!r} is no tensor and cannot be compared: {_NO_VERIFY}"
            )
    return outputs


def random_inputs(model: ir.Model, *, batch: int = 2, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Make up an array for each input: normal numbers, or zeros and ones for integers.

    Static dimensions are kept. A dynamic first dimension becomes `batch`; other dynamic ones come
    from the model's preprocessing where it carries one, else images get 64x64. Dimensions with the
    same name get the same size.

    Raises:
        ModelFileError: an input has no known rank, a type that cannot be made up, or more elements
            than memory holds.
    """
    generator = np.random.default_rng(seed)
    initializers = model.graph.initializers
    sizes: dict[str, int] = {}
    return {
        str(value.name): _random_array(value, _input_shape(model, value, batch, sizes), generator)
        for value in model.graph.inputs
        if value.name not in initializers
    }


def largest_difference(
    before: Mapping[str, NDArray[Any]], after: Mapping[str, NDArray[Any]]
) -> float:
    """The worst error over all outputs.

    Returns:
        max |after - before| / max |before| of the worst output; infinite where outputs, shapes or
        types differ, or where one is NaN or infinite and the other is not the same.
    """
    if before.keys() != after.keys():
        return float("inf")
    return max((_difference(before[name], after[name]) for name in before), default=0.0)


def _difference(before: NDArray[Any], after: NDArray[Any]) -> float:
    if before.shape != after.shape or before.dtype != after.dtype:
        return float("inf")
    if before.dtype.kind not in "biuf":  # strings and objects are equal or they are not
        return 0.0 if np.array_equal(before, after) else float("inf")
    reference, result = before.astype(np.float64), after.astype(np.float64)
    finite = np.isfinite(reference)
    if not np.array_equal(finite, np.isfinite(result)):
        return float("inf")
    if not np.array_equal(reference[~finite], result[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    worst = float(np.abs(result[finite] - reference[finite]).max())
    scale = float(np.abs(reference[finite]).max())
    if worst == 0.0:
        return 0.0
    return worst / scale if scale else float("inf")


def _values(graph: ir.Graph) -> list[ir.Value]:
    made = [output for node in graph for output in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *made]


def _input_shape(
    model: ir.Model, value: ir.Value, batch: int, sizes: dict[str, int]
) -> tuple[int, ...]:
    if value.shape is None:
        raise ModelFileError(f"input {value.name!r} has no shape to make data for: {_NO_VERIFY}")
    rank = len(value.shape)
    preprocessing = model_preprocessing(model)
    if preprocessing is not None and rank == 4:
        defaults: tuple[int, ...] = (batch, *preprocessing.input_shape)
    elif rank == 4:
        defaults = (batch, 3, _FREE_IMAGE_SIZE, _FREE_IMAGE_SIZE)
    else:
        defaults = (batch,) * rank
    return tuple(
        dim if isinstance(dim, int) else _bound(dim.value, default, sizes)
        for dim, default in zip(value.shape, defaults, strict=True)
    )


def _bound(name: str | None, default: int, sizes: dict[str, int]) -> int:
    return default if name is None else sizes.setdefault(name, default)


def _random_array(
    value: ir.Value, shape: tuple[int, ...], generator: np.random.Generator
) -> NDArray[Any]:
    try:
        return _drawn(value, shape, generator)
    except (MemoryError, ValueError) as error:  # numpy's for sizes beyond what it can address
        raise ModelFileError(
            f"input {value.name!r} takes {list(shape)}, more than memory holds: {_NO_VERIFY}"
        ) from error


def _drawn(value: ir.Value, shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[Any]:
    dtype = value.dtype if isinstance(value.type, ir.TensorType) else None
    if dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE):
        return generator.standard_normal(shape).astype(dtype.numpy())
    if dtype == ir.DataType.UINT8:
        return generator.integers(0, 256, shape, np.uint8)
    if dtype == ir.DataType.BOOL:
        return generator.integers(0, 2, shape).astype(np.bool_)
    if dtype is not None and dtype.is_integer() and dtype.bitwidth >= 8:
        return generator.integers(0, 2, shape).astype(dtype.numpy())
    raise ModelFileError(
        f"input {value.name!r} is {value.type}, for which no data can be made up: {_NO_VERIFY}"
    )
