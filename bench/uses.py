"""Where a stored tensor ends up and a value comes from, past all that hands it on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edgekit.bench.parts import PARTS
from edgekit.bench.shapes import operator
from edgekit.bench.weights import CASTS, RESHAPES, input_at

_QUANTIZERS = frozenset({"DequantizeLinear", "QuantizeLinear"})
_WHOLE = RESHAPES | CASTS | _QUANTIZERS


@dataclass(frozen=True)
class Use:
    """A use of a stored tensor.

    Attributes:
        node: The operator that computes with it.
        index: The input at which it does.
        whole: The last value on the way that has the tensor's elements, each once.
        zero_point: Of what dequantizes only a part of it; None where nothing does.
    """

    node: ir.Node
    index: int
    whole: ir.Value
    zero_point: ir.Value | None = None


def final_uses(value: ir.Value) -> Iterator[Use]:
    """The uses of a stored tensor, through casts, reshapes, parts, joins and quantization."""
    waiting: list[tuple[ir.Value, ir.Value, ir.Value | None]] = [(value, value, None)]
    seen = set[ir.Value]()
    while waiting:
        current, whole, zero_point = waiting.pop()
        for node, index in current.uses():
            name = operator(node)
            if (name not in _WHOLE and name not in PARTS) or (index and name != "Concat"):
                yield Use(node, index, whole, zero_point)
                continue
            decodes_part = name == "DequantizeLinear" and whole is not current
            point = input_at(node, 2) if decodes_part else zero_point
            is_whole = whole is current and name in _WHOLE
            for output in node.outputs:
                if output not in seen:
                    seen.add(output)
                    waiting.append((output, output if is_whole else whole, point))


def makers(
    values: Iterable[ir.Value | None], read: Callable[[ir.Node], Iterable[ir.Value | None]]
) -> Iterator[ir.Node]:
    """The nodes that values come from, each once.

    Args:
        values: What to begin with.
        read: The inputs of a node through which to go on.
    """
    waiting, seen = list(values), set[ir.Node]()
    while waiting:
        value = waiting.pop()
        node = value.producer() if value is not None else None
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += read(node)
