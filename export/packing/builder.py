"""Write a few nodes, inline or as the body of a model-local function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray


class Builder:
    """Nodes and the constants that they read, each constant once.

    Attributes:
        nodes: What was built, in order.
        constants: Initializers that the nodes read, for inline nodes.
    """

    def __init__(self, prefix: str, *, in_function: bool = False) -> None:
        """Prepare an empty list.

        Args:
            prefix: Begins the names of all values, so that they differ from those of the model.
            in_function: Constants become nodes, since a function has no initializers.
        """
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self._prefix = prefix
        self._in_function = in_function
        self._known: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._count = 0

    def constant(self, array: NDArray[Any]) -> ir.Value:
        """A constant; one of the same type, shape and values is handed out again."""
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self._constant(array)
        return self._known[key]

    def stored(self, array: NDArray[Any]) -> ir.Value:
        """An initializer, also where the nodes form a function."""
        value = ir.Value(name=self._name(), const_value=compact_tensor(array))
        self.constants.append(value)
        return value

    def add(self, op_type: str, *inputs: ir.Value, domain: str = "", **attributes: Any) -> ir.Value:
        """A node with one output."""
        return self.split(op_type, inputs, 1, domain=domain, **attributes)[0]

    def split(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        outputs: int,
        *,
        domain: str = "",
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        """A node with several outputs."""
        node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=outputs)
        for output in node.outputs:
            output.name = self._name()
        self.nodes.append(node)
        return node.outputs

    def _constant(self, array: NDArray[Any]) -> ir.Value:
        if self._in_function:
            return self.add("Constant", value=compact_tensor(array))
        return self.stored(array)

    def _name(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count}"


def compact_tensor(array: NDArray[Any]) -> ir.TensorProtocol:
    """A tensor in its shortest form: int64 as variable-length integers where that is shorter."""
    if array.dtype != np.int64:
        return ir.tensor(np.asarray(array, order="C"))
    proto = onnx.TensorProto(data_type=onnx.TensorProto.INT64, dims=array.shape)
    proto.int64_data.extend(int(item) for item in array.flat)
    if proto.ByteSize() >= array.nbytes:
        return ir.tensor(array)
    return ir.serde.deserialize_tensor(proto)
