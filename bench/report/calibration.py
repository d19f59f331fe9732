"""Calibration reports: the distribution of each tensor beside the range that was chosen for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.bench.report.json_object import JsonObject, printable, read_json
from edgekit.bench.report.style import ACCENT, LINE, MUTED, SERIES, plot_style, svg
from edgekit.export.histograms import CALIBRATION_SCHEMA_VERSION
from edgekit.runtime.errors import InputError

_WHAT = "a file that edgekit quantize --calibration-report wrote"
_SIZE_INCHES = (3.0, 1.05)
_MOST_BINS = 4096


@dataclass(frozen=True)
class TensorEntry:
    """See `export.histograms.TensorHistogram`."""

    tensor: str
    bits: int
    low: float
    high: float
    smallest: float
    largest: float
    outside: int
    counts: tuple[float, ...]

    @property
    def clipped(self) -> float:
        """Share of the values that lie outside the range, 0 to 1."""
        return self.outside / sum(self.counts) if any(self.counts) else 0.0


@dataclass(frozen=True)
class CalibrationEntry:
    """One calibration report.

    Attributes:
        source: The file.
        model: The quantized model that it belongs to.
        settings: Method, data and so on.
        tensors: One entry a quantized activation, in the graph's order.
    """

    source: str
    model: str
    settings: Mapping[str, Any]
    tensors: tuple[TensorEntry, ...]


def read_calibration(path: Path) -> CalibrationEntry:
    """Read a calibration report.

    Raises:
        InputError: it is missing, no JSON, of another schema version, or damaged.
    """
    root = read_json(path, _WHAT)
    if root.value.get("calibration_schema_version") != CALIBRATION_SCHEMA_VERSION:
        found = printable(str(root.value.get("calibration_schema_version")))[:20]
        raise InputError(
            f"{path}: calibration schema version {found}, and this edgekit reads version "
            f"{CALIBRATION_SCHEMA_VERSION}: give {_WHAT}, written by this release"
        )
    return CalibrationEntry(
        source=printable(str(path)),
        model=root.text("model"),
        settings=root.object("settings").value,
        tensors=tuple(_tensor(one) for one in root.objects("tensors")),
    )


def _tensor(one: JsonObject) -> TensorEntry:
    counts = one.numbers("counts")
    bounds = [one.number(key, least=None) for key in ("low", "high", "smallest", "largest")]
    low, high, smallest, largest = bounds
    bits = one.count("bits")
    fits = 0 < len(counts) <= _MOST_BINS and min(counts) >= 0 and 1 <= bits <= 32
    if not fits or low > high or smallest > largest:
        raise InputError(f"{one.where}: no histogram with a range; write the file again")
    return TensorEntry(
        one.text("tensor"), bits, low, high, smallest, largest, one.count("outside"), counts
    )


def histogram_svg(tensor: TensorEntry, name: str) -> str:
    """The distribution as a filled outline, the chosen range between two lines.

    Heights are square roots of the counts, so that thin tails are seen.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with plot_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axis = figure.subplots()
        bins = len(tensor.counts)
        width = (tensor.largest - tensor.smallest) / bins or 1e-9
        edges = [tensor.smallest + index * width for index in range(bins + 1)]
        heights = [count**0.5 for count in tensor.counts]
        axis.stairs(heights, edges, fill=True, color=ACCENT, alpha=0.75, linewidth=0)
        for bound in (tensor.low, tensor.high):
            axis.axvline(bound, color=SERIES[1], linewidth=1.2)
        axis.axhline(0, color=LINE, linewidth=0.8)
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        axis.locator_params(axis="x", nbins=4)
        axis.tick_params(length=2, color=MUTED)
        axis.set_ylim(0, (max(heights) or 1) * 1.06)
        description = (
            f"Values from {tensor.smallest:.4g} to {tensor.largest:.4g}; chosen range "
            f"{tensor.low:.4g} to {tensor.high:.4g} in {tensor.bits} bits; "
            f"{tensor.clipped:.3%} of the values lie outside."
        )
        return svg(figure, name, f"Distribution of {tensor.tensor}", description)


def by_clipping(tensors: Sequence[TensorEntry]) -> list[TensorEntry]:
    """Tensors with the largest share of values outside their range first."""
    return sorted(tensors, key=lambda tensor: -tensor.clipped)
