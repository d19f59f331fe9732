"""What a model takes for what: its confusion matrix, and the commonest mistakes in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.bench.report.point_names import elided
from edgekit.bench.report.results_file import ConfusionEntry
from edgekit.bench.report.style import ACCENT, INK, LINE, SURFACE, plot_style, svg

# Of more classes a matrix shows nothing but its diagonal.
MOST_CLASSES = 100
# To here there is room for a number in each cell, and for the names of the classes.
_MOST_NUMBERS = 14
_MOST_NAMES = 40
_MISTAKES = 8


@dataclass(frozen=True)
class Mistake:
    """Images of one class that were taken for another; `share` is of that class's images."""

    true: str
    predicted: str
    images: int
    share: float


def mistakes(confusion: ConfusionEntry) -> list[Mistake]:
    """The commonest mistakes, most images first."""
    wrong = confusion.matrix.copy()
    np.fill_diagonal(wrong, 0)
    totals = confusion.matrix.sum(axis=1)
    found = []
    for flat in np.argsort(-wrong, axis=None, kind="stable")[:_MISTAKES]:
        true, predicted = divmod(int(flat), len(totals))
        images = int(wrong[true, predicted])
        if images:
            names = confusion.class_names
            share = images / float(totals[true])
            found.append(Mistake(names[true], names[predicted], images, share))
    return found


def confusion_svg(confusion: ConfusionEntry, name: str, title: str) -> str:
    """The matrix, each cell as dark as its share of the true class's images.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matrix = confusion.matrix
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
    classes = len(matrix)
    with plot_style():
        from matplotlib.collections import PatchCollection
        from matplotlib.colors import to_rgba
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle

        figure = Figure(figsize=(3.7, 3.7), layout="constrained")
        axis = figure.subplots()
        cells = np.argwhere(matrix > 0)
        alphas = [opacity(float(shares[row, column])) for row, column in cells]
        squares = [Rectangle((column - 0.5, row - 0.5), 1, 1) for row, column in cells]
        colors = [to_rgba(ACCENT, alpha) for alpha in alphas]
        axis.add_collection(PatchCollection(squares, facecolors=colors, linewidths=0))
        if classes <= _MOST_NUMBERS:
            for (row, column), alpha in zip(cells, alphas, strict=True):
                axis.text(
                    column,
                    row,
                    f"{int(matrix[row, column])}",
                    color=SURFACE if alpha > 0.5 else INK,
                    fontsize=8,
                    horizontalalignment="center",
                    verticalalignment="center_baseline",
                )
        _frame(axis, confusion)
        return svg(figure, name, title, _description(confusion))


def opacity(share: float) -> float:
    """How dark a cell is: the smallest share is seen, and no cell hides the number in it."""
    return 0.1 + 0.8 * share if share < 0.5 else 0.8 + 0.2 * share


def _frame(axis: object, confusion: ConfusionEntry) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axis, Axes)
    classes = len(confusion.class_names)
    axis.set_xlim(-0.5, classes - 0.5)
    axis.set_ylim(classes - 0.5, -0.5)
    axis.set_aspect("equal")
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    names = [elided(one, 11) for one in confusion.class_names] if classes <= _MOST_NAMES else []
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(length=0)
    if max(map(len, names), default=0) > 2:
        axis.tick_params(axis="x", labelrotation=90)
    if classes > _MOST_NUMBERS:
        axis.tick_params(labelsize=6)
    for spine in axis.spines.values():
        spine.set_visible(True)
        spine.set_color(LINE)


def _description(confusion: ConfusionEntry) -> str:
    right, total = int(np.trace(confusion.matrix)), int(confusion.matrix.sum())
    found = "; ".join(f"{m.true} taken for {m.predicted}, {m.images}" for m in mistakes(confusion))
    return f"{right} of {total} images right. Most common mistakes: {found or 'none'}."
