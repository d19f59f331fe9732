"""Remove channels that carry nothing: physically, from all operators that make and read them.

The whole main graph is analyzed at once (export/liveness): constants run forward from filters of
zeros, needs run backward from the graph's outputs. A channel goes where nothing needs it, on every
value that it runs through; a constant channel that a Conv or Gemm reads goes into its bias first.
What each operator does is told where it is followed:

    mixers.py       Conv, ConvTranspose, Gemm, MatMul: make channels and read them
    channelwise.py  activations, normalizations, depthwise convolutions, pools, padding
    joins.py        Concat, Split, Slice, Gather
    reshapes.py     Flatten, Reshape
    elementwise.py  Add, Sub, Mul, Div, Max, Min, PRelu, Sum, with stored numbers or with values

What remains is computed as before, so results differ by the order of a sum at most. Runs until
nothing changes. Refused are:

1. channels that a graph output, a subgraph, or an operator that is not followed reads (quantized
   graphs, therefore, pass unchanged), and channels of a graph input, which callers supply;
2. a Conv or Gemm whose weight another input reads too, is a graph input or is computed, or whose
   bias is not stored: all that it reads and makes stays;
3. the last constant channel, not zero, before a convolution that pads, whose border sees zeros: it
   carries the constants of all others;
4. the last channel of what must stay, and more channels than every group of a grouped convolution
   can spare: groups must stay equal;
5. a channel of a sum of which another addend must stay, likewise of other operators on two values;
6. a channel of a Concat that its readers do not need, while another reader of the same value does,
   unless the whole value can go from this Concat, or to part it is a win.

Nodes inside subgraphs and functions are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgekit.export.liveness.analysis import Analysis, Layer, analyze, layers
from edgekit.export.liveness.evaluate import Evaluator
from edgekit.export.liveness.mixers import Mixer
from edgekit.export.liveness.rewrite import rewrite
from edgekit.export.liveness.state import READ, Ints, Liveness, Mask
from edgekit.export.passes.base import Change, GraphPass, is_op, node_label
from edgekit.export.passes.values import FLOATS, stored


class StripZeroChannels(GraphPass):
    """Remove channels that are constant or unread; a change is one channel."""

    def rewrite(self, model: ir.Model) -> None:
        """Strip until nothing is dead, then report what went and what stays."""
        evaluate = Evaluator(model)
        analysis = analyze(model, evaluate)
        before = layers(analysis)
        while removed := rewrite(analysis):
            self.changes += removed
            analysis = analyze(model, evaluate)
        self.done += _differences(before, layers(analysis))
        for node, reason in _reasons(analysis):
            self.refuse(node, reason)

    def rewrite_node(self, model: ir.Model, node: ir.Node) -> int:
        """Leave the node alone: channels go from all nodes together."""
        del model, node
        return 0


def _differences(before: dict[ir.Node, Layer], after: dict[ir.Node, Layer]) -> list[Change]:
    changes = []
    for node, layer in before.items():
        left = after.get(node)
        if left is None:
            macs = "" if layer.macs is None else f" with its {layer.macs:,} MACs"
            changes.append(Change(node_label(node), f"removed{macs}"))
        elif left != layer:
            parts = [
                f"{name} {was:,} to {now:,}"
                for name, was, now in (
                    ("inputs", layer.inputs, left.inputs),
                    ("outputs", layer.outputs, left.outputs),
                    ("MACs", layer.macs, left.macs),
                )
                if was != now and was is not None and now is not None
            ]
            changes.append(Change(node_label(node), ", ".join(parts)))
    return changes


def _reasons(analysis: Analysis) -> Iterator[tuple[ir.Node, str]]:
    live = analysis.live
    for rule in analysis.rules.values():
        if not isinstance(rule, Mixer):
            continue
        made, read = live.channels[rule.output], live.of(rule.node.inputs[0])
        for why in _why(live, made.classes, made.needs, rule.zero_filters()):
            yield rule.node, f"zero filters stay: {why}"
        if read is not None:
            for why in _why(live, read.classes, np.zeros_like(read.needs), rule.unread()):
                yield rule.node, f"inputs that it does not read stay: {why}"
    for node, reason in analysis.refused.items():
        if _has_zero_filter(node):
            yield node, f"zero filters stay: {reason}"


def _why(live: Liveness, classes: Ints, needs: Ints, dead: Mask) -> list[str]:
    """Why channels that could go stay, each reason once."""
    named = dead & (needs > READ)
    reasons = [live.reasons[number] for number in np.unique(needs[named])]
    rest = dead & ~named & live.stays(classes)
    needed = live.needed(classes)
    if (rest & needed).any():
        reasons.append("others need them, or what is tied to them by Add, Concat and the like")
    if (rest & ~needed).any():
        reasons.append("one must be left, and as many in one group as in another")
    return reasons


def _has_zero_filter(node: ir.Node) -> bool:
    tensor = stored(node.inputs[1]) if is_op(node, "Conv", "Gemm") else None
    if tensor is None or tensor.dtype not in FLOATS or len(tensor.shape) < 2:
        return False
    weight = tensor.numpy()
    by_column = node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)
    by_output = weight.T if by_column else weight
    return bool((by_output.reshape(len(by_output), -1) == 0).all(axis=1).any())
