"""The front that a comparison draws: accuracy against size and against time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.bench.report import model_names
from edgekit.bench.results import BenchReport, ModelResult
from edgekit.runtime.errors import DataError, MissingExtraError
from edgekit.runtime.files import replace_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colors, which stay apart for color-blind readers, some darker to be read as text.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#B5598F", "#A87400", "#2B83BA", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")

Measure = Callable[[ModelResult], float]
# Where a name may stand: on the better side of its point or not, so many points above.
_PLACES = tuple(
    (better, rise)
    for rise in (11, -11, 24, -24, 37, -37, 50, -50, 63, -63)
    for better in (True, False)
)
_CROWD = 150  # pixels to the next point within which a name would run into it
_MARK = 12  # half the width of a marker with some air, in pixels
PANELS: tuple[tuple[str, Measure], ...] = (
    ("file size (kB)", lambda model: model.figures.file_bytes / 1e3),
    ("latency, median (ms)", lambda model: model.latency.p50_ms),
)


def front_png(report: BenchReport, path: Path) -> None:
    """Draw top-1 accuracy against file size and against latency as a PNG.

    Bars are 95% confidence intervals; the line joins the models that no other beats in both
    figures.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataError: the report has no accuracy.
        OutputError: the file cannot be written.
    """
    if any(model.accuracy is None for model in report.models):
        raise DataError("a front needs accuracy: run the comparison with --data")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    paths = [Path(model.figures.path) for model in report.models]
    names = [name.removesuffix(".onnx") for name in model_names(paths)]
    figure = Figure(figsize=(10, 4.8), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(PANELS), sharey=True)
    shown = [
        _panel(axis, report.models, measure, label)
        for axis, (label, measure) in zip(axes, PANELS, strict=True)
    ]
    axes[0].set_ylabel("top-1 accuracy (%), 95% interval")
    figure.suptitle(f"Accuracy against size and latency: {report.data} ({report.split})")
    with replace_atomically(path) as staged:
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()  # fixes the panels' places, which the names need
        for axis, points in zip(axes, shown, strict=True):
            _label(axis, names, points)
        figure.savefig(staged, format="png")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, value) that no other beats in both, by rising cost."""
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    front: list[int] = []
    for index in order:
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def _panel(
    axis: Axes, models: Sequence[ModelResult], measure: Measure, label: str
) -> list[tuple[float, float]]:
    points: list[tuple[float, float]] = []
    for index, model in enumerate(models):
        accuracy = model.accuracy
        if accuracy is None:
            continue
        x, y = measure(model), accuracy.top1 * 100
        low, high = (bound * 100 for bound in accuracy.ci95)
        color = COLORS[index % len(COLORS)]
        axis.errorbar(
            [x],
            [y],
            yerr=[[y - low], [high - y]],
            marker=MARKERS[index % len(MARKERS)],
            color=color,
            markersize=max(12 - 1.2 * index, 5),  # of points in one place all can be seen
            markeredgecolor="white",
            linestyle="none",
            ecolor=f"{color}66",
            elinewidth=1.2,
            capsize=3,
            zorder=3,
        )
        points.append((x, y))
    front = pareto_front(points)
    axis.plot(
        [points[index][0] for index in front],
        [points[index][1] for index in front],
        color="0.6",
        linewidth=1,
        zorder=1,
    )
    axis.set_xlabel(label)
    axis.margins(x=0.18, y=0.1)
    axis.set_xlim(left=0)
    axis.grid(visible=True, color="0.92")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    return points


def _label(axis: Axes, names: Sequence[str], points: Sequence[tuple[float, float]]) -> None:
    """Name each point where its name covers no other name and no marker, the nearest such place."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    marks = [axis.transData.transform(point) for point in points]
    taken = [Bbox.from_bounds(x - _MARK, y - _MARK, 2 * _MARK, 2 * _MARK) for x, y in marks]
    frame = axis.get_window_extent()
    for index in sorted(range(len(points)), key=lambda index: points[index]):
        x = marks[index][0]
        crowded = any(0 < other[0] - x < _CROWD for other in marks)  # then its left is freer
        for side, rise in _PLACES:
            right = side is not crowded
            text = axis.annotate(
                names[index],
                points[index],
                xytext=(9 if right else -9, rise),
                textcoords="offset points",
                horizontalalignment="left" if right else "right",
                verticalalignment="center",
                fontsize=9,
                fontweight="bold",
                color=COLORS[index % len(COLORS)],
                arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.6},
                zorder=4,
            )
            text.get_window_extent()  # moves it to its place
            box = Text.get_window_extent(text)  # the name without its line
            inside = (Bbox.intersection(box, frame) or Bbox.null()).bounds == box.bounds
            free = inside and not box.count_overlaps(taken)
            if free or (side, rise) == _PLACES[-1]:
                taken.append(box)
                break
            text.remove()
