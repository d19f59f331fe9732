"""Which layers of a model quantization hurts: each one quantized alone, the others in float32.

A layer is an operator with weights and the converted ones without that follow it, up to the next
one with weights: its Relu, its pool, the Add or Concat that it is the last to feed. Its sensitivity
is the signal-to-noise ratio of the logits on a fixed set of samples,

    ratio = 10 log10(sum x^2 / sum (x - y)^2) decibels

with x from the float model and y from the one in which this layer alone is quantized. That catches
both a layer whose weights do not fit their codes and one that makes or reads a tensor whose range
does not; leaving one layer float instead would show nothing as long as a second one spoils the same
tensor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.graph import session_source
from edgekit.export.to_qdq import WEIGHTED_OPS
from edgekit.runtime.progress import Progress
from edgekit.runtime.session import open_session, run_batch

# The ratio where nothing differs, and the largest that is told.
EQUAL_DB = 200.0

# A model in which the nodes of these names stay float32.
Convert = Callable[[Collection[str]], ir.Model]

_GLOBAL_FLAGS = re.compile(r"(?:\s*\(\?[aimsux]+\))+")


@dataclass(frozen=True)
class Layer:
    """An operator with weights, and what follows it.

    Attributes:
        name: Of the operator with weights.
        op_type: That operator.
        nodes: Names of all of its nodes.
    """

    name: str
    op_type: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one layer alone does to the logits.

    Attributes:
        layer: The layer.
        db: Signal-to-noise ratio in decibels, at most `EQUAL_DB`; None where time ran out first.
    """

    layer: Layer
    db: float | None


def layers(model: ir.Model, left: Collection[str] = ()) -> tuple[Layer, ...]:
    """Part the nodes that a conversion takes into layers, in the graph's order.

    Args:
        model: A float32 model, its nodes named, in topological order.
        left: Names of nodes that the conversion leaves in float32 anyhow.
    """
    heads = [n for n in model.graph if n.op_type in WEIGHTED_OPS and n.name not in left]
    if not heads:
        return ()
    owner: dict[ir.Node, int] = {head: index for index, head in enumerate(heads)}
    members: list[list[str]] = [[] for _ in heads]
    for node in model.graph:
        before = [owner.get(p) for v in node.inputs if v and (p := v.producer()) is not None]
        index = owner.setdefault(node, max((i for i in before if i is not None), default=0))
        if node.name not in left:
            members[index].append(str(node.name))
    return tuple(
        Layer(str(head.name), head.op_type, tuple(names))
        for head, names in zip(heads, members, strict=True)
    )


def sensitivities(
    model: ir.Model,
    parts: Sequence[Layer],
    convert: Convert,
    samples: NDArray[np.generic],
    *,
    more_time: Callable[[], bool] = lambda: True,
    progress: Progress | None = None,
) -> tuple[Sensitivity, ...]:
    """Measure each layer alone.

    Args:
        model: The float32 model.
        parts: Its layers.
        convert: Quantizes it but for the nodes of the names that it gets.
        samples: Model inputs [N, ...], the same for each layer.
        more_time: Asked before each layer; the rest is not measured once it says no.
        progress: Called with layers done and their number.

    Returns:
        The layers, the most sensitive first; those not measured last, in the graph's order.

    Raises:
        EdgekitError: the samples do not fit the model, or it cannot be quantized.
    """
    exact = _logits(model, samples)
    names = {name for layer in parts for name in layer.nodes}
    found = []
    for done, layer in enumerate(parts):
        db = None
        if more_time():
            alone = _logits(convert(names - set(layer.nodes)), samples)
            db = _decibels(exact, alone)
        found.append(Sensitivity(layer, db))
        if progress is not None:
            progress(done + 1, len(parts))
    return tuple(sorted(found, key=lambda one: np.inf if one.db is None else one.db))


def names_pattern(names: Collection[str]) -> str:
    """A regular expression that is found in exactly these names."""
    return f"^(?:{'|'.join(map(re.escape, names))})$"


def as_group(pattern: str) -> str:
    """A regular expression as a part of a larger one, with the flags that it begins with.

    Args:
        pattern: One that compiles: flags for all of it, as in `(?i)fc`, stand at its beginning.
    """
    leading = _GLOBAL_FLAGS.match(pattern)
    if leading is None:
        return f"(?:{pattern})"
    flags = "".join(sorted(set(leading[0]) & set("aimsux")))
    end = "\n" if "x" in flags else ""  # a comment may be last
    return f"(?{flags}:{pattern[leading.end() :]}{end})"


def _logits(model: ir.Model, samples: NDArray[np.generic]) -> NDArray[np.float64]:
    with session_source(model) as source:
        return run_batch(open_session(source), samples).astype(np.float64)


def _decibels(exact: NDArray[Any], other: NDArray[Any]) -> float:
    signal, noise = float(np.square(exact).sum()), float(np.square(exact - other).sum())
    if not np.isfinite(noise):
        return -EQUAL_DB
    if noise == 0:
        return EQUAL_DB
    ratio = 10 * np.log10(max(signal, np.finfo(np.float64).tiny) / noise)
    return float(np.clip(ratio, -EQUAL_DB, EQUAL_DB))
