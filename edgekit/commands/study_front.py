"""The front of a study: accuracy on the validation part against the score, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.bench.report.front import pareto_front
from edgekit.bench.report.point_names import put_names
from edgekit.bench.report.style import (
    MUTED,
    SURFACE,
    color,
    for_picture,
    marker,
    plot_style,
)
from edgekit.commands.study_results import Summary
from edgekit.runtime.files import replace_atomically

_SIZE_INCHES = (8.0, 5.0)
_DOTS_PER_INCH = 150


def study_front_png(name: str, summaries: Sequence[Summary], path: Path) -> None:
    """Draw every variant, a color for each group; the line joins those that no other beats in both.

    Bars are the standard deviation over seeds.

    Args:
        name: Of the study.
        summaries: What to draw.
        path: The file to write.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    with plot_style(for_picture):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(
            figsize=_SIZE_INCHES,
            dpi=_DOTS_PER_INCH,
            layout="constrained",
            facecolor=for_picture(SURFACE),
        )
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        points = [(one.imt, one.top1 * 100) for one in summaries]
        front = pareto_front(points)
        axis.plot(
            [points[i][0] for i in front],
            [points[i][1] for i in front],
            color=for_picture(MUTED),
            linewidth=0.9,
            zorder=1,
        )
        groups = list(dict.fromkeys(one.group for one in summaries))
        for index, group in enumerate(groups):
            of_group = [one for one in summaries if one.group == group]
            axis.errorbar(
                [one.imt for one in of_group],
                [one.top1 * 100 for one in of_group],
                yerr=[(one.deviation or 0) * 100 for one in of_group],
                marker=marker(index),
                color=for_picture(color(index)),
                linestyle="none",
                elinewidth=0.9,
                capsize=2,
                label=group,
                zorder=3,
            )
        axis.set_xlabel("IMT score (storage + operations; less is better)")
        axis.set_ylabel("top-1 on the validation part (%)")
        axis.set_title(name)
        axis.grid(visible=True)
        axis.margins(x=0.15)
        if len(groups) > 1:
            figure.legend(frameon=False, loc="outside right upper")
        figure.draw_without_rendering()  # fixes the plot's place, which the names need
        put_names(axis, points, {place: _name(summaries[place]) for place in front}, for_picture)
        with replace_atomically(path) as staged:
            figure.savefig(staged, format="png")


def _name(summary: Summary) -> str:
    return f"{summary.variant} ({summary.precision})"
