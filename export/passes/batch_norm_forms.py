"""The forms that a BatchNormalization and the activation behind it can take, and their cost.

With the normalization a x + c (batch_norm.py) and the activation clip(v, lo, hi), which is Relu for
lo = 0 and hi = infinity, and nothing for two infinities,

    clip(a x + c, lo, hi) = a u + c with u = min(max(x, L), H)

    a > 0    L = (lo - c) / a    H = (hi - c) / a
    a < 0    L = (hi - c) / a    H = (lo - c) / a
    a = 0    a constant channel, clip(c, lo, hi): a' = 0, c' = that constant, no thresholds

L and H are rounded to the type of x before c' is set, so that a u + c' is lo exactly where the
activation is at lo. A threshold beyond the type's range is none, or makes the channel constant.
Infinities are written as the largest finite numbers, which cut off no finite x. Where what follows
takes a but not c (it pads), c' / a is added, and a moves alone, by
clip(a v, 0, infinity) = a clip(v, 0, infinity) for a > 0.

The cost is that of float32 in onnxruntime. From Conv to Conv it holds maps in blocks of 8 or 16
channels. There it turns a normalization into a depthwise convolution and fuses the activation into
it, but Max, Min and Add have no kernel for blocks: the map is put in order before them and into
blocks after them. A Concat of parts that are no multiple of the block leaves the blocks anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.passes.base import is_op
from edgekit.export.passes.values import stored

Floats = NDArray[np.float64]

# ps an element on an x86 core with AVX-512, by tests/peers/batch_norm_forms.py. An activation right
# behind a convolution is fused into it. Outside of blocks the depthwise Conv is faster alone (70),
# but in whole DenseNets no faster than the normalization and ReLU that it replaces.
COST_PS = {"Add": 80, "BatchNormalization": 80, "Conv": 150, "Max": 140, "Min": 130}
ACTIVATION_COST_PS = 60
BLOCKED_COST_PS = {"BatchNormalization": 80, "Conv": 90, "Relu": 60}
LEAVE_BLOCKS_COST_PS = 180

# The smaller of the block sizes: where it does not divide, the larger does not either.
_BLOCK = 8


@dataclass(frozen=True)
class Thresholds:
    """clip(a x + c, lo, hi) as factor * min(max(x, low), high) + shift, all [channels].

    Attributes:
        low: L; minus infinity where there is none.
        high: H; infinity where there is none.
        factor: a, and 0 on constant channels.
        shift: c'.
    """

    low: Floats
    high: Floats
    factor: Floats
    shift: Floats


def thresholds(
    factor: Floats, shift: Floats, limits: tuple[float, float], dtype: ir.DataType
) -> Thresholds:
    """Where an activation behind a normalization begins and ends, in terms of its input.

    Args:
        factor: a [channels].
        shift: c [channels].
        limits: lo and hi of the activation.
        dtype: Type of x.
    """
    lo, hi = limits
    finite = np.finfo(dtype.numpy())
    rising = factor > 0
    with np.errstate(all="ignore"):
        at_lo, at_hi = (lo - shift) / factor, (hi - shift) / factor
        low, high = np.where(rising, at_lo, at_hi), np.where(rising, at_hi, at_lo)
        below, above = high < finite.min, low > finite.max
    constant = (factor == 0) | below | above
    level = np.where(factor == 0, np.clip(shift, lo, hi), np.where(rising == above, lo, hi))
    low = np.where(constant | (low < finite.min), -np.inf, low)
    high = np.where(constant | (high > finite.max), np.inf, high)
    with np.errstate(over="ignore"):
        low, high = (edge.astype(dtype.numpy()).astype(np.float64) for edge in (low, high))
    edge = np.where(rising, low, high)
    anchored = np.isfinite(edge) & np.isfinite(lo)
    with np.errstate(invalid="ignore"):
        moved = np.where(anchored, lo - factor * edge, shift)
    return Thresholds(low, high, np.where(constant, 0.0, factor), np.where(constant, level, moved))


def cost_ps(op_types: Sequence[str], blocked: bool) -> int:
    """What operators in a row cost for an element of a map, in ps, float32 in onnxruntime.

    Args:
        op_types: The operators; one outside of the tables is an activation.
        blocked: Whether the map comes in blocks of channels.
    """
    if not op_types:
        return 0
    if blocked and op_types[0] in BLOCKED_COST_PS:
        return BLOCKED_COST_PS[op_types[0]]
    costs = [COST_PS.get(op_type, ACTIVATION_COST_PS) for op_type in op_types]
    if op_types[0] == "Conv":
        costs = costs[:1]
    return sum(costs) + (LEAVE_BLOCKS_COST_PS if blocked else 0)


def is_blocked(value: ir.Value, known: dict[ir.Value, bool]) -> bool:
    """Whether onnxruntime is likely to hold a map in blocks of channels.

    It does behind a convolution of a suitable shape, and behind what keeps blocks.

    Args:
        value: The map.
        known: Answers so far, for many calls in a row; new ones are added.
    """
    waiting = [value]
    while waiting:
        current = waiting[-1]
        if current not in known:
            answer, sources = _blocks(current)
            unknown = [source for source in sources if source not in known]
            if unknown:
                waiting += unknown
                continue
            known[current] = answer and all(known[source] for source in sources)
        waiting.pop()
    return known[value]


def _blocks(value: ir.Value) -> tuple[bool, list[ir.Value]]:
    """Whether a map comes in blocks if all of these others do."""
    node = value.producer()
    if node is None:
        return False, []
    if is_op(node, "Conv"):
        return _makes_blocks(node), []
    inputs = [source for source in node.inputs if source is not None]
    if is_op(node, *_KEEP_BLOCKS):
        return True, inputs[:1]
    if is_op(node, "Concat"):
        return all(map(_is_aligned, inputs)), inputs
    return is_op(node, "Add", "Sum"), inputs if is_op(node, "Add", "Sum") else []


_KEEP_BLOCKS = (
    "AveragePool",
    "BatchNormalization",
    "Clip",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "HardSigmoid",
    "MaxPool",
    "Relu",
    "Sigmoid",
    "Tanh",
)


def _is_aligned(value: ir.Value) -> bool:
    shape = value.shape
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    return isinstance(channels, int) and channels % _BLOCK == 0


def _makes_blocks(node: ir.Node) -> bool:
    weight = stored(node.inputs[1])
    if weight is None or len(weight.shape) != 4:
        return False
    outputs, inputs = (int(size) for size in weight.shape.numpy()[:2])
    groups = node.attributes.get_int("group", 1)
    if groups == 1:
        return inputs < _BLOCK or inputs % 4 == 0
    depthwise = inputs == 1 and outputs == groups
    return outputs % _BLOCK == 0 and (
        depthwise or (inputs % _BLOCK == 0 and outputs // groups % _BLOCK == 0)
    )
