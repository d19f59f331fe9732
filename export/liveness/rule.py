"""What the analysis asks of each node that it follows."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.liveness.state import Channels, Liveness, Mask
from edgekit.export.passes.base import NotExactError
from edgekit.export.passes.values import fresh_name, names, stored, write_constant


class Rule(ABC):
    """How channels run through one node. Making one notes the channels of the node's outputs.

    Attributes:
        node: The node.
        output: Its first output.
    """

    def __init__(self, live: Liveness, node: ir.Node) -> None:
        """Take in the node, and follow its outputs.

        Raises:
            NotExactError: this node cannot be followed; nothing has been noted.
        """
        del live
        self.node = node
        self.output = node.outputs[0]

    @abstractmethod
    def backward(self, live: Liveness) -> None:
        """Note what the node needs of its inputs, from what is needed of its outputs."""

    def revive(self, live: Liveness) -> bool:
        """Let more channels stay where the node needs them; returns whether any was gone."""
        del live
        return False

    def shrink(self, live: Liveness, writer: Writer) -> int:
        """Take channels out of the node's constants and settings.

        Returns:
            How many weights of inputs that stay it cleared, in input channels.
        """
        del live, writer
        return 0


class Writer:
    """Writes constants of a model; keeps the names that are taken."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._taken = names(model)

    def write(self, node: ir.Node, index: int, array: NDArray[np.generic], stem: str) -> None:
        """Make an array the constant input of a node, as `write_constant` does."""
        write_constant(self._model, node, index, array, stem, taken=self._taken)

    def name(self, stem: str) -> str:
        """A name that no value has yet."""
        return fresh_name(self._taken, stem)

    def take(self, node: ir.Node, index: int, keep: Mask, axis: int) -> None:
        """Keep a part of a stored constant along an axis."""
        value = node.inputs[index] if index < len(node.inputs) else None
        tensor = stored(value)
        if value is None or tensor is None or keep.all():
            return
        array = np.compress(keep, tensor.numpy(), axis=axis)
        self.write(node, index, array, f"{value.name}_stripped")


def followed(live: Liveness, value: ir.Value | None) -> Channels:
    """What is known of the input of a node.

    Raises:
        NotExactError: its channels are not followed.
    """
    channels = live.of(value)
    if channels is None:
        name = None if value is None else value.name
        raise NotExactError(f"the number of channels of {name} is not known")
    return channels
