"""What each layer of a model costs: bars of parameters, MACs, zeros, bits and time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.bench.report.point_names import elided
from edgekit.bench.report.results_file import Entry, NodeEntry
from edgekit.bench.report.style import ACCENT, plot_style, svg
from edgekit.bench.report.table import count_text

_WIDTH_INCHES = 9.6
_ROW_INCHES = 0.17
_FRAME_INCHES = 0.55
_LONGEST_NAME = 34
# More rows than these are no longer looked at one by one; the costliest stay.
MOST_ROWS = 160
# Nodes without parameters or MACs are shown from this share of the time on.
_LEAST_SHARE = 0.005


@dataclass(frozen=True)
class Measure:
    """One column of bars.

    Attributes:
        title: Its heading.
        value: Length of a bar.
        text: A bar's length, as people read it.
        solid: The part of the bar that is drawn solid, the rest pale; None for all of it.
        limit: Where the axis ends; None for the longest bar.
    """

    title: str
    value: Callable[[NodeEntry], float]
    text: Callable[[NodeEntry], str]
    solid: Callable[[NodeEntry], float] | None = None
    limit: float | None = None


def _sparsity(node: NodeEntry) -> float:
    return 1 - node.nonzero / node.params if node.params else 0.0


def _share_text(share: float) -> str:
    return f"{share:.1%}"


MEASURES = (
    Measure("parameters", lambda n: n.params, lambda n: count_text(n.params), lambda n: n.nonzero),
    Measure("MACs", lambda n: n.macs, lambda n: count_text(n.macs), lambda n: n.effective_macs),
    Measure("zeros", _sparsity, lambda n: _share_text(_sparsity(n)) if n.params else "", limit=1),
    Measure("weight bits", lambda n: n.weight_bits, lambda n: str(n.weight_bits or ""), limit=32),
    Measure(
        "time",
        lambda n: n.time_share or 0.0,
        lambda n: "" if n.time_share is None else _share_text(n.time_share),
    ),
)


def shown_nodes(entry: Entry) -> list[NodeEntry]:
    """The nodes worth a bar, in the file's order; the costliest where there are very many."""
    found = [
        (index, node)
        for index, node in enumerate(entry.nodes)
        if node.params or node.macs or (node.time_share or 0) >= _LEAST_SHARE
    ]
    found.sort(key=lambda pair: (pair[1].time_share or 0, pair[1].macs, pair[1].params))
    return [node for _, node in sorted(found[-MOST_ROWS:], key=lambda pair: pair[0])]


def shown_measures(nodes: Sequence[NodeEntry]) -> list[Measure]:
    """The measures that say anything about these nodes."""
    return [measure for measure in MEASURES if any(measure.value(node) for node in nodes)]


def layers_svg(nodes: Sequence[NodeEntry], name: str, title: str) -> str:
    """Bars, a row for each node and a column for each measure.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    measures = shown_measures(nodes)
    with plot_style():
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        height = _FRAME_INCHES + _ROW_INCHES * len(nodes)
        figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
        axes = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
        rows = range(len(nodes))
        for axis, measure in zip(axes, measures, strict=True):
            values = [measure.value(node) for node in nodes]
            solid = values if measure.solid is None else [measure.solid(node) for node in nodes]
            if solid != values:
                axis.barh(rows, values, height=0.62, color=ACCENT, alpha=0.28, linewidth=0)
            axis.barh(rows, solid, height=0.62, color=ACCENT, linewidth=0)
            axis.set_title(measure.title, loc="left")
            axis.set_xlim(0, measure.limit or max(values) * 1.04)
            if measure.title == "weight bits":
                axis.set_xticks([0, 8, 16, 32])
            else:
                axis.xaxis.set_major_locator(MaxNLocator(2))
            percent = measure.title in ("zeros", "time")
            axis.xaxis.set_major_formatter(
                FuncFormatter(
                    lambda value, _, percent=percent: (
                        f"{value:.0%}" if percent else count_text(int(value))
                    )
                )
            )
            axis.tick_params(length=0)
            axis.grid(visible=True, axis="x")
            axis.spines["bottom"].set_visible(False)
        axes[0].set_yticks(
            rows, [elided(node.name or node.op_type, _LONGEST_NAME) for node in nodes]
        )
        axes[0].set_ylim(len(nodes) - 0.4, -0.6)
        return svg(figure, name, title, _description(nodes, measures))


def _description(nodes: Sequence[NodeEntry], measures: Sequence[Measure]) -> str:
    parts = []
    for measure in measures:
        top = max(nodes, key=measure.value)
        parts.append(f"most {measure.title}: {top.name or top.op_type}, {measure.text(top)}")
    return f"{len(nodes)} layers; {'; '.join(parts)}. All figures are in the table below."
