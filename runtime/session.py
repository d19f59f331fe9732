"""Models as onnxruntime runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from edgekit.runtime.errors import DataError, ModelFileError
from edgekit.runtime.model_file import read_model

# What onnxruntime calls the types that a classifier's input may have.
INPUT_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
_ERRORS_ONLY = 3


def open_session(
    model: Path | bytes | onnx.ModelProto,
    *,
    threads: int = 1,
    optimize: bool = True,
    profile_prefix: Path | None = None,
) -> ort.InferenceSession:
    """Load a model on the CPU.

    Args:
        model: A file (validated first), its bytes, or a model in memory.
        threads: Threads within an operator; operators run one after the other.
        optimize: Let onnxruntime rewrite the graph, as it does for a user.
        profile_prefix: Write onnxruntime's profile to files whose names begin so.

    Raises:
        ModelFileError: the file is no valid model, or onnxruntime cannot run it.
    """
    name = str(model) if isinstance(model, Path) else "the model"
    if isinstance(model, Path):
        read_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    try:
        return ort.InferenceSession(
            str(source) if isinstance(source, Path) else source,
            options,
            providers=["CPUExecutionProvider"],
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ModelFileError(f"{name}: onnxruntime cannot run it: {_reason(error)}") from error


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
    entry = model_input(session)
    _check_shape(entry, batch.shape)
    samples = batch.astype(INPUT_TYPES[entry.type], copy=False)
    fixed = entry.shape[0]
    if not isinstance(fixed, int) or fixed == len(samples):
        return _logits(session, entry.name, samples)
    short = -len(samples) % fixed
    padded = np.concatenate([samples, np.repeat(samples[-1:], short, axis=0)])
    pieces = [
        _logits(session, entry.name, padded[start : start + fixed])
        for start in range(0, len(padded), fixed)
    ]
    return np.concatenate(pieces)[: len(samples)]


def _logits(
    session: ort.InferenceSession, name: str, samples: NDArray[np.generic]
) -> NDArray[np.float32]:
    try:
        output = session.run(None, {name: samples})[0]
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ModelFileError(f"onnxruntime cannot run the model: {_reason(error)}") from error
    if not isinstance(output, np.ndarray) or len(output) != len(samples):
        raise ModelFileError("the model's first output is not one row a sample; not a classifier")
    return output.reshape(len(samples), -1).astype(np.float32, copy=False)


def _check_shape(entry: ort.NodeArg, shape: tuple[int, ...]) -> None:
    wanted = entry.shape
    fits = len(wanted) == len(shape) and all(
        not isinstance(dim, int) or dim == size
        for dim, size in zip(wanted[1:], shape[1:], strict=True)
    )
    if not fits:
        raise DataError(
            f"the model's input {entry.name!r} takes {wanted}, the data gives "
            f"{['N', *shape[1:]]}: use data of that size"
        )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
