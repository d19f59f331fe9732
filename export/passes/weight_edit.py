"""New weights for a node, planned first and written once nothing can refuse any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.passes.values import bias_stem, names, write_constant


@dataclass(frozen=True)
class WeightEdit:
    """The new weight of a convolution, Gemm or MatMul, and its new bias where that changes.

    The bias of a Gemm stands for beta C.
    """

    node: ir.Node
    weight: NDArray[Any]
    bias: NDArray[Any] | None


class WeightWriter:
    """Writes planned weights into the nodes of one model.

    Args:
        model: The model.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    @cached_property
    def taken(self) -> set[str]:
        """The names of the model's values, collected once for many edits."""
        return names(self._model)

    def write(self, edits: Iterable[WeightEdit]) -> None:
        """Put new weights and biases in place of the old ones."""
        for edit in edits:
            self._write(edit.node, 1, edit.weight, "weight")
            if edit.bias is not None:
                self._write(edit.node, 2, edit.bias, bias_stem(edit.node))
                if edit.node.op_type == "Gemm":
                    edit.node.attributes.pop("beta", None)

    def _write(self, node: ir.Node, index: int, array: NDArray[Any], stem: str) -> None:
        write_constant(self._model, node, index, array, stem, taken=self.taken)
