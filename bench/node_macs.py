"""Multiply-accumulates of one node: with all weights, and with those that are not zero."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.bench.einsum import repeats_labels
from edgekit.bench.mac_rules import MacRule, operands
from edgekit.bench.nonzeros import count_nonzero
from edgekit.bench.shapes import operator
from edgekit.bench.weights import stored_elements
from edgekit.runtime.errors import ModelFileError


def node_name(node: ir.Node) -> str:
    """The node's name, or its first output's where it has none."""
    return node.name or next((str(value.name) for value in node.outputs), "")


def node_macs(node: ir.Node, rule: MacRule) -> tuple[int, int]:
    """Dense and effective MACs of one pair of operands, for the whole batch.

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
            return dense, dense * nonzero // max(size, 1)
    return dense, dense


def _nonzero_share(node: ir.Node, index: int) -> tuple[int, int] | None:
    """Non-zeros and elements of a stored operand; None where they do not tell the share of MACs."""
    if node.op_type == "Einsum":
        operands = len(node.inputs)
        equation = node.attributes["equation"].as_string()
        if operands != 2 or repeats_labels(equation, index % operands):
            return None
    nonzero = count_nonzero(node, index)
    return None if nonzero is None else (nonzero, stored_elements(node, index))
