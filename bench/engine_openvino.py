"""A model file in OpenVINO's CPU plugin.

OpenVINO may compute float32 models in bfloat16 where the processor has instructions for it. Here
it is told to keep to float32, so that the engines are compared at the precision that the file has.

On its import, OpenVINO would tell an outside service that it is used, and leave a file in the home
folder. It does neither where the package `openvino_telemetry` cannot be imported, so that package
is hidden meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.errors import MissingExtraError, ModelFileError
from edgekit.runtime.session import InputSpec, run_pieces

_TELEMETRY = "openvino_telemetry"


def prepare() -> str:
    """Import OpenVINO; returns its version.

    Raises:
        MissingExtraError: it is not installed.
    """
    return str(_openvino().__version__).partition("-")[0]


class OpenvinoModel:
    """A model file compiled by OpenVINO for the CPU, one stream."""

    def __init__(self, path: Path, threads: int) -> None:
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = _openvino().Core()
        try:
            compiled = core.compile_model(core.read_model(path), "CPU", settings)
        except Exception as error:  # OpenVINO raises RuntimeError and its own classes
            raise ModelFileError(f"{path}: openvino cannot run it: {_reason(error)}") from error
        self._request = compiled.create_infer_request()
        self._compiled = compiled

    @cached_property
    def input(self) -> InputSpec:
        """What the model takes.

        Raises:
            ModelFileError: it has several inputs.
        """
        if len(self._compiled.inputs) != 1:
            raise ModelFileError(
                f"the model has {len(self._compiled.inputs)} inputs; an image classifier has one"
            )
        (entry,) = self._compiled.inputs
        shape = tuple(axis.get_length() if axis.is_static else None for axis in entry.partial_shape)
        return InputSpec(entry.any_name, shape, np.dtype(entry.element_type.to_dtype()))

    def bind(self, batch: NDArray[np.generic]) -> Callable[[], object]:
        """A function that runs one batch, of the input's own type and shape."""
        return lambda: self._run(batch)

    def classify(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """The first output for samples [N, ...], one row a sample: float32 [N, classes]."""
        return run_pieces(self.input, lambda samples: np.array(self._run(samples)[0]), batch)

    def _run(self, batch: NDArray[np.generic]) -> Any:
        return self._request.infer({0: batch}, share_inputs=True, share_outputs=True)


def _openvino() -> Any:
    hide = _TELEMETRY not in sys.modules
    if hide:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    finally:
        if hide:
            del sys.modules[_TELEMETRY]
    return openvino


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
