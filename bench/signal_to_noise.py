"""Where a conversion loses precision: signal-to-noise ratio of each tensor against a reference.

Both graphs keep the names of the tensors that they share. For a tensor x of the reference and its
counterpart y,

    ratio = 10 log10(sum x^2 / sum (x - y)^2) decibels

over all elements and images (6 dB are one bit). The counterpart has the same name, but for two
rewrites: where a quantizer follows, it is the output of the DequantizeLinear behind it, as that is
what the next layer reads; where a BatchNormalization was folded into the operator before it, that
operator's output stands for the normalization's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.graph import from_proto, session_source, to_proto
from edgekit.runtime.errors import DataError, ModelFileError
from edgekit.runtime.session import INPUT_TYPES, model_input, open_session

# Images in a run: with every tensor an output, all of their activations are in memory at once.
BATCH_SIZE = 4

_FOLDS = ("Conv", "ConvTranspose", "Gemm")
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class LayerNoise:
    """One tensor that both models compute.

    Attributes:
        tensor: Its name in the reference.
        node: The node of the reference that makes it.
        op_type: That node's operator.
        db: Signal-to-noise ratio in decibels; None where nothing differs.
    """

    tensor: str
    node: str
    op_type: str
    db: float | None


@dataclass(frozen=True)
class SignalToNoise:
    """A model compared with a reference, tensor by tensor.

    Attributes:
        reference: The reference's file.
        images: Images that both have seen.
        layers: The tensors that both compute, in the reference's order.
    """

    reference: str
    images: int
    layers: tuple[LayerNoise, ...]

    def to_json(self) -> dict[str, Any]:
        """The value of the key `signal_to_noise`; `db` is null where nothing differs."""
        return {
            "reference": self.reference,
            "images": self.images,
            "layers": [
                {"tensor": one.tensor, "node": one.node, "op_type": one.op_type, "db": one.db}
                for one in self.layers
            ],
        }


@dataclass(frozen=True)
class _Pair:
    node: ir.Node
    reference: str
    model: str


def signal_to_noise(
    reference: ir.Model,
    model: ir.Model,
    samples: tuple[NDArray[np.float32], NDArray[np.float32]],
    *,
    batch_size: int = BATCH_SIZE,
) -> tuple[LayerNoise, ...]:
    """Compare what two models compute inside, tensor by tensor.

    Args:
        reference: The model to compare with, by rights a float one; it is not changed.
        model: What was made of it; it is not changed.
        samples: The same images [N, ...], preprocessed for the reference and for the model.
        batch_size: Images in a run, where the models leave that open.

    Returns:
        One entry for each tensor that both compute in floating point, in the reference's order.

    Raises:
        ModelFileError: the models have no such tensor in common, or cannot be run.
        DataError: the samples do not fit them.
    """
    pairs = list(_pairs(reference, model))
    if not pairs:
        raise ModelFileError(
            "the models share no tensor's name, so no layer can be compared: bench a model "
            "beside the one that it was made from"
        )
    taps = (
        _Tapped(reference, [pair.reference for pair in pairs]),
        _Tapped(model, [pair.model for pair in pairs]),
    )
    size = taps[0].fixed_batch or taps[1].fixed_batch or batch_size
    signal, noise = np.zeros(len(pairs)), np.zeros(len(pairs))
    alike = np.ones(len(pairs), np.bool_)
    for start in range(0, len(samples[0]), size):
        rows = slice(start, start + size)
        found = [tap.run(part[rows]) for tap, part in zip(taps, samples, strict=True)]
        for index, (x, y) in enumerate(zip(*found, strict=True)):
            if x.shape != y.shape:
                alike[index] = False
                continue
            exact = x.astype(np.float64)
            signal[index] += np.square(exact).sum()
            noise[index] += np.square(exact - y.astype(np.float64)).sum()
    return tuple(
        LayerNoise(pair.reference, str(pair.node.name), pair.node.op_type, _decibels(x, n))
        for pair, x, n, same_shape in zip(pairs, signal, noise, alike, strict=True)
        if same_shape
    )


def _decibels(signal: float, noise: float) -> float | None:
    if noise == 0:
        return None
    return float(10 * np.log10(max(signal, np.finfo(np.float64).tiny) / noise))


def _pairs(reference: ir.Model, model: ir.Model) -> Iterator[_Pair]:
    theirs = {str(v.name): v for node in model.graph for v in node.outputs if v.name}
    for node in reference.graph:
        for value in node.outputs:
            counterpart = theirs.get(str(value.name))
            if counterpart is None or _reads_constants_only(node):
                continue
            expected = _normalized(value, theirs)
            seen = _dequantized(counterpart)
            if _is_float(expected) and _is_float(seen):
                yield _Pair(node, str(expected.name), str(seen.name))


def _reads_constants_only(node: ir.Node) -> bool:
    return all(value is None or value.const_value is not None for value in node.inputs)


def _is_float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype in _FLOATS


def _normalized(value: ir.Value, theirs: dict[str, ir.Value]) -> ir.Value:
    """The output of the BatchNormalization behind `value` that the other model has folded."""
    producer, readers = value.producer(), value.consumers()
    if producer is None or producer.op_type not in _FOLDS or len(readers) != 1:
        return value
    reader = readers[0]
    folded = reader.op_type == "BatchNormalization" and reader.outputs[0].name not in theirs
    return reader.outputs[0] if folded else value


def _dequantized(value: ir.Value) -> ir.Value:
    """What the readers of `value` get where it is quantized first."""
    for quantize in value.consumers():
        if quantize.op_type != "QuantizeLinear":
            continue
        for dequantize in quantize.outputs[0].consumers():
            if dequantize.op_type == "DequantizeLinear":
                return dequantize.outputs[0]
    return value


class _Tapped:
    """A model that also returns the named tensors."""

    def __init__(self, model: ir.Model, names: Sequence[str]) -> None:
        copy = from_proto(to_proto(model))
        present = {str(output.name) for output in copy.graph.outputs}
        values = {str(v.name): v for node in copy.graph for v in node.outputs if v.name}
        self._order = list(dict.fromkeys(names))
        copy.graph.outputs.extend(values[name] for name in self._order if name not in present)
        with session_source(copy) as source:
            self._session = open_session(source, optimize=False)
        self._names = names
        self._input = model_input(self._session)

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the file fixes."""
        first = self._input.shape[0] if self._input.shape else None
        return first if isinstance(first, int) else None

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[Any]]:
        """The named tensors for a batch; a fixed batch size that it does not fill is made up for.

        Raises:
            DataError: the batch does not fit the model.
        """
        short = (self.fixed_batch or 0) - len(batch)
        padded = np.concatenate([batch, np.repeat(batch[-1:], max(short, 0), axis=0)])
        feed = {self._input.name: padded.astype(INPUT_TYPES[self._input.type], copy=False)}
        try:
            found = self._session.run(self._order, feed)
        except Exception as error:  # onnxruntime's exceptions share no base class
            reason = " ".join(str(error).split())
            raise DataError(f"the images do not fit the model ({reason}): use its data") from error
        tensors = dict(zip(self._order, found, strict=True))
        return [np.asarray(tensors[name]) for name in self._names]
