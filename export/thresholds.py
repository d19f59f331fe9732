"""Take batch norm out of a model before it is quantized.

A BatchNormalization has no integer kernel: left in, it splits the quantized graph into islands with
float32 between them. Those before or after a convolution fold into it; the others, before a ReLU,
become thresholds (passes/turn_batch_norm_into_threshold.py), which run on the codes.
"""

from __future__ import annotations

import re
from collections import Counter

import onnx_ir as ir

from edgekit.export.graph import from_proto, nodes, to_proto
from edgekit.export.optimize import optimize
from edgekit.export.threshold_codes import runs_thresholds_on_codes

PASSES = (
    "fold-batch-norm",
    "fold-batch-norm-into-next",
    "fold-batch-norm-through-concat",
    "fold-batch-norm-through-pool",
    "turn-batch-norm-into-threshold",
)


def take_batch_norm_out(
    model: ir.Model, exclude: re.Pattern[str] | None = None
) -> tuple[ir.Model, str | None]:
    """Fold each BatchNormalization or turn it into thresholds.

    Nothing is done where the installed onnxruntime has no thresholds on codes, and where `exclude`
    names a BatchNormalization, which then is to stay.

    Args:
        model: A float32 model; it is not changed.
        exclude: Found in the names of nodes that are to stay float32.

    Returns:
        The model, the one given where nothing was done, and a sentence on what was.
    """
    names = [str(n.name) for n in nodes(model) if n.op_type == "BatchNormalization"]
    if not names:
        return model, None
    kept = next((name for name in names if exclude is not None and exclude.search(name)), None)
    if kept is not None:
        return model, f"batch normalization stays everywhere, since --exclude names {kept}"
    if not runs_thresholds_on_codes():
        return model, (
            "batch normalization stays, since onnxruntime has no Max and Min of 8-bit integers "
            "before 1.31"
        )
    work = from_proto(to_proto(model))
    optimize(work, PASSES, batch_norm="threshold", verify=False)
    left = Counter(node.op_type for node in nodes(work))["BatchNormalization"]
    if left == len(names):
        return model, None
    stay = f", {left} stay" if left else ""
    return work, (
        f"{len(names) - left} batch normalizations were folded or became thresholds on "
        f"codes{stay}; --batch-norm keep leaves all as they are"
    )
