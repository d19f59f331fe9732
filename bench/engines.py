"""The engines that run a model file for `bench`; all of them take the same .onnx file.

An engine is imported when it is asked for, not before: an extra may have to install it, and a
fresh process times its import and holds nothing else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.runtime.session import InputSpec

DEFAULT_ENGINE = "onnxruntime"


class LoadedModel(Protocol):
    """A model file in an engine."""

    @property
    def input(self) -> InputSpec:
        """What the model takes."""

    def bind(self, batch: NDArray[np.generic]) -> Callable[[], object]:
        """A function that runs one batch, of the input's own type and shape."""

    def classify(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """The first output for samples [N, ...], one row a sample: float32 [N, classes].

        Raises:
            DataError: the samples do not fit.
            ModelFileError: the model cannot be run.
        """


@dataclass(frozen=True)
class Engine:
    """One way to run a model file.

    Attributes:
        module: The module that knows it: its `prepare()` gives the engine's version.
        model: Name of the class there that loads a file that was validated before, to run on so
            many threads.
    """

    module: str
    model: str

    def prepare(self) -> str:
        """Import the engine; returns its version.

        Raises:
            MissingExtraError: it is not installed.
        """
        return str(self._imported().prepare())

    def open(self, path: Path, threads: int) -> LoadedModel:
        """Load a model file.

        Raises:
            ModelFileError: the engine cannot run it.
        """
        loaded: LoadedModel = getattr(self._imported(), self.model)(path, threads)
        return loaded

    def _imported(self) -> Any:
        return importlib.import_module(self.module)


ENGINES: dict[str, Engine] = {
    "onnxruntime": Engine("edgekit.bench.engine_onnxruntime", "OnnxruntimeModel"),
    "openvino": Engine("edgekit.bench.engine_openvino", "OpenvinoModel"),
    "torch": Engine("edgekit.bench.engine_torch", "TorchModel"),
}


def find_engine(name: str) -> Engine:
    """An entry of `ENGINES`.

    Raises:
        InputError: there is no such engine.
    """
    if name not in ENGINES:
        raise InputError(f"--engine {name}: no such engine; choose one of {', '.join(ENGINES)}")
    return ENGINES[name]
