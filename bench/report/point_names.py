"""Names beside the points of a plot, where they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgekit.bench.report.style import INK, MUTED, Tone

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST_NAME = 18
# Where a name may stand: on the better side of its point or not, so many points above.
_PLACES = tuple(
    (better, rise)
    for rise in (10, -10, 21, -21, 32, -32, 43, -43, 54, -54)
    for better in (True, False)
)


def put_names(
    axis: Axes, points: Sequence[tuple[float, float]], names: Mapping[int, str], tone: Tone
) -> None:
    """Name points where the name covers no other name and no marker, the nearest such place.

    Args:
        axis: A plot whose layout is done: `Figure.draw_without_rendering` does it.
        points: Every point in it, in its data's units.
        names: What to write, by the index of a point.
        tone: Gives colors.
    """
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    unit = axis.figure.dpi / 72  # pixels in a point
    marks = [axis.transData.transform(point) for point in points]
    half = 5 * unit
    taken = [Bbox.from_bounds(x - half, y - half, 2 * half, 2 * half) for x, y in marks]
    frame = axis.get_window_extent()
    for index in sorted(names, key=lambda index: points[index]):
        x = marks[index][0]
        crowded = any(0 < other[0] - x < 75 * unit for other in marks)
        for side, rise in _PLACES:
            right = side is not crowded  # where another point follows, the left is freer
            text = axis.annotate(
                elided(names[index], _LONGEST_NAME),
                points[index],
                xytext=(8 if right else -8, rise),
                textcoords="offset points",
                horizontalalignment="left" if right else "right",
                verticalalignment="center",
                fontsize=8.5,
                color=tone(INK),
                arrowprops={
                    "arrowstyle": "-",
                    "color": tone(MUTED),
                    "linewidth": 0.5,
                    "shrinkA": 1,
                    "shrinkB": 3,
                },
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


def elided(name: str, longest: int) -> str:
    """The name with its middle left out where it is too long."""
    if len(name) <= longest:
        return name
    head = (longest - 1) // 2
    return f"{name[:head]}…{name[head + 1 - longest :]}"
