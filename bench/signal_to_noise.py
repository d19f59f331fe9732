"""Where a conversion loses precision: signal-to-noise ratio of each tensor against a reference.

For a tensor x of the reference and its counterpart y (see `tensor_pairs`),

    ratio = 10 log10(sum x^2 / sum (x - y)^2) decibels

over all elements and images (6 dB are one bit). The sums are all that is kept of a batch, so that
memory does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.bench.precision import ranges_depend_on_batch
from edgekit.bench.tensor_pairs import Match, TensorPair, Unmatched, tensor_pairs
from edgekit.export.graph import from_proto, session_source, to_proto
from edgekit.runtime.errors import DataError, ModelFileError
from edgekit.runtime.session import INPUT_TYPES, model_input, open_session, to_input_type

# Images in a run: with every tensor an output, all of their activations are in memory at once.
BATCH_SIZE = 4

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class LayerNoise:
    """One tensor that both models compute.

    Attributes:
        tensor: Its name in the reference.
        node: The node of the reference that makes it.
        op_type: That node's operator.
        db: Signal-to-noise ratio in decibels; None where nothing differs.
        matched: What the counterpart was found by: its name, or its place in the graph.
    """

    tensor: str
    node: str
    op_type: str
    db: float | None
    matched: Match = "name"


@dataclass(frozen=True)
class TensorNoise:
    """Two models, tensor by tensor.

    Attributes:
        layers: The tensors that both compute, in the reference's order.
        reference_only: Tensors of the reference that are compared with none.
        model_only: Tensors of the other model that are compared with none.
    """

    layers: tuple[LayerNoise, ...]
    reference_only: tuple[Unmatched, ...] = ()
    model_only: tuple[Unmatched, ...] = ()

    @property
    def worst_first(self) -> tuple[LayerNoise, ...]:
        """The layers by rising ratio; those where nothing differs come last."""
        return tuple(sorted(self.layers, key=lambda one: np.inf if one.db is None else one.db))


@dataclass(frozen=True)
class SignalToNoise:
    """A model compared with a reference on images.

    Attributes:
        reference: The reference's file.
        images: Images that both have seen.
        found: What differs.
    """

    reference: str
    images: int
    found: TensorNoise

    @property
    def layers(self) -> tuple[LayerNoise, ...]:
        """The tensors that both compute, in the reference's order."""
        return self.found.layers

    def to_json(self) -> dict[str, Any]:
        """The value of the key `signal_to_noise`; `db` is null where nothing differs."""
        return {
            "reference": self.reference,
            "images": self.images,
            "layers": [asdict(one) for one in self.layers],
            "unmatched": {
                "reference": [asdict(one) for one in self.found.reference_only],
                "model": [asdict(one) for one in self.found.model_only],
            },
        }


def signal_to_noise(reference: ir.Model, model: ir.Model, batches: Iterable[Batch]) -> TensorNoise:
    """Compare what two models compute inside, tensor by tensor.

    Args:
        reference: The model to compare with, by rights a float one; it is not changed.
        model: What was made of it; it is not changed.
        batches: The same images [N, ...], preprocessed for the reference and for the model; run
            a few at a time, or as many as a model fixes.

    Raises:
        ModelFileError: the models have no tensor in common, or cannot be run.
        DataError: the samples do not fit them.
    """
    known = tensor_pairs(reference, model)
    if not known.pairs:
        raise ModelFileError(
            "the models share no tensor, by name or by place, so none can be compared: give a "
            "model beside the one that it was made from"
        )
    taps = (
        _Tapped(reference, [pair.reference.value for pair in known.pairs]),
        _Tapped(model, [pair.model.value for pair in known.pairs]),
    )
    dynamic = ranges_depend_on_batch(reference) or ranges_depend_on_batch(model)
    size = taps[0].fixed_batch or taps[1].fixed_batch or (1 if dynamic else BATCH_SIZE)
    sums = [_Sums() for _ in known.pairs]
    for batch in batches:
        for start in range(0, len(batch[0]), size):
            rows = slice(start, start + size)
            arrays = [tap.run(part[rows]) for tap, part in zip(taps, batch, strict=True)]
            for pair, total, x, y in zip(known.pairs, sums, *arrays, strict=True):
                total.add(pair, x, y)
    compared = [*zip(known.pairs, sums, strict=True)]
    odd = [_uncompared(pair, total.problem) for pair, total in compared if total.problem]
    return TensorNoise(
        tuple(_layer(pair, total) for pair, total in compared if not total.problem),
        (*known.reference_only, *odd),
        known.model_only,
    )


class _Sums:
    """Squares of a tensor and of its difference, batch by batch; or why there are none."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0
        self.problem = ""

    def add(self, pair: TensorPair, x: NDArray[Any], y: NDArray[Any]) -> None:
        if self.problem:
            return
        if x.dtype.kind not in "iuf" or y.dtype.kind not in "iuf":
            self.problem = "no numbers"
        elif x.dtype.kind != "f" and pair.reference.codes is None:
            self.problem = "whole numbers of no known scale"
        elif y.dtype.kind != "f" and pair.model.codes is None:
            self.problem = "whole numbers of no known scale in the other model"
        elif x.shape != y.shape:
            self.problem = f"shape {list(x.shape[1:])}, {list(y.shape[1:])} in the other model"
        else:
            exact = pair.reference.decode(x)
            self.signal += float(np.square(exact).sum())
            self.noise += float(np.square(exact - pair.model.decode(y)).sum())
            if not np.isfinite(self.signal + self.noise):
                self.problem = "not finite"


def _layer(pair: TensorPair, sums: _Sums) -> LayerNoise:
    db = None
    if sums.noise:
        db = float(10 * np.log10(max(sums.signal, np.finfo(np.float64).tiny) / sums.noise))
    return LayerNoise(pair.tensor, str(pair.node.name), pair.node.op_type, db, pair.matched)


def _uncompared(pair: TensorPair, reason: str) -> Unmatched:
    return Unmatched(pair.tensor, pair.node.op_type, reason)


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
        feed = {self._input.name: to_input_type(padded, np.dtype(INPUT_TYPES[self._input.type]))}
        try:
            found = self._session.run(self._order, feed)
        except Exception as error:  # onnxruntime's exceptions share no base class
            reason = " ".join(str(error).split())
            raise DataError(f"the images do not fit the model ({reason}): use its data") from error
        arrays = (_unpadded(np.asarray(array), len(batch), len(padded)) for array in found)
        tensors = dict(zip(self._order, arrays, strict=True))
        return [tensors[name] for name in self._names]


def _unpadded(array: NDArray[Any], samples: int, padded: int) -> NDArray[Any]:
    """Without what was made up, where the first axis is the batch."""
    return array[:samples] if array.ndim and len(array) == padded else array
