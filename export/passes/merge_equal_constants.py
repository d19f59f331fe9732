"""Store once what is stored twice: initializers of the same type, shape and bytes.

Tensors are compared by a few of their elements first, and by a digest of all bytes where these are
equal, so that most are never read as a whole. Each graph is looked at alone. Initializers that are
graph inputs or outputs stay. So do those of half precision: onnxruntime's CPU kernels read them
through a Cast, which it computes at load for one reader and anew in each run for several.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

import onnx_ir as ir

from edgekit.export.graph import graphs, stored_bytes

_SAMPLES = 64


class MergeEqualConstants(ir.passes.InPlacePass):
    """Let readers of equal initializers read one of them.

    Args:
        largest: Bytes of the largest that are merged; None for any.
    """

    def __init__(self, largest: int | None = None) -> None:
        super().__init__()
        self._largest = largest

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Merge in place."""
        merged = sum(_merge(graph, self._largest) for graph in graphs(model))
        return ir.passes.PassResult(model, modified=merged > 0)


def _merge(graph: ir.Graph, largest: int | None) -> int:
    alike: dict[Hashable, list[ir.Value]] = {}
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or value.is_graph_output():
            continue
        if tensor.dtype != ir.DataType.FLOAT16 and (
            largest is None or stored_bytes(tensor) <= largest
        ):
            alike.setdefault(_sample(tensor), []).append(value)
    merged = 0
    for values in alike.values():
        if len(values) == 1:
            continue
        first: dict[bytes, ir.Value] = {}
        for value in values:
            assert value.const_value is not None
            kept = first.setdefault(_digest(value.const_value), value)
            if kept is not value:
                value.replace_all_uses_with(kept)
                graph.initializers.pop(str(value.name))
                merged += 1
    return merged


def _sample(tensor: ir.TensorProtocol) -> Hashable:
    """What equal tensors have in common, and few others."""
    shape = tuple(tensor.shape.numpy())
    if tensor.dtype == ir.DataType.STRING or not tensor.size:
        return tensor.dtype, shape
    flat = tensor.numpy().reshape(-1)
    return tensor.dtype, shape, flat[:: max(1, flat.size // _SAMPLES)].tobytes()


def _digest(tensor: ir.TensorProtocol) -> bytes:
    if tensor.dtype == ir.DataType.STRING:
        return repr(tensor.numpy().tolist()).encode()
    return hashlib.sha256(tensor.tobytes()).digest()
