"""Parameters, multiply-accumulates and bits of a model, from its graph alone.

What each figure means is fixed: a MAC is one multiply-accumulate for one sample, `effective` counts
non-zero weights only, a quantized weight is zero where it equals its zero point, and a weight used
twice counts once. `mac_rules` says what is a MAC, `params` which tensors hold learned values,
`activations` how memory is counted.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod

import onnx_ir as ir

from edgekit.bench.activations import activation_peak
from edgekit.bench.decoders import constant_nodes, find_decoders
from edgekit.bench.execution_order import Peak
from edgekit.bench.mac_rules import MAC_RULES, ZERO_MAC_OPS, MacRule
from edgekit.bench.node_macs import node_macs, node_name
from edgekit.bench.other_operations import OTHER_OPERATIONS
from edgekit.bench.params import Parameter, parameters
from edgekit.bench.precision import model_precision
from edgekit.bench.roles import Role
from edgekit.bench.shapes import (
    Shape,
    graph_inputs,
    operator,
    static_shape,
    subgraphs,
    with_static_shapes,
)
from edgekit.bench.trips import trips
from edgekit.bench.weights import element_bits, operand_type, stored_tensor, value_type
from edgekit.bench.windows import window

_IMAGE_RANK = 4


@dataclass(frozen=True)
class NodeCount:
    """One node's figures, for one sample.

    Attributes:
        name: The node's name, or its first output's where it has none.
        op_type: The operator, with its domain where that is not ONNX's own.
        output_shape: Shape of the first output, the batch divided out of its first axis; None
            where it is not known.
        params: Elements of the learned tensors that the node is the first to use.
        nonzero: Those that are not zero.
        macs: Multiply-accumulates with every weight.
        effective_macs: Multiply-accumulates with non-zero weights.
        weight_bits: Width of the second operand of the products; 0 without products.
        activation_bits: Width at which the first operand is multiplied; without products, that of
            the first input.
        inputs: Elements of the activations read.
        outputs: Elements of the first output.
        sums: Those whose dot product has a non-zero weight, as far as it is known; else all.
        operands: Number of tensor operands.
        has_bias: The products' sums start from a bias.
        window: Elements of a pooling window or an interpolation; 1 where there is none.
        runs: How often the node runs for a sample: the trips of its loop, 0 in the cheaper branch
            of an If and for a node on constants, which runs at load.
    """

    name: str
    op_type: str
    output_shape: Shape | None
    params: int
    nonzero: int
    macs: int
    effective_macs: int
    weight_bits: int
    activation_bits: int
    inputs: int
    outputs: int
    sums: int
    operands: int
    has_bias: bool
    window: int
    runs: int = 1


@dataclass(frozen=True)
class Counts:
    """A model's figures.

    Attributes:
        parameters: Every stored tensor with its role.
        nodes: Every node, subgraphs included, in the file's order.
        uncounted_ops: Operators whose MACs are not known, sorted; the totals lack them.
        activations: See `activations`; None where a shape is not known.
        precision: See `precision.model_precision`.
    """

    parameters: tuple[Parameter, ...]
    nodes: tuple[NodeCount, ...]
    uncounted_ops: tuple[str, ...]
    activations: Peak | None
    precision: str

    @property
    def peak_activation_bytes(self) -> int | None:
        """Bytes of activations alive at once in the best order found."""
        return None if self.activations is None else self.activations.best

    @property
    def learned(self) -> tuple[Parameter, ...]:
        """The tensors that hold learned values."""
        return tuple(p for p in self.parameters if p.role is Role.LEARNED)

    @property
    def params(self) -> int:
        """Elements of the learned tensors."""
        return sum(parameter.elements for parameter in self.learned)

    @property
    def nonzero(self) -> int:
        """Elements of the learned tensors that are not zero."""
        return sum(parameter.nonzero for parameter in self.learned)

    @property
    def stored_bits(self) -> int:
        """Bits of all stored values but shapes and axes."""
        return sum(parameter.stored_bits for parameter in self.parameters)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one sample with every weight."""
        return sum(node.macs for node in self.nodes)

    @property
    def effective_macs(self) -> int:
        """Multiply-accumulates for one sample with non-zero weights."""
        return sum(node.effective_macs for node in self.nodes)


def count(model: ir.Model, input_shapes: Mapping[str, Shape] | None = None) -> Counts:
    """Count a model for one sample.

    A batch axis that is open counts as 1; one that is fixed to n in a model of images is divided
    out.

    Args:
        model: Any model; it is left as it is.
        input_shapes: Shapes of inputs by name, for axes that are open in the file.

    Raises:
        ModelFileError: the shapes of an operator that multiplies cannot be inferred, or
            `input_shapes` does not fit.
    """
    with _paused_collection():
        return _count(model, input_shapes)


def _count(model: ir.Model, input_shapes: Mapping[str, Shape] | None) -> Counts:
    work = with_static_shapes(model, input_shapes)
    stored = parameters(work, find_decoders(work))
    batch = _batch(work)
    counter = _Counter(stored, batch)
    nodes = counter.graph(work.graph)
    return Counts(
        parameters=tuple(stored),
        nodes=tuple(_per_sample(node, batch) for node in nodes),
        uncounted_ops=tuple(sorted(counter.uncounted)),
        activations=_peak_per_sample(work, batch),
        precision=model_precision(work),
    )


@contextmanager
def _paused_collection() -> Iterator[None]:
    """Without the cyclic collector, which would walk a model's many live objects over and over."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _peak_per_sample(model: ir.Model, batch: int) -> Peak | None:
    peak = activation_peak(model)
    if peak is None or batch == 1:
        return peak
    return Peak(-(-peak.best // batch), -(-peak.file_order // batch), -(-peak.lower_bound // batch))


class _Counter:
    """Walks a graph; collects what it could not count."""

    def __init__(self, stored: list[Parameter], batch: int) -> None:
        self.uncounted: set[str] = set()
        self._batch = batch
        self._constant: set[ir.Node] = set()
        self._follows_from_shapes: set[ir.Node] = set()
        self._owned: dict[ir.Node, list[Parameter]] = {}
        for parameter in stored:
            if parameter.role is Role.LEARNED and parameter.node is not None:
                self._owned.setdefault(parameter.node, []).append(parameter)

    def graph(self, graph: ir.Graph) -> list[NodeCount]:
        counts: list[NodeCount] = []
        self._constant = constant_nodes(graph, self._constant)
        sizes = {node for node in graph if node.op_type in ("Shape", "Size")}
        self._follows_from_shapes = constant_nodes(graph, self._follows_from_shapes | sizes)
        for node in graph:
            counts.append(self._node(node))
            bodies = [self.graph(body) for body in subgraphs(node)]
            counts.extend(self._control_flow(node, bodies) if bodies else ())
        return counts

    def _node(self, node: ir.Node) -> NodeCount:
        name = operator(node)
        rules = MAC_RULES.get(name, ()) if node not in self._constant else ()
        if not rules and name not in ZERO_MAC_OPS and node not in self._constant:
            self.uncounted.add(name)
        rule = rules[0] if rules else None
        owned = self._owned.get(node, [])
        output_shape = static_shape(node.outputs[0]) if node.outputs else None
        products = [node_macs(node, rule) for rule in rules]
        outputs = prod(output_shape) if output_shape is not None else 0
        first = node.inputs[rule.x if rule else 0] if node.inputs else None
        return NodeCount(
            name=node_name(node),
            op_type=name,
            output_shape=self._sample_shape(node, output_shape),
            params=sum(parameter.elements for parameter in owned),
            nonzero=sum(parameter.nonzero for parameter in owned),
            macs=sum(product.dense for product in products),
            effective_macs=sum(product.effective for product in products),
            weight_bits=_weight_bits(node, rule),
            activation_bits=_activation_bits(first, rule),
            inputs=sum(prod(static_shape(v) or (0,)) for v in _activations(node)),
            outputs=outputs,
            sums=outputs * products[0].live // products[0].sums if len(products) == 1 else outputs,
            operands=sum(value is not None for value in node.inputs),
            has_bias=rule is not None and _has_input(node, rule.bias),
            window=window(node),
            runs=0 if node in self._constant else 1,
        )

    def _sample_shape(self, node: ir.Node, shape: Shape | None) -> Shape | None:
        """The batch divided out of the first axis, which it may have been merged into."""
        if not shape or node in self._follows_from_shapes or shape[0] % self._batch:
            return shape
        return (shape[0] // self._batch, *shape[1:])

    def _control_flow(self, node: ir.Node, bodies: list[list[NodeCount]]) -> Iterator[NodeCount]:
        runs = trips(node)
        if runs is None:
            self.uncounted.add(f"{operator(node)} (trip count not in the file, counted once)")
        costliest = max(bodies, key=_cost)
        for body in bodies:
            for inner in body:
                yield _repeated(inner, (1 if runs is None else runs) if body is costliest else 0)


def _cost(body: list[NodeCount]) -> tuple[int, int]:
    """MACs of a body, then its other operations, which decide where those are equal."""
    others = sum(
        node.runs * sum(OTHER_OPERATIONS[node.op_type](node))
        for node in body
        if node.op_type in OTHER_OPERATIONS
    )
    return sum(node.macs for node in body), others


def _weight_bits(node: ir.Node, rule: MacRule | None) -> int:
    if rule is None:
        return 0
    return element_bits(node, rule.w) or operand_type(node.inputs[rule.w]).bitwidth


def _activation_bits(first: ir.Value | None, rule: MacRule | None) -> int:
    if rule is None:
        return value_type(first).bitwidth
    return rule.quantizes_to or operand_type(first).bitwidth


def _activations(node: ir.Node) -> Iterator[ir.Value]:
    for value in node.inputs:
        if value is not None and stored_tensor(value) is None:
            yield value


def _has_input(node: ir.Node, index: int | None) -> bool:
    return index is not None and index < len(node.inputs) and node.inputs[index] is not None


def _repeated(node: NodeCount, runs: int) -> NodeCount:
    return replace(
        node,
        macs=node.macs * runs,
        effective_macs=node.effective_macs * runs,
        runs=node.runs * runs,
    )


def _batch(model: ir.Model) -> int:
    inputs = graph_inputs(model)
    shape = static_shape(inputs[0]) if inputs else None
    return max(shape[0], 1) if shape is not None and len(shape) == _IMAGE_RANK else 1


def _per_sample(node: NodeCount, batch: int) -> NodeCount:
    if batch == 1:
        return node
    return replace(
        node,
        macs=node.macs // batch,
        effective_macs=node.effective_macs // batch,
        inputs=node.inputs // batch,
        outputs=node.outputs // batch,
        sums=node.sums // batch,
    )
