"""Cross-layer equalization: the same function, with channels that share a quantizer well.

Dividing a channel by a positive number and multiplying the weights that read it by the same number
changes nothing; but one scale then serves all channels of the tensor better. What may be scaled is
found in export/equalization/rules.py, by how much in export/equalization/scales.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.calibration import Feed, has_fixed_batch, in_parts
from edgekit.export.equalization.channels import Constant
from edgekit.export.equalization.rules import find_channels, inputs_first
from edgekit.export.equalization.scales import Tensor, find_scales
from edgekit.export.graph import from_proto, session_source, to_proto
from edgekit.runtime.session import open_session

# Images in a run: all tensors that may be scaled are in memory at once.
_PARTS = 4
_CLIPPING = ("Relu", "Clip")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scaling:
    """By how much to scale the channels of one model.

    Attributes:
        scales: Of each group of channels that go together, above zero; most are 1.
        count: How many groups may have another scale than 1.
    """

    scales: Array
    count: int

    def apply(self, model: ir.Model) -> ir.Model:
        """The model scaled: it computes the same but for float32's rounding.

        Raises:
            ValueError: the scaling is another model's, or a scale is not above zero.
        """
        result = from_proto(to_proto(model))
        channels = find_channels(result)
        if self.scales.shape != (len(channels),):
            raise ValueError(f"{len(self.scales)} scales for {len(channels)} groups of channels")
        if not (np.isfinite(self.scales) & (self.scales > 0)).all():
            raise ValueError("a scale is not above zero")
        for constant in channels.resolved_constants():
            array = _scaled(constant, self.scales)
            constant.value.const_value = ir.tensor(array, name=constant.value.name)
        return result


def find_scaling(model: ir.Model, feeds: Iterable[Feed]) -> Scaling | None:
    """Find scales for channels where the layers around them can take them up.

    Args:
        model: A float32 model in topological order, its shapes inferred.
        feeds: Some calibration data, read once: what each channel holds is measured on it.

    Returns:
        None where no channel can be scaled.

    Raises:
        ModelFileError: onnxruntime cannot run the model.
    """
    channels = find_channels(model)
    free = {value: ids for value, ids in channels.scaled().items() if not _is_only_clipped(value)}
    constants = channels.resolved_constants()
    if not free or not constants:
        return None
    extents, squares = _measure(model, [str(value.name) for value in free], feeds)
    weights = {constant.value: constant for constant in constants if constant.mixes}
    tensors = [
        Tensor(
            ids, extents[str(v.name)], squares[str(v.name)], tuple(_readers(v, len(ids), weights))
        )
        for v, ids in free.items()
    ]
    count = len({int(one) for ids in free.values() for one in ids} - {0})
    return Scaling(find_scales(len(channels), tensors), count)


def _scaled(constant: Constant, scales: Array) -> NDArray[np.float32]:
    assert constant.value.const_value is not None
    array = constant.value.const_value.numpy().astype(np.float64)
    if constant.times is not None:
        array = array * scales[constant.times]
    if constant.over is not None:
        array = array / scales[constant.over]
    return array.astype(np.float32)


def _readers(value: ir.Value, count: int, weights: Mapping[ir.Value, Constant]) -> Iterator[Array]:
    """The weights that read a value of `count` channels, as `Tensor` has them."""
    for node, index in value.uses():
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        if index or weight is None or weight not in weights:
            continue
        assert weight.const_value is not None
        array = weight.const_value.numpy().astype(np.float64)
        if inputs_first(node):
            array = array.T
        outputs, depth = array.shape[:2]
        groups = count // depth
        yield array.reshape(groups, outputs // groups, depth, -1)


def _is_only_clipped(value: ir.Value) -> bool:
    """Whether quantization leaves a value out, since the clip behind it becomes the quantizer's."""
    readers = value.consumers()
    return len(readers) == 1 and readers[0].op_type in _CLIPPING


def _measure(
    model: ir.Model, names: Sequence[str], feeds: Iterable[Feed]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The largest absolute value and the mean square of each channel of the named values."""
    probe = from_proto(to_proto(model))
    missing = set(names) - {value.name for value in probe.graph.outputs}
    probe.graph.outputs.extend(v for node in probe.graph for v in node.outputs if v.name in missing)
    with session_source(probe) as source:
        session = open_session(source)
    extents: dict[str, Array] = {}
    sums: dict[str, Array] = {}
    runs = 0
    for feed in in_parts(feeds, None if has_fixed_batch(model) else _PARTS):
        runs += 1
        for name, array in zip(names, session.run(list(names), dict(feed)), strict=True):
            others = tuple(axis for axis in range(array.ndim) if axis != 1)
            largest = np.abs(array).max(axis=others).astype(np.float64)
            extents[name] = np.maximum(extents.get(name, largest), largest)
            sums[name] = sums.get(name, 0.0) + np.square(array).mean(axis=others, dtype=np.float64)
    return extents, {name: total / runs for name, total in sums.items()}
