"""Where the zero point of quantized codes is given.

Most operators on codes take it beside them. Gather, Max and Min take none: their codes have the
zero point of the quantizer that made the codes they are compared with, or of the operator that
decodes what comes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from math import prod

import onnx_ir as ir

from edgekit.bench.shapes import operator, static_shape
from edgekit.bench.uses import makers
from edgekit.bench.weights import RESHAPES, input_at, value_type

_CONV = {0: (2, 0), 3: (5, 0)}
_ELEMENTWISE = {0: (2, -1), 3: (5, -1)}
_UNARY = {0: (2, -1)}
# Input that takes codes -> (input with their zero point, axis of the codes that it lies along);
# those of QGemm and QLinearConcat depend on the node, see `code_inputs`.
ZERO_POINTS: dict[str, dict[int, tuple[int, int]]] = {
    "ConvInteger": {0: (2, 0), 1: (3, 0)},
    "DequantizeLinear": {0: (2, 1)},  # or along the axis of its attribute
    "MatMulInteger": {0: (2, -2), 1: (3, -1)},
    "QLinearConv": _CONV,
    "QLinearMatMul": {0: (2, -2), 3: (5, -1)},
    "com.microsoft.DynamicQuantizeLSTM": {1: (9, 0), 2: (11, 0)},  # or [directions, columns]
    "com.microsoft.DynamicQuantizeMatMul": {1: (3, -1)},
    "com.microsoft.MatMulIntegerToFloat": {0: (4, -2), 1: (5, -1)},
    "com.microsoft.QAttention": {0: (6, -1), 1: (7, -1)},
    "com.microsoft.QLinearAdd": _ELEMENTWISE,
    "com.microsoft.QLinearAveragePool": _UNARY,
    "com.microsoft.QLinearConv": _CONV,
    "com.microsoft.QLinearGlobalAveragePool": _UNARY,
    "com.microsoft.QLinearLeakyRelu": _UNARY,
    "com.microsoft.QLinearMul": _ELEMENTWISE,
    "com.microsoft.QLinearReduceMean": _UNARY,
    "com.microsoft.QLinearSigmoid": _UNARY,
    "com.microsoft.QLinearSoftmax": _UNARY,
    "com.ms.internal.nhwc.QLinearConv": _CONV,
}
# Input with the zero point of the codes that come out.
OUTPUT_ZERO_POINTS: dict[str, int] = {
    "QLinearConv": 7,
    "QLinearMatMul": 7,
    "QuantizeLinear": 2,
    "com.microsoft.QGemm": 8,
    "com.microsoft.QLinearAdd": 7,
    "com.microsoft.QLinearAveragePool": 4,
    "com.microsoft.QLinearConcat": 1,
    "com.microsoft.QLinearConv": 7,
    "com.microsoft.QLinearGlobalAveragePool": 4,
    "com.microsoft.QLinearLeakyRelu": 4,
    "com.microsoft.QLinearMul": 7,
    "com.microsoft.QLinearReduceMean": 4,
    "com.microsoft.QLinearSigmoid": 4,
    "com.microsoft.QLinearSoftmax": 4,
    "com.ms.internal.nhwc.QLinearConv": 7,
}
# Operators on codes that leave their scale and zero point as they are, and the inputs with codes.
_KEEP_CODES: dict[str, slice] = {
    **dict.fromkeys(RESHAPES, slice(1)),
    **dict.fromkeys(("Expand", "Gather", "MaxPool", "Pad", "Slice", "Split", "Tile"), slice(1)),
    **dict.fromkeys(("Concat", "Max", "Min"), slice(None)),
}
_WITHOUT = ("Gather", "Max", "Min")


def zero_point(node: ir.Node, index: int) -> tuple[ir.Value | None, int] | None:
    """Zero point of the codes at an input of a node, and the axis of the codes that it lies along.

    Returns:
        None where the operator takes no codes there; the value alone is None where none is given:
        then it is zero.
    """
    name = operator(node)
    if name in _WITHOUT and value_type(node.inputs[index]).is_integer():
        return _zero_point_around(node, index), 0
    found = code_inputs(node).get(index)
    return None if found is None else (input_at(node, found[0]), found[1])


def code_inputs(node: ir.Node) -> dict[int, tuple[int, int]]:
    """A node's inputs that take codes, each with the input of their zero point and its axis."""
    name = operator(node)
    if name == "com.microsoft.QLinearConcat":  # any number of codes, scale, zero point
        return {index: (index + 2, 0) for index in range(2, len(node.inputs), 3)}
    if name == "com.microsoft.QGemm":
        transposed = node.attributes.get("transB")
        is_transposed = transposed is not None and transposed.as_int() != 0
        return {0: (2, -1), 3: (5, 0 if is_transposed else 1)}
    return ZERO_POINTS.get(name, {})


def _zero_point_around(node: ir.Node, index: int) -> ir.Value | None:
    """Of the codes beside it, else of those that come out; None where each channel has its own."""
    others = [v for i, v in enumerate(node.inputs) if i != index and operator(node) != "Gather"]
    found = next(chain(_made_with(others), _read_with(node.outputs)), None)
    shape = static_shape(found)
    return found if shape is not None and prod(shape) == 1 else None


def _made_with(values: Iterable[ir.Value | None]) -> Iterator[ir.Value | None]:
    """The zero points with which codes were made."""
    for node in makers(values, lambda n: n.inputs[_kept(operator(n))]):
        if operator(node) in OUTPUT_ZERO_POINTS:
            yield input_at(node, OUTPUT_ZERO_POINTS[operator(node)])


def _read_with(values: Iterable[ir.Value]) -> Iterator[ir.Value | None]:
    """The zero points with which codes are read."""
    waiting, seen = list(values), set[ir.Node]()
    while waiting:
        for node, index in waiting.pop().uses():
            name = operator(node)
            found = code_inputs(node).get(index)
            if found is not None:
                yield input_at(node, found[0])
            elif node not in seen and index in range(len(node.inputs))[_kept(name)]:
                seen.add(node)
                waiting += node.outputs


def _kept(name: str) -> slice:
    return _KEEP_CODES.get(name, slice(0))
