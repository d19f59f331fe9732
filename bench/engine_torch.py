"""A model file in torch, eager mode, through the converter onnx2torch.

The converter reads operator sets up to 17 and weights that are plain tensors, so it gets a copy of
the graph, in memory, with constants folded and the operator set lowered by onnx's own version
converter. It has no QuantizeLinear: a quantized file is refused, not run at another precision.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.optimizer import fold_constants_ir

from edgekit.export.calibration import single_input
from edgekit.export.graph import load_graph
from edgekit.export.quiet import quiet
from edgekit.runtime.errors import MissingExtraError, ModelFileError
from edgekit.runtime.session import InputSpec, run_pieces
from edgekit.runtime.torchvision_import import import_torchvision

EXTRA = "torch-engine"
LATEST_OPSET = 17
_NO_LIMIT = 1 << 62


def prepare() -> str:
    """Import torch and the converter; returns torch's version.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    _converter()
    return str(_torch().__version__)


class TorchModel:
    """A model file as a torch module in eager mode."""

    def __init__(self, path: Path, threads: int) -> None:
        self._torch = _torch()
        self._threads = threads
        graph = load_graph(path)
        value = single_input(graph)
        shape = () if value.shape is None else tuple(value.shape)
        dtype = ir.DataType.FLOAT if value.dtype is None else value.dtype
        self.input = InputSpec(
            str(value.name),
            tuple(dim if isinstance(dim, int) else dim.value for dim in shape),
            np.dtype(dtype.numpy()),
        )
        _refuse_quantized(graph, path)
        try:
            self._module = _converter().convert(_readable(graph)).eval()
        except Exception as error:  # the converter raises whatever its parts raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ModelFileError(f"{path}: torch (onnx2torch) cannot run it: {reason}") from error

    def bind(self, batch: NDArray[np.generic]) -> Callable[[], object]:
        """A function that runs one batch, of the input's own type and shape."""
        tensor = self._torch.from_numpy(batch)
        return lambda: self._run(tensor)

    def classify(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """The first output for samples [N, ...], one row a sample: float32 [N, classes]."""

        def run(samples: NDArray[np.generic]) -> object:
            return self._run(self._torch.from_numpy(samples)).numpy()

        return run_pieces(self.input, run, batch)

    def _run(self, tensor: Any) -> Any:
        if self._torch.get_num_threads() != self._threads:  # one number for the whole process
            self._torch.set_num_threads(self._threads)
        with self._torch.inference_mode():
            output = self._module(tensor)
        return output[0] if isinstance(output, (tuple, list)) else output


def _refuse_quantized(graph: ir.Model, path: Path) -> None:
    for node in graph.graph:
        if "Quant" in node.op_type or node.op_type.startswith(("QLinear", "Dequantize")):
            raise ModelFileError(
                f"{path}: torch (onnx2torch) has no {node.op_type} (node {node.name!r}): measure "
                "a quantized file with --engine onnxruntime or openvino"
            )


def _readable(graph: ir.Model) -> onnx.ModelProto:
    """The graph in terms that the converter knows; `graph` is changed."""
    with quiet():
        fold_constants_ir(graph, input_size_limit=_NO_LIMIT, output_size_limit=_NO_LIMIT)
    for node in graph.graph:
        if node.op_type == "Reshape" and _keeps_no_zero(node):
            node.attributes.pop("allowzero", None)
    model = ir.to_proto(graph)
    if graph.opset_imports.get("", 0) <= LATEST_OPSET:
        return model
    return onnx.version_converter.convert_version(model, LATEST_OPSET)


def _keeps_no_zero(node: ir.Node) -> bool:
    """Whether a Reshape's target is constant and has no zero, so that `allowzero` is idle."""
    target = None if node.inputs[1] is None else node.inputs[1].const_value
    return target is not None and bool(np.all(target.numpy() != 0))


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", EXTRA) from error
    return torch


def _converter() -> Any:
    _torch()
    try:
        import_torchvision()  # the converter imports it
        with quiet():
            import onnx2torch
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx2torch", EXTRA) from error
    return onnx2torch
