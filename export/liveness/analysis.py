"""The whole analysis: constants forward, needs backward, then what stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edgekit.export.liveness import channelwise, elementwise, joins, reshapes
from edgekit.export.liveness.evaluate import Evaluator
from edgekit.export.liveness.mixers import Mixer
from edgekit.export.liveness.rule import Rule
from edgekit.export.liveness.shapes import infer
from edgekit.export.liveness.state import Liveness
from edgekit.export.passes.base import NotExactError, is_op, node_label
from edgekit.export.passes.values import stored

RULES: dict[str, type[Rule]] = {
    **dict.fromkeys(channelwise.ACTIVATIONS, channelwise.Activation),
    **dict.fromkeys(elementwise.OPERATORS, elementwise.Elementwise),
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"),
        channelwise.Spatial,
    ),
    "Cast": channelwise.Activation,
    "AveragePool": channelwise.AveragePool,
    "BatchNormalization": channelwise.BatchNorm,
    "Concat": joins.Concat,
    "Conv": Mixer,
    "ConvTranspose": Mixer,
    "Dropout": channelwise.Dropout,
    "Flatten": reshapes.Reshape,
    "Gather": joins.Gather,
    "Gemm": Mixer,
    "GlobalAveragePool": channelwise.Channelwise,
    "GlobalMaxPool": channelwise.Channelwise,
    "MatMul": Mixer,
    "MaxPool": channelwise.MaxPool,
    "Pad": channelwise.Pad,
    "Reshape": reshapes.Reshape,
    "Slice": joins.Slice,
    "Split": joins.Split,
    "Squeeze": channelwise.Spatial,
    "Unsqueeze": channelwise.Spatial,
}


@dataclass(frozen=True)
class Analysis:
    """What is known of a graph's channels.

    Attributes:
        live: The channels.
        rules: The nodes that are followed, in order, by their first output.
        refused: The nodes that are not, and why.
    """

    live: Liveness
    rules: dict[ir.Value, Rule]
    refused: dict[ir.Node, str]


@dataclass(frozen=True)
class Layer:
    """The size of a layer with weights.

    Attributes:
        inputs: Channels that it reads.
        outputs: Channels that it makes.
        macs: Multiply-accumulates for one sample; None where the size of its map is not known.
    """

    inputs: int
    outputs: int
    macs: int | None


def analyze(model: ir.Model, evaluate: Evaluator) -> Analysis:
    """Analyze the main graph of a model; the model is left as it is.

    Time and memory are linear in the number of channels of all values together.
    """
    live = Liveness(model, infer(model), evaluate)
    rules, refused = _forward(live)
    _backward(live, rules, refused)
    live.settle()
    while _revive(live, rules):
        live.settle()
    return Analysis(live, rules, refused)


def layers(analysis: Analysis) -> dict[ir.Node, Layer]:
    """The layers with weights that are followed."""
    return {
        rule.node: _layer(analysis.live, rule)
        for rule in analysis.rules.values()
        if isinstance(rule, Mixer | channelwise.Depthwise)
    }


def _forward(live: Liveness) -> tuple[dict[ir.Value, Rule], dict[ir.Node, str]]:
    rules: dict[ir.Value, Rule] = {}
    refused: dict[ir.Node, str] = {}
    for value in live.model.graph.inputs:
        live.pin(value)
    for node in live.model.graph:
        try:
            rules[node.outputs[0]] = _rule(live, node)
        except NotExactError as reason:
            refused[node] = str(reason)
            for output in node.outputs:
                live.pin(output)
    return rules, refused


def _rule(live: Liveness, node: ir.Node) -> Rule:
    if not is_op(node, *RULES):
        raise NotExactError("its operator is not among those that this pass follows")
    if node.op_type == "Conv" and _is_depthwise(node):
        return channelwise.Depthwise(live, node)
    return RULES[node.op_type](live, node)


def _is_depthwise(node: ir.Node) -> bool:
    weight = stored(node.inputs[1])
    groups = node.attributes.get_int("group", 1)
    return weight is not None and groups > 1 and weight.shape.numpy()[1] == 1


def _backward(live: Liveness, rules: dict[ir.Value, Rule], refused: dict[ir.Node, str]) -> None:
    for value in live.channels:
        if value.is_graph_output():
            live.need(value, live.reason(f"{value.name} is a graph output"))
        for reader in _readers_elsewhere(value):
            live.need(value, live.reason(f"{node_label(reader)} reads them in a subgraph"))
    for node, reason in refused.items():
        if any(live.of(value) is not None for value in node.inputs):
            number = live.reason(f"{node_label(node)} ({node.op_type}) reads them: {reason}")
            for read in node.inputs:
                live.need(read, number)
    for rule in reversed(rules.values()):
        rule.backward(live)


def _revive(live: Liveness, rules: dict[ir.Value, Rule]) -> bool:
    changed = False
    for rule in reversed(rules.values()):
        changed |= rule.revive(live)
    return changed


def _readers_elsewhere(value: ir.Value) -> Iterator[ir.Node]:
    return (use.node for use in value.uses() if use.node.graph is not value.graph)


def _layer(live: Liveness, rule: Mixer | channelwise.Depthwise) -> Layer:
    node = rule.node
    tensor = stored(node.inputs[1])
    assert tensor is not None
    outputs = len(live.channels[rule.output])
    inputs = rule.groups * rule.ins if isinstance(rule, Mixer) else outputs // rule.multiple
    map_of = node.inputs[0] if node.op_type == "ConvTranspose" else rule.output
    return Layer(inputs, outputs, tensor.size * live.positions(map_of) or None)
