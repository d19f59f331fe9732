"""What calibration saw: a histogram of each quantized activation, beside its range.

The ranges are read off the quantized model, so that they are those that ship: a quantizer with
scale s and zero point z over the integers q_min to q_max passes values from (q_min - z) s to
(q_max - z) s. The values are those of the float model on the calibration data, read twice: once for
the smallest and the largest, once to count. Memory does not grow with the data: a histogram has
`BINS` bins, and so does its entry in the report.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from edgekit.export.calibration import CalibrationReader, Feed
from edgekit.export.graph import from_proto, session_source, to_proto
from edgekit.runtime.files import write_text
from edgekit.runtime.progress import Progress
from edgekit.runtime.session import open_session

CALIBRATION_SCHEMA_VERSION = 1
BINS = 64
# Images in a run: with every tensor an output, all of their activations are in memory at once.
_BATCH_SIZE = 4


@dataclass(frozen=True)
class TensorHistogram:
    """One activation on the calibration data.

    Attributes:
        tensor: Its name, in the float and in the quantized model.
        bits: Width of the integers that it becomes.
        low: The least value that the quantizer can express.
        high: The greatest.
        smallest: The least value seen.
        largest: The greatest.
        outside: Values that the quantizer clips by more than half a step.
        counts: Values in each of `BINS` bins of equal width from `smallest` to `largest`.
    """

    tensor: str
    bits: int
    low: float
    high: float
    smallest: float
    largest: float
    outside: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class _Range:
    bits: int
    low: float
    high: float

    def clipped(self, values: NDArray[Any]) -> int:
        """How many values lie beyond the range by more than half a step."""
        half_step = (self.high - self.low) / (2**self.bits - 1) / 2
        beyond = (values < self.low - half_step) | (values > self.high + half_step)
        return int(np.count_nonzero(beyond))


def histograms(
    model: ir.Model,
    quantized: ir.Model,
    reader: CalibrationReader,
    progress: Progress | None = None,
) -> tuple[TensorHistogram, ...]:
    """Count the values of every tensor that `quantized` quantizes, as `model` computes them.

    Args:
        model: The float32 model; it is not changed.
        quantized: What quantization made of it, with QuantizeLinear nodes.
        reader: The calibration data.
        progress: Called with batches done and their total; each counts twice.

    Returns:
        One entry a tensor that both models have, in the quantized graph's order; none for a model
        without static quantizers.

    Raises:
        DataError: the data is unusable.
        ModelFileError: onnxruntime cannot run the model.
    """
    chosen = _chosen_ranges(quantized)
    copy = from_proto(to_proto(model))
    made = {str(v.name): v for node in copy.graph for v in node.outputs if v.name}
    fed = {str(v.name) for v in copy.graph.inputs}
    present = {str(v.name) for v in copy.graph.outputs}
    names = [name for name in chosen if name in made or name in fed]
    if not names:
        return ()
    copy.graph.outputs.extend(made[n] for n in names if n in made and n not in present)
    with session_source(copy) as source:
        session = open_session(source, optimize=False)
    tensors = _Tensors(session, names, reader, progress)
    smallest, largest = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    for name, values in tensors.read():
        smallest[name] = min(smallest[name], float(values.min()))
        largest[name] = max(largest[name], float(values.max()))
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    outside = dict.fromkeys(names, 0)
    for name, values in tensors.read():
        bounds = (smallest[name], largest[name])
        counts[name] += np.histogram(values, bins=BINS, range=bounds)[0]
        outside[name] += chosen[name].clipped(values)
    return tuple(
        TensorHistogram(
            name,
            chosen[name].bits,
            chosen[name].low,
            chosen[name].high,
            smallest[name],
            largest[name],
            outside[name],
            tuple(counts[name].tolist()),
        )
        for name in names
    )


def write_calibration_report(
    found: Sequence[TensorHistogram], model: Path, settings: Mapping[str, Any], path: Path
) -> None:
    """Write histograms as JSON, one tensor a line, for `edgekit report --calibration`.

    Raises:
        OutputError: the file cannot be written.
    """
    head = {
        "calibration_schema_version": CALIBRATION_SCHEMA_VERSION,
        "model": str(model),
        "settings": dict(settings),
    }
    lines = ",\n".join(json.dumps(asdict(one)) for one in found)
    write_text(path, f'{json.dumps(head)[:-1]}, "tensors": [\n{lines}\n]}}\n')


def _chosen_ranges(quantized: ir.Model) -> dict[str, _Range]:
    """The range of each activation by the tensor's name, read off its QuantizeLinear."""
    found: dict[str, _Range] = {}
    for node in quantized.graph:
        if node.op_type != "QuantizeLinear" or node.inputs[0] is None:
            continue
        scale, zero = (_constant(value) for value in (*node.inputs[1:], None)[:2])
        if scale is None or scale.size != 1 or node.inputs[0].const_value is not None:
            continue
        zero = np.zeros(1, np.uint8) if zero is None else zero
        limits = np.iinfo(zero.dtype)
        step, origin = float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0])
        found[str(node.inputs[0].name)] = _Range(
            limits.bits, (limits.min - origin) * step, (limits.max - origin) * step
        )
    return found


def _constant(value: ir.Value | None) -> NDArray[Any] | None:
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy()


@dataclass(frozen=True)
class _Tensors:
    """The named tensors of a model on the calibration data, which can be read over and over."""

    session: ort.InferenceSession
    names: Sequence[str]
    reader: CalibrationReader
    progress: Progress | None

    def read(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Each tensor of each batch under its name."""
        outputs = {output.name for output in self.session.get_outputs()}
        wanted = [name for name in self.names if name in outputs]
        for done, feed in enumerate(self.reader, 1):
            for part in self._parts(feed):
                for name in self.names:
                    if name not in outputs:
                        yield name, part[name]
                yield from zip(wanted, self.session.run(wanted, dict(part)), strict=True)
            if self.progress is not None:
                self.progress(done, len(self.reader))

    def _parts(self, feed: Feed) -> Iterator[Feed]:
        """A batch in parts of a few samples, where the model leaves its size open."""
        samples = len(next(iter(feed.values())))
        fixed = any(isinstance(value.shape[0], int) for value in self.session.get_inputs())
        size = samples if fixed else _BATCH_SIZE
        for start in range(0, samples, size):
            yield {name: array[start : start + size] for name, array in feed.items()}
