"""Write HardSwish as HardSigmoid and Mul, of which onnxruntime computes the Mul in integers.

x HardSwish is x max(0, min(1, x / 6 + 1 / 2)). As one operator it has no integer form, so that the
map would be computed in float32 throughout.
"""

from __future__ import annotations

import onnx_ir as ir

from edgekit.export.passes.base import is_op


def split_hard_swish(model: ir.Model) -> int:
    """Rewrite a float32 model in place; returns how many were split. The Mul keeps the name."""
    done = 0
    for node in list(model.graph):
        source = node.inputs[0] if is_op(node, "HardSwish") else None
        if source is None:
            continue
        gate = ir.node("HardSigmoid", [source], {"alpha": 1 / 6}, name=f"{node.name}/gate")
        product = ir.node("Mul", [source, gate.outputs[0]], name=node.name)
        output, made = node.outputs[0], product.outputs[0]
        gate.outputs[0].name = f"{output.name}/gate"
        for value in (gate.outputs[0], made):
            value.type, value.shape = output.type, output.shape
        model.graph.insert_before(node, [gate, product])
        ir.convenience.replace_all_uses_with(output, made, replace_graph_outputs=True)
        made.name, output.name = output.name, None
        model.graph.remove(node, safe=True)
        done += 1
    return done
