"""What onnxruntime makes of a packed file: whether it computed the decoder away at load."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.graph import session_source
from edgekit.runtime.errors import ModelFileError

# An option of onnxruntime: results of constants that are larger than so many bytes stay computed.
FOLDING_LIMIT = "optimization.constant_folding_max_output_size_in_bytes"

_ERRORS_ONLY = 3


@dataclass(frozen=True)
class Loaded:
    """A model after onnxruntime's own optimizations.

    Attributes:
        operators: Nodes of the optimized graph by operator.
        computed: Names of the values that its nodes compute.
        outputs: What it gave.
    """

    operators: Counter[str]
    computed: frozenset[str]
    outputs: tuple[NDArray[Any], ...]

    def same_outputs(self, other: Loaded) -> bool:
        """Whether every output is equal, bit for bit."""
        return len(self.outputs) == len(other.outputs) and all(
            a.dtype == b.dtype and a.shape == b.shape and _same_bits(a, b)
            for a, b in zip(self.outputs, other.outputs, strict=True)
        )


def _same_bits(first: NDArray[Any], second: NDArray[Any]) -> bool:
    if first.dtype == object:  # text, of which the bytes of an array are addresses
        return np.array_equal(first, second)
    return first.tobytes() == second.tobytes()


def load(
    model: ir.Model, inputs: Mapping[str, NDArray[Any]], options: Mapping[str, str] | None = None
) -> Loaded:
    """Open a model as a user does, save what onnxruntime made of it, and run it.

    Args:
        model: The model.
        inputs: An array for each input.
        options: Entries of onnxruntime's session configuration.

    Raises:
        ModelFileError: onnxruntime cannot load or run it.
    """
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = _ERRORS_ONLY
    for key, text in (options or {}).items():
        settings.add_session_config_entry(key, text)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder, session_source(model) as source:
        path = Path(folder) / "optimized.onnx"
        settings.optimized_model_filepath = str(path)
        try:
            session = ort.InferenceSession(
                str(source) if isinstance(source, Path) else source,
                settings,
                providers=["CPUExecutionProvider"],
            )
            outputs = session.run(None, dict(inputs))
        except Exception as error:  # onnxruntime's exceptions share no base class
            reason = " ".join(str(error).split())
            raise ModelFileError(f"onnxruntime cannot run the model: {reason}") from error
        graph = onnx.load(path, load_external_data=False).graph
    return Loaded(
        operators=Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in graph.node),
        computed=frozenset(name for node in graph.node for name in node.output),
        outputs=tuple(outputs),
    )
