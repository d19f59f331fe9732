"""Run thresholds on the codes: Max and Min of uint8 or int8 instead of float32.

Between a DequantizeLinear and a QuantizeLinear of one scale s and zero point z, Max with a
threshold t, which a batch norm before a ReLU becomes (passes/turn_batch_norm_into_threshold.py), is

    quantize(max(dequantize(q), t)) = max(q, quantize(t)),   quantize(t) = round(t / s) + z

exactly, as rounding keeps the order. So the pair around it goes, and with it traffic in float32.

A limit is spread over the map by an Expand, which an engine computes once, at load: comparing two
tensors of one shape is a single run over memory, one of a number for each channel starts over at
every position.

onnxruntime has Max and Min of 8-bit integers from 1.31 on. `runs_thresholds_on_codes` asks the one
that is installed; without them the float form stays.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

from edgekit.export.passes.values import names, store
from edgekit.export.shared_scales import is_threshold
from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.session import open_session

_EIGHT_BITS = (ir.DataType.UINT8, ir.DataType.INT8)


@cache
def runs_thresholds_on_codes() -> bool:
    """Whether the installed onnxruntime has Max and Min of 8-bit integers."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13]>'
        "g (uint8[2] a, uint8[2] b, int8[2] c, int8[2] d) => (uint8[2] x, int8[2] y)"
        "{ m = Max(a, b) x = Min(m, b) n = Max(c, d) y = Min(n, d) }"
    )
    try:
        open_session(model)
    except ModelFileError:
        return False
    return True


def put_thresholds_on_codes(model: ir.Model) -> int:
    """Rewrite a QDQ model in place; returns how many thresholds now compare codes."""
    if not runs_thresholds_on_codes():
        return 0
    done, constants = 0, _Constants(model)
    for node in list(model.graph):
        source = node.inputs[0].producer() if node.inputs and node.inputs[0] else None
        if is_threshold(node) and source is not None and source.op_type == "DequantizeLinear":
            done += _rewrite(constants, source, _chain(node))
    common.RemoveUnusedNodesPass()(model)
    return done


def _chain(node: ir.Node) -> list[ir.Node]:
    """A threshold and those that follow it with nothing between."""
    chain = [node]
    while not (value := chain[-1].outputs[0]).is_graph_output():
        readers = value.consumers()
        if len(readers) != 1 or not is_threshold(readers[0]):
            break
        chain.append(readers[0])
    return chain


class _Constants:
    """What is stored on the way; the size of a map once."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self._taken = names(model)
        self._sizes: dict[tuple[int, ...], ir.Value] = {}

    def add(self, array: NDArray[Any], stem: str) -> ir.Value:
        return store(self.model, array, stem, taken=self._taken)

    def size(self, sides: tuple[int, ...]) -> ir.Value:
        if sides not in self._sizes:
            stem = f"shape_{'x'.join(map(str, sides))}"
            self._sizes[sides] = self.add(np.asarray(sides, np.int64), stem)
        return self._sizes[sides]


def _rewrite(constants: _Constants, dequantize: ir.Node, chain: list[ir.Node]) -> int:
    result = chain[-1].outputs[0]
    quantizers = result.consumers()
    grid = Grid.of(dequantize)
    if (
        grid is None
        or result.is_graph_output()
        or not quantizers
        or any(q.op_type != "QuantizeLinear" or Grid.of(q) != grid for q in quantizers)
    ):
        return 0
    graph = constants.model.graph
    value = dequantize.inputs[0]
    for node in chain:
        limit = node.inputs[1]
        assert limit is not None
        assert limit.const_value is not None
        codes = grid.quantize(limit.const_value.numpy())
        if grid.ends_at(codes, node.op_type):
            continue
        stored = constants.add(codes, f"{node.outputs[0].name}_limit")
        spread = _spread(constants, stored, result, chain[-1])
        compare = ir.node(node.op_type, [value, spread], name=node.name)
        graph.insert_after(chain[-1], compare)
        value = compare.outputs[0]
        value.name = f"{node.outputs[0].name}_codes"
        value.type, value.shape = ir.TensorType(grid.dtype), result.shape
    assert value is not None
    for quantizer in quantizers:
        ir.convenience.replace_all_uses_with(quantizer.outputs[0], value)
    graph.remove([*quantizers, *reversed(chain)], safe=True)
    return len(chain)


def _spread(constants: _Constants, limit: ir.Value, like: ir.Value, before: ir.Node) -> ir.Value:
    """The limit at every position of a map of known size; as it is for any other."""
    sides = tuple(like.shape or ())[1:]
    known = tuple(side for side in sides if isinstance(side, int))
    if len(known) < 2 or len(known) < len(sides):
        return limit
    assert limit.const_value is not None
    if limit.const_value.size == int(np.prod(known)):
        return limit
    expand = ir.node("Expand", [limit, constants.size(known)], name=f"{limit.name}_spread")
    constants.model.graph.insert_before(before, expand)
    spread = expand.outputs[0]
    leading = limit.const_value.shape.numpy()[: -len(known)]
    spread.name, spread.shape = f"{limit.name}_map", ir.Shape((*leading, *known))
    spread.type = ir.TensorType(limit.const_value.dtype)
    return spread


class Grid:
    """Scale and zero point of a quantizer of a whole tensor, to 8 bits."""

    def __init__(self, scale: float, zero_point: int, dtype: ir.DataType) -> None:
        self.scale, self.zero_point, self.dtype = scale, zero_point, dtype

    @classmethod
    def of(cls, node: ir.Node) -> Grid | None:
        """The grid of a QuantizeLinear or DequantizeLinear; None where it is another kind."""
        if len(node.inputs) < 3 or any(value is None for value in node.inputs[1:3]):
            return None
        scale, zero_point = (value.const_value for value in node.inputs[1:3] if value is not None)
        if scale is None or zero_point is None or scale.size != 1:
            return None
        if zero_point.dtype not in _EIGHT_BITS:
            return None
        return cls(scale.numpy().item(), int(zero_point.numpy().item()), zero_point.dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.scale, self.zero_point, self.dtype))

    def quantize(self, values: NDArray[np.float32]) -> NDArray[np.integer]:
        """Codes of values, as QuantizeLinear rounds them: half to even."""
        kind = self.dtype.numpy()
        limits = np.iinfo(kind)
        codes = np.rint(values / np.float32(self.scale)) + self.zero_point
        clipped: NDArray[np.integer] = np.clip(codes, limits.min, limits.max).astype(kind)
        return clipped

    def ends_at(self, codes: NDArray[np.integer], op_type: str) -> bool:
        """Whether Max or Min with these codes changes none."""
        limits = np.iinfo(self.dtype.numpy())
        return bool((codes == (limits.min if op_type == "Max" else limits.max)).all())
