"""The front that a comparison draws: accuracy against size and against time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.bench.compare import BenchReport, ModelResult
from edgekit.bench.report import model_names
from edgekit.runtime.errors import DataError, MissingExtraError
from edgekit.runtime.files import replace_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colors, which stay apart for color-blind readers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")

Measure = Callable[[ModelResult], float]
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
    names = model_names([Path(model.figures.path) for model in report.models])
    figure = Figure(figsize=(10, 4.8), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(PANELS), sharey=True)
    for axis, (label, measure) in zip(axes, PANELS, strict=True):
        _panel(axis, report.models, measure, label)
    axes[0].set_ylabel("top-1 accuracy (%)")
    handles, _ = axes[0].get_legend_handles_labels()
    labels = [
        name if model.figures.precision in name else f"{name} ({model.figures.precision})"
        for name, model in zip(names, report.models, strict=True)
    ]
    columns = min(4, len(labels))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
    figure.suptitle(f"Accuracy against size and latency: {report.data} ({report.split})")
    with replace_atomically(path) as staged:
        FigureCanvasAgg(figure)
        figure.savefig(staged, format="png")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, value) that no other beats in both, by rising cost."""
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    front: list[int] = []
    for index in order:
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def _panel(axis: Axes, models: Sequence[ModelResult], measure: Measure, label: str) -> None:
    points: list[tuple[float, float]] = []
    for index, model in enumerate(models):
        accuracy = model.accuracy
        if accuracy is None:
            continue
        x, y = measure(model), accuracy.top1 * 100
        low, high = (bound * 100 for bound in accuracy.ci95)
        axis.errorbar(
            [x],
            [y],
            yerr=[[y - low], [high - y]],
            marker=MARKERS[index % len(MARKERS)],
            color=COLORS[index % len(COLORS)],
            markersize=8,
            linestyle="none",
            elinewidth=1,
            capsize=3,
            alpha=0.9,
            label=Path(model.figures.path).name,
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
    _annotate(axis, models, points)
    axis.set_xlabel(label)
    axis.margins(x=0.18, y=0.1)
    axis.set_xlim(left=0)
    axis.grid(visible=True, color="0.92")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _annotate(
    axis: Axes, models: Sequence[ModelResult], points: Sequence[tuple[float, float]]
) -> None:
    for model, (x, y) in zip(models, points, strict=True):
        axis.annotate(
            model.figures.precision,
            (x, y),
            xytext=(7, 6),
            textcoords="offset points",
            fontsize=8.5,
            zorder=4,
        )
