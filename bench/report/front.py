"""The front of a comparison: accuracy against what it costs in bytes, MACs, time and score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.bench.report.point_names import put_names
from edgekit.bench.report.results_file import Entry, run_of
from edgekit.bench.report.style import (
    MUTED,
    SURFACE,
    Tone,
    color,
    for_page,
    for_picture,
    marker,
    plot_style,
    svg,
)
from edgekit.bench.report.table import bytes_text, count_text, model_names
from edgekit.bench.results import BenchReport
from edgekit.runtime.errors import DataError
from edgekit.runtime.files import replace_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE_INCHES = (4.9, 3.3)
_DOTS_PER_INCH = 150
# More names than these cover each other; then only those on the front are written.
_MOST_NAMES = 9


@dataclass(frozen=True)
class Cost:
    """What a panel sets accuracy against.

    Attributes:
        title: The axis's name.
        value: The figure; None where a model has none.
        text: The figure with its unit.
        scale: Divides the figures on the axis.
    """

    title: str
    value: Callable[[Entry], float | None]
    text: Callable[[float], str]
    scale: float = 1.0


@dataclass(frozen=True)
class Candidate:
    """A model to draw: its name and its figures."""

    name: str
    entry: Entry


COSTS = (
    Cost("file size (kB)", lambda m: m.file_bytes, lambda v: bytes_text(int(v)), 1e3),
    Cost("MACs (millions)", lambda m: m.macs, lambda v: f"{count_text(int(v))} MACs", 1e6),
    Cost("latency, median (ms)", lambda m: m.p50_ms, lambda v: f"{v:.3g} ms"),
    Cost("IMT score", lambda m: m.imt, lambda v: f"score {v:.3g}"),
)


def front_svg(cost: Cost, candidates: Sequence[Candidate], name: str) -> str:
    """One panel for a page.

    Args:
        cost: The horizontal axis.
        candidates: Models, in the order of their colors; those without the figure are left out.
        name: Of the drawing, for its ids.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataError: no model has both accuracy and the figure.
    """
    with plot_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axis = figure.subplots()
        points = _panel(axis, cost, candidates, for_page)
        axis.set_ylabel("top-1 accuracy (%)")
        figure.draw_without_rendering()  # fixes the panel's place, which the names need
        _name(axis, candidates, points, for_page)
        title = f"Top-1 accuracy against {cost.title.partition(',')[0].partition(' (')[0]}"
        return svg(figure, name, title, _description(cost, candidates, points))


def front_png(candidates: Sequence[Candidate], title: str, path: Path) -> None:
    """All panels as one PNG; one whose figures no model has is left out.

    Bars are 95% confidence intervals; the line joins the models that no other beats in both
    figures.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataError: no model has an accuracy.
        OutputError: the file cannot be written.
    """
    shown = [cost for cost in COSTS if drawable(cost, candidates)]
    if not shown:
        raise DataError("a front needs accuracy: run the comparison with --data")
    with plot_style(for_picture):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        rows = -(-len(shown) // 2)
        width, height = _SIZE_INCHES
        figure = Figure(
            figsize=(width * 2.3, height * rows * 1.15 + 0.4),
            dpi=_DOTS_PER_INCH,
            layout="constrained",
            facecolor=for_picture(SURFACE),
        )
        axes = list(figure.subplots(rows, 2, squeeze=False, sharey=True).flat)
        for axis in axes[len(shown) :]:
            axis.set_visible(False)
        found = [
            _panel(axis, cost, candidates, for_picture)
            for axis, cost in zip(axes, shown, strict=False)
        ]
        figure.supylabel("top-1 accuracy (%), 95% interval", color=for_picture(MUTED), fontsize=9.5)
        figure.suptitle(title, fontsize=11)
        with replace_atomically(path) as staged:
            FigureCanvasAgg(figure)
            figure.draw_without_rendering()
            for axis, points in zip(axes, found, strict=False):
                _name(axis, candidates, points, for_picture)
            figure.savefig(staged, format="png")


def report_front_png(report: BenchReport, path: Path) -> None:
    """`front_png` of a comparison that has just run."""
    run = run_of(report)
    title = f"Accuracy against cost: {run.data} ({run.split})"
    front_png(candidates_of(run.entries), title, path)


def candidates_of(entries: Sequence[Entry]) -> list[Candidate]:
    """Models under their file names, without the ending."""
    names = model_names([entry.path for entry in entries])
    return [
        Candidate(name.removesuffix(".onnx"), entry)
        for name, entry in zip(names, entries, strict=True)
    ]


def drawable(cost: Cost, candidates: Sequence[Candidate]) -> bool:
    """Whether any model has both accuracy and the figure."""
    return any(_point(cost, one) is not None for one in candidates)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, value) that no other beats in both, by rising cost."""
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    front: list[int] = []
    for index in order:
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


Points = dict[int, tuple[float, float]]


def _point(cost: Cost, candidate: Candidate) -> tuple[float, float] | None:
    value, accuracy = cost.value(candidate.entry), candidate.entry.accuracy
    if value is None or accuracy is None:
        return None
    return value / cost.scale, accuracy.top1 * 100


def _panel(axis: Axes, cost: Cost, candidates: Sequence[Candidate], tone: Tone) -> Points:
    """Draw one panel; returns the place of each model that is in it."""
    found = {index: _point(cost, one) for index, one in enumerate(candidates)}
    points = {index: point for index, point in found.items() if point is not None}
    if not points:
        raise DataError(f"no model has both accuracy and {cost.title}: run bench with --data")
    front = [list(points.values())[index] for index in pareto_front(list(points.values()))]
    axis.plot(*zip(*front, strict=True), color=tone(MUTED), linewidth=0.9, zorder=1)
    for index, (x, y) in points.items():
        accuracy = candidates[index].entry.accuracy
        assert accuracy is not None
        axis.errorbar(
            [x],
            [y],
            yerr=[[max(y - accuracy.low * 100, 0)], [max(accuracy.high * 100 - y, 0)]],
            marker=marker(index),
            color=tone(color(index)),
            markersize=max(8.5 - 0.5 * index, 6),  # of points in one place all can be seen
            markeredgecolor=tone(SURFACE),
            markeredgewidth=0.6,
            linestyle="none",
            elinewidth=0.9,
            capsize=2,
            zorder=3,
        )
    axis.set_xlabel(cost.title)
    axis.margins(y=0.12)
    axis.set_xlim(0, 1.2 * max(x for x, _ in points.values()) or 1)
    axis.grid(visible=True)
    axis.tick_params(length=0)
    return points


def _name(axis: Axes, candidates: Sequence[Candidate], points: Points, tone: Tone) -> None:
    places = list(points.values())
    named = pareto_front(places) if len(places) > _MOST_NAMES else range(len(places))
    names = {index: candidates[list(points)[index]].name for index in named}
    put_names(axis, places, names, tone)


def _description(cost: Cost, candidates: Sequence[Candidate], points: Points) -> str:
    figures = (
        f"{candidates[index].name} {y:.2f}% at {cost.text(x * cost.scale)}"
        for index, (x, y) in points.items()
    )
    front = pareto_front(list(points.values()))
    names = ", ".join(candidates[list(points)[index]].name for index in front)
    return f"{'; '.join(figures)}. On the front: {names}."
