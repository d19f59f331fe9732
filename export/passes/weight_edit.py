"""New weights for a node, planned first and written once nothing can refuse any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.passes.values import bias_stem, write_constant


@dataclass(frozen=True)
class WeightEdit:
    """The new weight of a convolution, Gemm or MatMul, and its new bias where that changes.

    The bias of a Gemm stands for beta C.
    """

    node: ir.Node
    weight: NDArray[Any]
    bias: NDArray[Any] | None


def apply_edits(model: ir.Model, edits: Iterable[WeightEdit]) -> None:
    """Write planned weights into their nodes."""
    for edit in edits:
        write_constant(model, edit.node, 1, edit.weight, "weight")
        if edit.bias is not None:
            write_constant(model, edit.node, 2, edit.bias, bias_stem(edit.node))
            if edit.node.op_type == "Gemm":
                edit.node.attributes.pop("beta", None)
