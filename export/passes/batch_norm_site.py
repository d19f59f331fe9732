"""A BatchNormalization with the activation behind it: what it computes, and another in its place.

Refused are:

1. a normalization in training mode, with statistics for each position or that are not stored;
2. one whose result is a graph output or is read in a subgraph, or by an activation together with
   others; a Clip whose limits are not stored;
3. one beside quantizers, whose scales fit its present input and output;
4. half precision, where a shift that moves elsewhere would cancel there with a loss; an input of
   unknown rank; opsets before 8, which do not broadcast Max and Min.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.passes.base import NotExactError, is_op, node_label, opset
from edgekit.export.passes.batch_norm import affine
from edgekit.export.passes.values import bypass, drop_unread, fresh_name, stored

Floats = NDArray[np.float64]

ACTIVATIONS = ("Relu", "Clip")

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Site:
    """clip(a x + c, lo, hi), channel by channel.

    Attributes:
        node: The BatchNormalization.
        activation: The Relu or Clip that alone reads it, if one does.
        factor: a [channels].
        shift: c [channels].
        limits: lo and hi; infinities without an activation.
        source: x.
        dtype: Type of x, float32 or float64.
        rank: Number of axes of x, 2 or more.
    """

    node: ir.Node
    activation: ir.Node | None
    factor: Floats
    shift: Floats
    limits: tuple[float, float]
    source: ir.Value
    dtype: ir.DataType
    rank: int

    @property
    def result(self) -> ir.Value:
        """What others read."""
        return (self.activation or self.node).outputs[0]

    @property
    def op_types(self) -> tuple[str, ...]:
        """Its operators in a row."""
        return tuple(node.op_type for node in (self.node, self.activation) if node is not None)

    def rounded(self, array: Floats) -> Floats:
        """Constants as the type of x holds them.

        Raises:
            NotExactError: it does not hold them.
        """
        with np.errstate(over="ignore"):
            rounded = array.astype(self.dtype.numpy()).astype(np.float64)
        if not np.isfinite(rounded).all():
            raise NotExactError(f"its constants are not finite as {self.dtype.name}")
        return rounded


@dataclass(frozen=True)
class Step:
    """An operator in a site's place; its constants are [channels], weight and bias for Conv."""

    op_type: str
    constants: tuple[Floats, ...] = ()


def find_site(model: ir.Model, node: ir.Node) -> Site:
    """The site of a BatchNormalization.

    Raises:
        NotExactError: it is one of those refused.
    """
    factor, shift = affine(model, node)
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    if opset(model) < 8:
        raise NotExactError(f"Max and Min do not broadcast at opset {opset(model)}, from 8 on only")
    if source.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        found = "unknown" if source.dtype is None else source.dtype.name
        raise NotExactError(f"the type of its input is {found}; thresholds need float32 or more")
    if source.shape is None or len(source.shape) < 2:
        raise NotExactError("the rank of its input is not known")
    if result.is_graph_output():
        raise NotExactError("its result is a graph output")
    readers = [use.node for use in result.uses()]
    if any(reader.graph is not node.graph for reader in readers):
        raise NotExactError("its result is read inside a subgraph")
    if any(is_op(other, *_QUANTIZERS) for other in (source.producer(), *readers)):
        raise NotExactError("it stands beside quantizers: optimize before quantizing")
    activation = _activation(readers)
    limits = (-np.inf, np.inf) if activation is None else _limits(activation)
    return Site(node, activation, factor, shift, limits, source, source.dtype, len(source.shape))


def _activation(readers: Sequence[ir.Node]) -> ir.Node | None:
    found = [reader for reader in readers if is_op(reader, *ACTIVATIONS)]
    if found and len(readers) > 1:
        others = sorted({reader.op_type for reader in readers if reader is not found[0]})
        raise NotExactError(f"{found[0].op_type} reads it together with {', '.join(others)}")
    return found[0] if found else None


def _limits(activation: ir.Node) -> tuple[float, float]:
    """Where a Relu or Clip begins and ends."""
    if activation.op_type == "Relu":
        return 0.0, np.inf
    ends = [
        activation.attributes.get_float("min", -np.inf),
        activation.attributes.get_float("max", np.inf),
    ]
    for index, value in enumerate(activation.inputs[1:3]):
        if value is not None:
            tensor = stored(value)
            if tensor is None:
                raise NotExactError(f"the limits of {node_label(activation)} are not stored")
            ends[index] = float(tensor.numpy().reshape(()))
    if not ends[0] <= ends[1]:
        raise NotExactError(f"the limits of {node_label(activation)} are in no order")
    return ends[0], ends[1]


def replace_site(
    model: ir.Model, site: Site, steps: Sequence[Step], *, keep_activation: bool, taken: set[str]
) -> None:
    """Put operators in a site's place.

    Args:
        model: The model that the site is part of.
        site: The site; its normalization is removed.
        steps: What stands for it, in a row.
        keep_activation: Whether the site's activation follows them, or is removed too.
        taken: Names of all values; those of new ones are added.
    """
    node, graph, value = site.node, site.node.graph, site.source
    assert graph is not None
    if not keep_activation and site.activation is not None:
        bypass(site.activation, node.outputs[0])
    for step in steps:
        value = _insert(model, site, step, value, taken)
    constants = tuple(node.inputs)
    node.outputs[0].replace_all_uses_with(value)
    graph.remove(node, safe=True)
    drop_unread(constants)


def _insert(model: ir.Model, site: Site, step: Step, value: ir.Value, taken: set[str]) -> ir.Value:
    """Put one operator before the site's normalization, and return its output."""
    name = fresh_name(taken, f"{node_label(site.node)}/{step.op_type.lower()}")
    channels, ones = len(site.factor), (1,) * (site.rank - 2)
    attributes: dict[str, Any] = {}
    roles: dict[str, tuple[int, ...]] = {"threshold": (channels, *ones)}
    if step.op_type == "Add":
        roles = {"shift": (channels, *ones)}
    elif step.op_type == "Conv":
        roles = {"weight": (channels, 1, *ones), "bias": (channels,)}
        attributes = {"group": channels}
    inputs = [value]
    for array, (role, shape) in zip(step.constants, roles.items(), strict=bool(step.constants)):
        constant_name = fresh_name(taken, f"{name}.{role}")
        array_of_type = array.reshape(shape).astype(site.dtype.numpy())
        constant = ir.Value(
            name=constant_name,
            shape=ir.Shape(shape),
            type=ir.TensorType(site.dtype),
            const_value=ir.tensor(array_of_type, name=constant_name),
        )
        model.graph.register_initializer(constant)
        inputs.append(constant)
    made = ir.node(step.op_type, inputs, attributes=attributes, name=name)
    result = made.outputs[0]
    result.name, result.type, result.shape = name, site.source.type, site.source.shape
    assert site.node.graph is not None
    site.node.graph.insert_before(site.node, made)
    return result
