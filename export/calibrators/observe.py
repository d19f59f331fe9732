"""One pass over calibration data: what every tensor that will be quantized holds.

The model runs once on each sample, its tensors made outputs, and what they hold is taken down at
once: the extremes of each sample and, where a method asks for them, histograms. Memory is that of
the model, of a batch of data, of the activations of as many samples as fit in `ACTIVATION_BYTES`,
and of the histograms, whatever the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxruntime as ort
from numpy.typing import NDArray

from edgekit.export.calibration import CalibrationReader, Feed, check_feed
from edgekit.export.calibrators.derive import Derivation, derivation, is_activation
from edgekit.export.calibrators.extremes import Extremes, Outlier
from edgekit.export.calibrators.histogram import Histogram, joined
from edgekit.export.graph import from_proto, session_source, to_proto
from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.progress import Progress
from edgekit.runtime.session import open_session

Bounds = tuple[NDArray[np.float64], NDArray[np.float64]]

# Outputs of a run; a batch runs in parts that stay below.
ACTIVATION_BYTES = 1 << 24


@dataclass(frozen=True)
class Observation:
    """What one tensor held.

    Attributes:
        low: The least value.
        high: The greatest.
        average_low: Moving average, over the samples, of the least value of each.
        average_high: And of the greatest.
        histogram: The values; None where none was asked for.
    """

    low: float
    high: float
    average_low: float
    average_high: float
    histogram: Histogram | None


@dataclass(frozen=True)
class Observations:
    """What all tensors held.

    Attributes:
        tensors: By name.
        outliers: Samples that alone stretch the range of a tensor.
    """

    tensors: Mapping[str, Observation]
    outliers: tuple[Outlier, ...]


def observe(
    model: ir.Model,
    reader: CalibrationReader,
    op_types: Sequence[str],
    *,
    histograms: bool,
    progress: Progress | None = None,
) -> Observations:
    """Run a model on calibration data and take down what its tensors hold.

    Args:
        model: A float32 model, its constants initializers; it is not changed.
        reader: Calibration data.
        op_types: The tensors are those that nodes of these operators read or write.
        histograms: Whether to count values, too.
        progress: Called with batches done and their total.

    Raises:
        DataError: the data is unusable, or does not fit the model.
        ModelFileError: onnxruntime cannot run the model, or a tensor is not finite.
    """
    work = from_proto(to_proto(model))
    common.ShapeInferencePass()(work)
    plan = _plan(work, op_types)
    if not plan.wanted:
        return Observations({}, ())
    extremes = Extremes([*plan.counted, *plan.derived])
    counts = {name: Histogram() for name in plan.counted} if histograms else {}
    run = _Run(work, plan.counted)
    for done, feed in enumerate(reader, 1):
        check_feed(model, feed)
        for samples, tensors in run.parts(feed):
            bounds: dict[str, Bounds] = {}
            for name, array in tensors:
                low, high = bounds[name] = _bounds(name, array, samples)
                if histograms:
                    counts[name].add(array, float(max(-low.min(), high.max())))
            for name, made in plan.derived.items():
                bounds[name] = _derived_bounds([bounds[source] for source in made.sources], made)
            extremes.add(*(np.stack(side) for side in zip(*bounds.values(), strict=True)))
        if progress is not None:
            progress(done, len(reader))
    for name, made in plan.derived.items() if histograms else ():
        counts[name] = _derived_counts([counts[source] for source in made.sources], made)
    figures = np.stack([extremes.low, extremes.high, *extremes.averages], axis=1)
    found = {
        name: Observation(row[0], row[1], row[2], row[3], counts.get(name))
        for name, row in zip(extremes.names, figures.tolist(), strict=True)
    }
    outliers = [outlier for outlier in extremes.outliers() if outlier.tensor in plan.wanted]
    return Observations({name: found[name] for name in plan.wanted}, tuple(outliers))


@dataclass(frozen=True)
class _Plan:
    """How the wanted tensors are come by.

    Attributes:
        wanted: The tensors asked for.
        counted: Those whose values are looked at.
        derived: Those that follow from the counted, each after its sources.
    """

    wanted: tuple[str, ...]
    counted: tuple[str, ...]
    derived: Mapping[str, Derivation]


def _plan(model: ir.Model, op_types: Sequence[str]) -> _Plan:
    wanted: dict[str, None] = {}
    counted: dict[str, None] = {}
    derived: dict[str, Derivation] = {}
    values = {str(v.name): v for v in (*model.graph.inputs, *_made(model)) if is_activation(v)}

    def want(name: str) -> None:
        if name in counted or name in derived:
            return
        made = derivation(values[name])
        if made is None or any(source not in values for source in made.sources):
            counted[name] = None
            return
        for source in made.sources:
            want(source)
        derived[name] = made

    for node in model.graph:
        if node.op_type in op_types:
            for value in (*node.inputs, *node.outputs):
                if value is not None and value.name in values:
                    wanted[str(value.name)] = None
                    want(str(value.name))
    return _Plan(tuple(wanted), tuple(counted), derived)


def _made(model: ir.Model) -> Iterator[ir.Value]:
    return (value for node in model.graph for value in node.outputs if value.name)


class _Run:
    """A model whose named tensors can be looked at; they become its outputs."""

    def __init__(self, model: ir.Model, names: Iterable[str]) -> None:
        made = {str(value.name): value for value in _made(model)}
        self._names = tuple(names)
        self._outputs = [name for name in self._names if name in made]
        self._session: ort.InferenceSession | None = None
        self._part: int | None = 1
        if self._outputs:
            model.graph.outputs[:] = [made[name] for name in self._outputs]
            with session_source(model) as source:
                self._session = open_session(source, optimize=False)

    def parts(self, feed: Feed) -> Iterator[tuple[int, Iterable[tuple[str, NDArray[np.float32]]]]]:
        """A batch in parts: the number of samples, and each tensor with its name."""
        samples = len(next(iter(feed.values())))
        divisible = self._divisible(feed)
        start = 0
        while start < samples:
            count = min(self._part or samples, samples - start) if divisible else samples
            part = {n: a[start : start + count] if divisible else a for n, a in feed.items()}
            yield count, self._tensors(part, count)
            start += count

    def _tensors(self, feed: Feed, samples: int) -> list[tuple[str, NDArray[np.float32]]]:
        found: list[Any] = []
        if self._session is not None:
            try:
                found = self._session.run(self._outputs, dict(feed))
            except Exception as error:  # onnxruntime's exceptions share no base class
                reason = " ".join(str(error).split())
                raise ModelFileError(f"the model cannot be run ({reason})") from error
        arrays = dict(zip(self._outputs, found, strict=True))
        size = sum(array.nbytes for array in found)
        self._part = max(1, ACTIVATION_BYTES * samples // size) if size else None
        return [(name, arrays[name] if name in arrays else feed[name]) for name in self._names]

    def _divisible(self, feed: Feed) -> bool:
        """Whether the model leaves the batch axis open, and every input has one of one size."""
        inputs = [] if self._session is None else self._session.get_inputs()
        fixed = any(not value.shape or isinstance(value.shape[0], int) for value in inputs)
        return not fixed and len({len(array) for array in feed.values()}) == 1


def _bounds(name: str, array: NDArray[np.float32], samples: int) -> Bounds:
    """The least and greatest value of each sample [N], of all where samples have no axis."""
    if not array.size:
        return np.zeros(samples), np.zeros(samples)
    rows = array.reshape(samples if array.shape[:1] == (samples,) else 1, -1)
    low, high = rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ModelFileError(
            f"tensor {name!r} is not finite on the calibration data: the model is broken, or "
            "its input is normalized otherwise"
        )
    return np.broadcast_to(low, samples), np.broadcast_to(high, samples)


def _derived_bounds(sources: Sequence[Bounds], made: Derivation) -> Bounds:
    low = np.min([low for low, _ in sources], axis=0)
    high = np.max([high for _, high in sources], axis=0)
    return np.clip(low, made.low, made.high), np.clip(high, made.low, made.high)


def _derived_counts(sources: Sequence[Histogram], made: Derivation) -> Histogram:
    whole = sources[0] if len(sources) == 1 else joined(sources)
    bounded = np.isfinite([made.low, made.high]).any()
    return whole.clamped(made.low, made.high) if bounded else whole
