"""Every tensor that a model stores: what it is for, its elements, non-zeros and bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from edgekit.bench.decoders import Decoder
from edgekit.bench.nonzeros import count_stored_nonzero
from edgekit.bench.roles import Role, default_role, role_of_use
from edgekit.bench.shapes import operator, subgraphs
from edgekit.bench.uses import final_uses
from edgekit.bench.weights import (
    CASTS,
    RESHAPES,
    STORES,
    StoredTensor,
    element_bits,
    operand_type,
    stored_elements,
    stored_tensor,
    value_type,
)


@dataclass(frozen=True)
class Parameter:
    """A stored tensor and what it counts for.

    Attributes:
        name: Name of the first value that holds it.
        role: What it is for.
        elements: Elements that the graph sees.
        nonzero: Those that are not zero (a code that differs from its zero point).
        bits: Bits of an element; of a weight that is rebuilt, those stored for a non-zero, masks
            included, and no more than it is multiplied with.
        stored_bits: Bits of the values that the file stores.
        node: The first node that uses it in its role; None if none does.
        packed: The graph rebuilds it from what the file stores, see `decoders`.
    """

    name: str
    role: Role
    elements: int
    nonzero: int
    bits: int
    stored_bits: int
    node: ir.Node | None
    packed: bool = False


def parameters(model: ir.Model, decoders: Sequence[Decoder] = ()) -> list[Parameter]:
    """Every stored tensor of a model, subgraphs included, a shared one once.

    Args:
        model: A model as `shapes.with_static_shapes` returns it: functions inlined.
        decoders: Its decoders; what only they read counts as part of what they make.
    """
    order = {node: position for position, node in enumerate(model.graph.all_nodes())}
    inside = frozenset[ir.Node]().union(*(decoder.nodes for decoder in decoders))
    groups: dict[int, tuple[StoredTensor, list[ir.Value]]] = {}
    for value in _stored_values(model.graph):
        if inside and value.uses() and all(user in inside for user, _ in value.uses()):
            continue
        stored = stored_tensor(value)
        if stored is not None and stored.dtype != ir.DataType.STRING:
            groups.setdefault(stored.key, (stored, []))[1].append(value)
    found = [_parameter(stored, values, order) for stored, values in groups.values()]
    rebuilt = [_rebuilt(decoder, order) for decoder in decoders]
    tensors = [
        {key: bits for key, bits in decoder.stored_tensors().items() if key not in groups}
        for decoder in decoders
    ]
    for members in _sharing(tensors):
        stored_bits = sum({k: b for i in members for k, b in tensors[i].items()}.values())
        for index, part in zip(
            members, _charged([rebuilt[index] for index in members], stored_bits), strict=True
        ):
            rebuilt[index] = part
    return found + rebuilt


def _rebuilt(decoder: Decoder, order: dict[ir.Node, int]) -> Parameter:
    """A weight that the graph rebuilds: as large as it is used."""
    stored = stored_tensor(decoder.value)
    if stored is None:
        raise AssertionError("a decoder's value has its tensor")
    parameter = _parameter(stored, [decoder.value], order)
    return replace(parameter, bits=_decoded_bits(decoder.value), packed=True)


def _decoded_bits(value: ir.Value) -> int:
    """Width that multiplies, or that of what was decoded, where a Cast widens it."""
    bits = operand_type(value).bitwidth
    node = value.producer()
    while node is not None and operator(node) in RESHAPES | CASTS:
        bits = min(bits, value_type(node.inputs[0]).bitwidth)
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return bits


def _sharing(tensors: Sequence[dict[int, int]]) -> list[list[int]]:
    """Decoders by position, those together that read a stored tensor in common."""
    groups: list[tuple[set[int], list[int]]] = []
    for index, keys in enumerate(tensors):
        joined = [group for group in groups if group[0] & keys.keys()]
        groups = [group for group in groups if not group[0] & keys.keys()]
        both = set(keys).union(*(group[0] for group in joined))
        groups.append((both, [i for group in joined for i in group[1]] + [index]))
    return [members for _, members in groups]


def _charged(parts: list[Parameter], stored_bits: int) -> list[Parameter]:
    """Share out what weights have in common, by the width and number of their non-zeros.

    Coding narrows all their widths by the same factor; a mask on top widens none.
    """
    plain = [part.nonzero * part.bits for part in parts]
    total, charged, left = max(sum(plain), 1), [], stored_bits
    for part, bits in zip(parts, plain, strict=True):
        share = left if part is parts[-1] else stored_bits * bits // total
        left -= share
        width = min(part.bits, -(-part.bits * stored_bits // total))
        charged.append(replace(part, bits=width, stored_bits=share))
    return charged


def _stored_values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.initializers.values()
    for node in graph:
        if operator(node) in STORES:
            yield node.outputs[0]
        for body in subgraphs(node):
            yield from _stored_values(body)


def _parameter(
    stored: StoredTensor, values: list[ir.Value], order: dict[ir.Node, int]
) -> Parameter:
    uses = [use for value in values for use in final_uses(value)]
    uses.sort(key=lambda use: (order[use.node], use.index))
    roles = [role_of_use(use.node, use.index, stored) for use in uses]
    role = max(roles, default=default_role(stored.dtype))
    in_role = [use for use, found in zip(uses, roles, strict=True) if found == role]
    chosen = in_role[0] if in_role else None
    packed = None if chosen is None else element_bits(chosen.node, chosen.index)
    return Parameter(
        name=values[0].name or "",
        role=role,
        elements=stored.elements
        if packed is None or chosen is None
        else stored_elements(chosen.node, chosen.index),
        nonzero=count_stored_nonzero(stored, in_role) if role is Role.LEARNED else 0,
        bits=packed or stored.dtype.bitwidth,
        stored_bits=0 if role is Role.STRUCTURE else stored.stored_bits,
        node=None if chosen is None else chosen.node,
    )
