"""Where precision is lost: signal-to-noise ratio of each layer, a line of points a model."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.bench.report.front import Candidate
from edgekit.bench.report.point_names import elided
from edgekit.bench.report.style import SURFACE, color, marker, plot_style, svg

_WIDTH_INCHES = 9.6
_ROW_INCHES = 0.17
_FRAME_INCHES = 0.6
_LONGEST_NAME = 34
# Beyond this a float32 model differs from another by rounding alone.
ROUNDING_DB = 100


def noise_layers(candidates: Sequence[Candidate]) -> list[str]:
    """The tensors that any of the models was compared on, in the order of the graphs."""
    order: dict[str, None] = {}
    longest = sorted(candidates, key=lambda one: -len(one.entry.noise))
    for candidate in longest:
        order |= dict.fromkeys(one.tensor for one in candidate.entry.noise)
    return list(order)


def noise_svg(candidates: Sequence[Candidate], places: Sequence[int], name: str) -> str:
    """Points, a row for each tensor; the models keep the color that `places` gives them.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    tensors = noise_layers(candidates)
    rows = {tensor: index for index, tensor in enumerate(tensors)}
    with plot_style():
        from matplotlib.figure import Figure

        height = _FRAME_INCHES + _ROW_INCHES * len(tensors)
        figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
        axis = figure.subplots()
        for candidate, place in zip(candidates, places, strict=True):
            found = [(one.db, rows[one.tensor]) for one in candidate.entry.noise]
            known = sorted(((db, row) for db, row in found if db is not None), key=lambda p: p[1])
            axis.plot(
                [db for db, _ in known],
                [row for _, row in known],
                color=color(place),
                marker=marker(place),
                markersize=4.5,
                markeredgecolor=SURFACE,
                markeredgewidth=0.6,
                linewidth=0.9,
            )
        axis.set_yticks(range(len(tensors)), [elided(one, _LONGEST_NAME) for one in tensors])
        axis.set_ylim(len(tensors) - 0.4, -0.6)
        axis.set_xlabel("signal-to-noise ratio (dB)")
        axis.tick_params(length=0)
        axis.grid(visible=True)
        axis.spines["bottom"].set_visible(False)
        return svg(figure, name, "Signal-to-noise ratio by layer", _description(candidates))


def _description(candidates: Sequence[Candidate]) -> str:
    parts = []
    for candidate in candidates:
        known = [(one.db, one.tensor) for one in candidate.entry.noise if one.db is not None]
        if known:
            low, tensor = min(known)
            parts.append(f"{candidate.name}: lowest {low:.1f} dB at {tensor}")
    return "; ".join(parts) + ". All figures are in the table below."
