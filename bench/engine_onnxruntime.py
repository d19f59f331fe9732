"""A model file in onnxruntime, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgekit.runtime.session import InputSpec, input_spec, open_session, run_batch


def prepare() -> str:
    """Onnxruntime's version."""
    return str(ort.__version__)


class OnnxruntimeModel:
    """A model file as a session of onnxruntime."""

    def __init__(self, path: Path, threads: int) -> None:
        self.session = open_session(path, threads=threads, validate=False)

    @cached_property
    def input(self) -> InputSpec:
        """What the model takes."""
        return input_spec(self.session)

    def bind(self, batch: NDArray[np.generic]) -> Callable[[], object]:
        """A function that runs one batch, of the input's own type and shape."""
        feed = {self.input.name: batch}
        return lambda: self.session.run(None, feed)

    def classify(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """The first output for samples [N, ...], one row a sample: float32 [N, classes]."""
        return run_batch(self.session, batch)
