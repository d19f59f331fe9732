"""Which opsets edgekit writes, and changing a model from one to another.

onnx's converter turns the Upsample and Resize of old opsets into a Resize that samples elsewhere:
their positions were those of the output divided by the scale, which is `asymmetric` today. That is
put right here; whatever else a converter may get wrong shows in a run before and after.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx import version_converter

from edgekit.export.graph import (
    INITIALIZERS_ALONE,
    from_proto,
    graph_nodes,
    nodes,
    to_proto,
)
from edgekit.export.passes.base import is_op
from edgekit.export.passes.values import stored
from edgekit.export.random_draws import draws
from edgekit.export.verify import largest_difference, random_inputs, run_outputs, tolerance
from edgekit.runtime.errors import InputError, ModelFileError
from edgekit.runtime.session import open_session

MIN_OPSET = 17

# From here on a Resize says where it samples.
_SAYS_POSITIONS = 11

# The operators of a small classifier: an opset counts as supported where onnxruntime runs these.
_PROBE = """
<ir_version: 8, opset_import: ["": {opset}]>
probe (float[N, 1, 4, 4] input) => (float[N, 2] logits)
<float[2, 1, 3, 3] w = {{0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0}},
 float[2] s = {{1, 1}}, float[2] z = {{0, 0}}, float[2, 4] f = {{1, 0, 0, 0, 0, 1, 0, 0}},
 float q = {{0.5}}, uint8 o = {{0}}>
{{
  a = Conv(input, w)
  b = BatchNormalization(a, s, z, z, s)
  c = Relu(b)
  d = Concat<axis = 1>(c, b)
  e = QuantizeLinear(d, q, o)
  g = DequantizeLinear(e, q, o)
  h = GlobalAveragePool(g)
  i = Flatten(h)
  logits = Gemm<transB = 1>(i, f, z)
}}
"""


@cache
def max_opset() -> int:
    """The newest opset that both the installed onnx and the installed onnxruntime know."""
    newest = onnx.defs.onnx_opset_version()
    for opset in range(newest, MIN_OPSET, -1):
        if _runs(opset):
            return opset
    return MIN_OPSET


def check_opset(opset: int) -> None:
    """Refuse an opset that edgekit does not write.

    Raises:
        InputError: it is out of range.
    """
    if not MIN_OPSET <= opset <= max_opset():
        raise InputError(
            f"opset {opset} is out of range: choose one from {MIN_OPSET} to {max_opset()}, "
            "the newest that the installed onnxruntime runs"
        )


def convert_opset(model: ir.Model, opset: int) -> ir.Model:
    """Turn a model into the same model at another opset, by onnx's own converter.

    Args:
        model: The model; it is not changed.
        opset: The version of the standard operators to convert to.

    Returns:
        A model at exactly that opset, `model` itself where it is there already.

    Raises:
        ModelFileError: the converter cannot express the model at that opset, or makes one that
            computes something else.
    """
    before = model.opset_imports.get("", 0)
    if before == opset:
        return model
    try:
        converted = version_converter.convert_version(to_proto(model), opset)
    except (RuntimeError, version_converter.ConvertError) as error:  # from onnx's C++ converter
        raise ModelFileError(
            f"the model cannot be converted to opset {opset} "
            f"({str(error).partition(chr(10))[0]}): choose another opset"
        ) from error
    result = from_proto(converted)
    # Later steps look for stored numbers, and for names.
    ir.passes.Sequential(
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.NameFixPass(),
    )(result)
    result.ir_version = max(result.ir_version, INITIALIZERS_ALONE)
    if result.opset_imports.get("") != opset:
        raise ModelFileError(
            f"the model stays at opset {result.opset_imports.get('')} when converted to {opset}: "
            "choose another opset"
        )
    if before < _SAYS_POSITIONS <= opset:
        _say_positions(result)
    result.metadata_props.update(model.metadata_props)
    _check_same(model, result)
    return result


def _say_positions(model: ir.Model) -> None:
    """Have every Resize sample where it did before opset 11."""
    for node in graph_nodes(model.graph):
        if not is_op(node, "Resize"):
            continue
        node.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))
        if node.attributes.get_string("mode", "nearest") == "nearest":
            scales = stored(node.inputs[2])
            shrinks = scales is not None and bool((scales.numpy() < 1).any())
            # onnxruntime's reading of the old operator, which the standard left open
            node.attributes.add(ir.AttrString("nearest_mode", "ceil" if shrinks else "floor"))


def _check_same(before: ir.Model, after: ir.Model) -> None:
    """Run both on made-up inputs, where the first runs on such.

    Raises:
        ModelFileError: they differ.
    """
    try:
        inputs = random_inputs(before)
        expected = run_outputs(before, inputs)
    except ModelFileError:
        return
    if any(draws(node, inputs) for node in nodes(before)):
        return
    old, new = (model.opset_imports[""] for model in (before, after))
    hint = f"export it anew at opset {new}"
    try:
        error = largest_difference(expected, run_outputs(after, inputs))
    except ModelFileError as reason:
        raise ModelFileError(
            f"converted from opset {old} to {new} the model does not run: {hint}"
        ) from reason
    if error > tolerance(before):
        raise ModelFileError(
            f"converted from opset {old} to {new} the model computes something else (relative "
            f"error {error:.3g}): {hint}"
        )


def _runs(opset: int) -> bool:
    probe = onnx.parser.parse_model(_PROBE.format(opset=opset))
    try:
        session = open_session(probe)
    except ModelFileError:
        return False
    (logits,) = session.run(None, {"input": np.zeros((1, 1, 4, 4), np.float32)})
    return bool(np.isfinite(logits).all())
