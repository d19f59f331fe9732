"""Multiply-accumulates of one node: with all weights, and with those that are not zero."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgekit.bench.einsum import repeats_labels
from edgekit.bench.mac_rules import MacRule, conv, flag, gemm, mat_mul, operands
from edgekit.bench.nonzeros import count_live, count_nonzero, operand_codes
from edgekit.bench.shapes import operator
from edgekit.bench.weights import stored_elements
from edgekit.runtime.errors import ModelFileError


def node_name(node: ir.Node) -> str:
    """The node's name, or its first output's where it has none."""
    return node.name or next((str(value.name) for value in node.outputs), "")


@dataclass(frozen=True)
class NodeMacs:
    """Products of one pair of operands, for the whole batch.

    Attributes:
        dense: MACs with every weight.
        effective: MACs with non-zero weights.
        live: Of `sums`, those that have a non-zero weight.
        sums: Dot products that the stored operand tells apart, each for as many outputs; 1 where it
            does not tell.
    """

    dense: int
    effective: int
    live: int = 1
    sums: int = 1


def node_macs(node: ir.Node, rule: MacRule) -> NodeMacs:
    """The products of a node by one of its rules.

    Raises:
        ModelFileError: the shapes are not known, or no operator can have them.
    """
    shapes = operands(node, rule)
    if shapes is None:
        raise ModelFileError(
            f"node {node_name(node)!r} ({operator(node)}): its shapes cannot be "
            "inferred; give the input's shape with --input-shape NAME:1,3,224,224"
        )
    try:
        dense = rule.dense(node, shapes)
    except (IndexError, KeyError, ValueError) as error:
        raise ModelFileError(
            f"node {node_name(node)!r} ({operator(node)}): its shapes and attributes do not fit"
        ) from error
    for index in (rule.w, rule.x) if rule.symmetric else (rule.w,):
        share = _nonzero_share(node, index) if dense else None
        if share is not None:
            nonzero, size = share
            effective = dense * nonzero // max(size, 1)
            return NodeMacs(dense, effective, *_live_sums(node, rule, index, nonzero < size))
    return NodeMacs(dense, dense)


def _nonzero_share(node: ir.Node, index: int) -> tuple[int, int] | None:
    """Non-zeros and elements of a stored operand; None where they do not tell the share of MACs."""
    if node.op_type == "Einsum":
        operands = len(node.inputs)
        equation = node.attributes["equation"].as_string()
        if operands != 2 or repeats_labels(equation, index % operands):
            return None
    nonzero = count_nonzero(node, index)
    return None if nonzero is None else (nonzero, stored_elements(node, index))


def _live_sums(node: ir.Node, rule: MacRule, index: int, has_zeros: bool) -> tuple[int, int]:
    """Dot products with a non-zero weight, and all of them."""
    codes = operand_codes(node, index) if has_zeros else None
    summed = None if codes is None else _summed_axes(node, rule, index == rule.x, codes.ndim)
    return (1, 1) if codes is None or summed is None else count_live(codes, summed)


def _summed_axes(node: ir.Node, rule: MacRule, first: bool, rank: int) -> tuple[int, ...] | None:
    """Axes of a stored operand that a dot product runs over; None where no rule tells them."""
    if rule.dense is conv:
        return tuple(range(1, rank))
    if rule.dense not in (gemm, mat_mul) or flag(node, "transBatchA") or flag(node, "transBatchB"):
        return None
    is_last = first != flag(node, "transA" if first else "transB")
    return (rank - 1 if is_last or rank == 1 else rank - 2,)
