"""Bias correction: what quantization adds to a layer on average is taken out of its bias.

Rounded weights and clipped inputs move the mean of a layer's outputs, channel by channel, and such
errors add up from layer to layer where noise averages out. The mean of each channel over samples
and positions is compared with that of the float model, before any activation, and the difference
goes into the bias (Nagel et al. 2019, arXiv:1906.04721, section 4.2, the empirical form). Layers
are corrected one after the other, each on what the corrected ones before it give; every layer runs
once, see export/layerwise.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.calibration import Feed, has_fixed_batch, in_parts
from edgekit.export.graph import from_proto, session_source, to_proto
from edgekit.export.layerwise import Layer, walk_layers
from edgekit.export.passes.base import is_op
from edgekit.export.passes.values import fresh_name, names, store
from edgekit.runtime.progress import Progress
from edgekit.runtime.session import open_session

# Images in a run of the float model: the outputs of all of its layers are in memory at once.
_PARTS = 4
_BIASED_OPS = ("Conv", "ConvTranspose", "Gemm")
_CODES = np.iinfo(np.int32)

Array = NDArray[np.float64]


def correct_biases(
    model: ir.Model,
    quantized: ir.Model,
    feeds: Sequence[Feed],
    progress: Progress | None = None,
) -> tuple[ir.Model, int]:
    """Take the mean error of each quantized layer out of its bias.

    Args:
        model: The float32 model that was quantized, with the same names of nodes.
        quantized: What quantization made of it, with QuantizeLinear and DequantizeLinear; it is
            not changed.
        feeds: Calibration data, as much as `layerwise.affordable` gives.
        progress: Called with layers done and their total.

    Returns:
        The corrected model, and how many layers were.

    Raises:
        ModelFileError: onnxruntime cannot run a model.
    """
    result = from_proto(to_proto(quantized))
    add_missing_biases(result)
    targets = mean_outputs(model, feeds)
    corrected = 0
    for done, layer in enumerate(walk_layers(result, feeds), 1):
        bias = find_bias(layer.node)
        target = targets.get(str(layer.node.name))
        if bias is not None and target is not None:
            corrected += correct_layer(layer, bias, target)
        if progress is not None:
            progress(min(done, len(targets)), len(targets))
    return result, corrected


@dataclass(frozen=True)
class Bias:
    """A bias that can be changed.

    Attributes:
        value: Its initializer, int32 codes or float32.
        scale: Of the codes, for each channel; None where the bias is float.
    """

    value: ir.Value
    scale: Array | None

    def add(self, delta: Array) -> Array:
        """Add to the bias [channels], and return what was added after rounding."""
        assert self.value.const_value is not None
        before = self.value.const_value.numpy()
        if self.scale is None:
            after = (before + delta).astype(before.dtype)
            change: Array = after.astype(np.float64) - before
        else:
            codes = before + np.rint(delta / self.scale)
            after = np.clip(codes, _CODES.min, _CODES.max).astype(before.dtype)
            change = (after.astype(np.float64) - before) * self.scale
        self.value.const_value = ir.tensor(after, name=self.value.name)
        return change


def correct_layer(layer: Layer, bias: Bias, target: Array) -> bool:
    """Move the mean of a layer's outputs to `target` [channels]; returns whether it moved."""
    sums = sum(channel_sums(array) for array in layer.outputs)
    count = sum(array.size // array.shape[1] for array in layer.outputs)
    change = bias.add(target - sums / count)
    layer.shift(change)
    return bool(change.any())


def channel_sums(array: NDArray[np.float32]) -> Array:
    """Sums [C] over all axes but the second."""
    others = tuple(axis for axis in range(array.ndim) if axis != 1)
    sums: Array = array.sum(axis=others, dtype=np.float64)
    return sums


def mean_outputs(model: ir.Model, feeds: Iterable[Feed]) -> dict[str, Array]:
    """The mean [channels] of what each layer of a float model gives, by the layer's name."""
    probe = from_proto(to_proto(model))
    layers = {str(node.name): node.outputs[0] for node in probe.graph if is_op(node, *_BIASED_OPS)}
    if not layers:
        return {}
    probe.graph.outputs.extend(v for v in layers.values() if not v.is_graph_output())
    wanted = [str(value.name) for value in layers.values()]
    with session_source(probe) as source:
        session = open_session(source)
    sums: dict[str, Array] = {}
    counts = dict.fromkeys(layers, 0)
    for feed in in_parts(feeds, None if has_fixed_batch(model) else _PARTS):
        for name, array in zip(layers, session.run(wanted, dict(feed)), strict=True):
            sums[name] = sums.get(name, 0.0) + channel_sums(array)
            counts[name] += array.size // array.shape[1]
    return {name: total / counts[name] for name, total in sums.items()}


def find_bias(node: ir.Node) -> Bias | None:
    """The bias of a quantized layer, one number a channel.

    None where there is none to change: the layer is float, has no bias, or shares it.
    """
    if not is_op(node, *_BIASED_OPS) or _scale_behind(node.inputs[1]) is None:
        return None
    if is_op(node, "Gemm") and any(
        key in node.attributes and node.attributes[key].as_float() != 1 for key in ("alpha", "beta")
    ):
        return None
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None or len(value.uses()) != 1:
        return None
    scale = None
    if is_op(value.producer(), "DequantizeLinear"):
        scale = _scale_behind(value)
        producer = value.producer()
        assert producer is not None
        stored = producer.inputs[0]
    else:
        stored = value
    if stored is None or stored.const_value is None or len(stored.uses()) != 1:
        return None
    array = stored.const_value.numpy()
    if array.ndim != 1 or (scale is None and array.dtype != np.float32) or stored.is_graph_input():
        return None
    return Bias(stored, scale)


def _scale_behind(value: ir.Value | None) -> Array | None:
    """The scale of the DequantizeLinear that a value comes from."""
    producer = None if value is None else value.producer()
    if not is_op(producer, "DequantizeLinear"):
        return None
    assert producer is not None
    scale = producer.inputs[1]
    if scale is None or scale.const_value is None:
        return None
    return scale.const_value.numpy().astype(np.float64)


def add_missing_biases(model: ir.Model) -> None:
    """Give each quantized layer without a bias one of zeros, in place."""
    taken = names(model)
    for node in list(model.graph):
        if is_op(node, *_BIASED_OPS) and (len(node.inputs) < 3 or node.inputs[2] is None):
            _add_bias(model, node, taken)


def _add_bias(model: ir.Model, node: ir.Node, taken: set[str]) -> None:
    """Zeros in the form that integer kernels take: int32 with scale input scale * weight scale."""
    data, weight = (_scale_behind(value) for value in node.inputs[:2])
    if data is None or weight is None or data.size != 1 or weight.ndim != 1:
        return
    scale = (data.reshape(()) * weight).astype(np.float32)
    stored = [
        store(model, array, f"{node.name}.bias_{what}", taken=taken)
        for what, array in (
            ("quantized", np.zeros(len(scale), np.int32)),
            ("quantized_scale", scale),
            ("quantized_zero_point", np.zeros(len(scale), np.int32)),
        )
    ]
    decode = ir.node(
        "DequantizeLinear",
        stored,
        {"axis": 0},
        name=f"{node.name}.bias_DequantizeLinear",
    )
    decode.outputs[0].name = fresh_name(taken, f"{node.name}.bias")
    decode.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    decode.outputs[0].shape = ir.Shape([len(scale)])
    model.graph.insert_before(node, decode)
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, decode.outputs[0])
