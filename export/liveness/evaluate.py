"""What an activation makes of a constant, as onnxruntime computes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from edgekit.export.passes.base import NotExactError, opset
from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.session import open_session

Floats = NDArray[np.float64]


class Evaluator:
    """Runs nodes alone; nodes that compute the same share a session."""

    def __init__(self, model: ir.Model) -> None:
        self._opset = opset(model)
        self._ir_version = model.ir_version
        self._sessions: dict[bytes, onnxruntime.InferenceSession] = {}

    def __call__(
        self,
        node: ir.Node,
        numbers: Floats,
        dtype: ir.DataType,
        settings: Sequence[ir.TensorProtocol | None],
    ) -> Floats:
        """Apply a node to some numbers.

        Args:
            node: A node of one data input that treats every element alike.
            numbers: Finite numbers [any].
            dtype: Type of its input.
            settings: Its other inputs.

        Raises:
            NotExactError: onnxruntime does not run it alone.
        """
        proto = ir.serde.serialize_node(node)
        arrays = {f"s{i}": each.numpy() for i, each in enumerate(settings) if each is not None}
        proto.name = ""
        names = [f"s{i}" for i in range(len(settings))]
        proto.input[:] = ["x", *(name if name in arrays else "" for name in names)]
        proto.output[:] = ["y"]
        graph = onnx.helper.make_graph(
            [proto],
            "alone",
            [onnx.helper.make_tensor_value_info("x", dtype.value, ["n"])],
            [onnx.ValueInfoProto(name="y")],
            [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
        )
        outputs = self._session(graph).run(None, {"x": numbers.astype(dtype.numpy())})
        return np.asarray(outputs[0], np.float64)

    def _session(self, graph: onnx.GraphProto) -> onnxruntime.InferenceSession:
        key = graph.SerializeToString(deterministic=True)
        if key not in self._sessions:
            imports = [onnx.helper.make_opsetid("", self._opset)]
            model = onnx.helper.make_model(
                graph, opset_imports=imports, ir_version=self._ir_version
            )
            try:
                self._sessions[key] = open_session(model, optimize=False)
            except ModelFileError as error:
                raise NotExactError(f"it does not run alone ({error})") from error
        return self._sessions[key]
