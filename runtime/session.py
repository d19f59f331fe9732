"""Models as onnxruntime runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgekit.runtime.errors import DataError, ModelFileError, reason_of

if TYPE_CHECKING:
    import onnx  # running a file that was validated does without it, and its memory

# What onnxruntime calls the types that a classifier's input may have.
INPUT_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
# onnxruntime's setting for exact products of uint8 and int8 on x86 without VNNI.
EXACT_INTEGERS = "session.x64quantprecision"
_ERRORS_ONLY = 3
_PIXEL = 1 / 255  # the deviation that undoes the division by 255
_WHOLE = 0.01  # what rounding leaves of a whole number of pixels


@dataclass(frozen=True)
class InputSpec:
    """What a classifier takes, whichever engine runs it.

    Attributes:
        name: The input's name.
        shape: Its axes, the batch first; a name or None where an axis is open.
        dtype: Type of its elements.
    """

    name: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype[np.generic]


def open_session(
    model: Path | bytes | onnx.ModelProto,
    *,
    threads: int = 1,
    optimize: bool = True,
    profile_prefix: Path | None = None,
    optimized_path: Path | None = None,
    validate: bool = True,
    exact_integers: bool = False,
) -> ort.InferenceSession:
    """Load a model on the CPU.

    Args:
        model: A file, its bytes, or a model in memory.
        threads: Threads within an operator; operators run one after the other.
        optimize: Let onnxruntime rewrite the graph, as it does for a user.
        profile_prefix: Write onnxruntime's profile to files whose names begin so.
        optimized_path: Write the graph that onnxruntime runs, in its own operators, to this file.
        validate: Check a file before onnxruntime sees it; skip it only where that was done before.
        exact_integers: Multiply uint8 by int8 without overflow on x86 without VNNI, slower there.

    Raises:
        ModelFileError: the file is no valid model, or onnxruntime cannot run it.
    """
    name = str(model) if isinstance(model, Path) else "the model"
    if isinstance(model, Path) and validate:
        from edgekit.runtime.model_file import read_model

        read_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if exact_integers:
        options.add_session_config_entry(EXACT_INTEGERS, "1")
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    if isinstance(model, Path):
        source: str | bytes = str(model)
    else:
        source = model if isinstance(model, bytes) else model.SerializeToString()
    try:
        return ort.InferenceSession(
            source,
            options,
            providers=["CPUExecutionProvider"],
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ModelFileError(f"{name}: onnxruntime cannot run it: {reason_of(error)}") from error


def model_input(session: ort.InferenceSession) -> ort.NodeArg:
    """The one input of a classifier.

    Raises:
        ModelFileError: the model has none, or several, or it is no tensor of numbers.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ModelFileError(
            f"the model has {len(inputs)} inputs ({names}); an image classifier has one"
        )
    if inputs[0].type not in INPUT_TYPES:
        raise ModelFileError(f"the model's input is {inputs[0].type}; give one that takes images")
    return inputs[0]


def input_spec(session: ort.InferenceSession) -> InputSpec:
    """What a classifier's one input is.

    Raises:
        ModelFileError: as `model_input`.
    """
    entry = model_input(session)
    return InputSpec(entry.name, tuple(entry.shape), np.dtype(INPUT_TYPES[entry.type]))


def input_name(session: ort.InferenceSession) -> str:
    """Name of a classifier's one input."""
    return str(model_input(session).name)


def run_batch(session: ort.InferenceSession, batch: NDArray[np.generic]) -> NDArray[np.float32]:
    """Run a classifier on any number of samples.

    A model whose batch axis is fixed is fed in pieces of that size, the last one filled up.

    Args:
        session: A model with one input.
        batch: Samples [N, ...]; cast to the type that the model takes.

    Returns:
        The first output, one row a sample: float32 [N, classes].

    Raises:
        DataError: the samples do not fit the model's input.
        ModelFileError: the model's input or output is not a classifier's.
    """
    spec = input_spec(session)
    return run_pieces(spec, lambda samples: session.run(None, {spec.name: samples})[0], batch)


def run_pieces(
    spec: InputSpec,
    run: Callable[[NDArray[np.generic]], object],
    batch: NDArray[np.generic],
) -> NDArray[np.float32]:
    """What `run_batch` does, with any function that runs the model on a batch that it takes.

    Args:
        spec: The model's input.
        run: Returns the model's first output for samples of the input's type.
        batch: Samples [N, ...].

    Raises:
        DataError: the samples do not fit the input.
        ModelFileError: the function fails, or its output is not a classifier's.
    """
    check_samples(spec, batch.shape)
    samples = to_input_type(batch, spec.dtype)
    fixed = spec.shape[0]
    if not isinstance(fixed, int) or fixed == len(samples):
        return _logits(run, samples)
    short = -len(samples) % fixed
    padded = np.concatenate([samples, np.repeat(samples[-1:], short, axis=0)])
    pieces = [_logits(run, padded[start : start + fixed]) for start in range(0, len(padded), fixed)]
    return np.concatenate(pieces)[: len(samples)]


def to_input_type(batch: NDArray[np.generic], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Samples in the type that a model takes; a model of pixels gets whole numbers.

    Raises:
        DataError: the model takes uint8, and the samples are not whole numbers from 0 to 255.
    """
    if dtype != np.uint8 or batch.dtype == np.uint8:
        return batch.astype(dtype, copy=False)
    pixels = np.rint(batch.astype(np.float32, copy=False))
    near = np.abs(pixels - batch).max(initial=0.0) < _WHOLE
    if not near or pixels.min(initial=0.0) < 0 or pixels.max(initial=0.0) > 255:
        raise DataError(
            "the model takes pixels, uint8 from 0 to 255, and normalizes them itself: give "
            f"--mean 0 --std {_PIXEL:.9f}, which leaves them as they are"
        )
    return pixels.astype(np.uint8)


def _logits(
    run: Callable[[NDArray[np.generic]], object], samples: NDArray[np.generic]
) -> NDArray[np.float32]:
    try:
        output = run(samples)
    except Exception as error:  # the engines' exceptions share no base class
        raise ModelFileError(f"the model cannot be run: {reason_of(error)}") from error
    if not isinstance(output, np.ndarray) or output.shape[:1] != (len(samples),):
        raise ModelFileError("the model's first output is not one row a sample; not a classifier")
    return output.reshape(len(samples), -1).astype(np.float32, copy=False)


def check_samples(spec: InputSpec, shape: tuple[int, ...]) -> None:
    """Compare the shape of samples [N, ...] with what a model takes; N may be any.

    Raises:
        DataError: they do not fit.
    """
    wanted = spec.shape
    if wanted[:1] == (0,):
        raise ModelFileError(
            f"the model's input {spec.name!r} takes {list(wanted)}, batches of no sample: export "
            "it with an open batch axis"
        )
    fits = len(wanted) == len(shape) and all(
        not isinstance(dim, int) or dim == size
        for dim, size in zip(wanted[1:], shape[1:], strict=True)
    )
    if not fits:
        raise DataError(
            f"the model's input {spec.name!r} takes {list(wanted)}, the data gives "
            f"{['N', *shape[1:]]}: use data of that size"
        )
