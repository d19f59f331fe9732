"""A report as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from edgekit.bench.report.calibration import (
    CalibrationEntry,
    TensorEntry,
    by_clipping,
    histogram_svg,
)
from edgekit.bench.report.front import COSTS, drawable, front_svg
from edgekit.bench.report.layers import MOST_ROWS, layers_svg, shown_measures, shown_nodes
from edgekit.bench.report.mistakes import MOST_CLASSES, confusion_svg, mistakes
from edgekit.bench.report.noise import ROUNDING_DB, noise_layers, noise_svg
from edgekit.bench.report.origin import origin_pairs, run_pairs, setting_pairs
from edgekit.bench.report.page_tables import Cell, Heading, Table, model_table
from edgekit.bench.report.report_models import ReportModel, report_models
from edgekit.bench.report.results_file import Run
from edgekit.bench.report.style import mark_svg
from edgekit.bench.report.table import bytes_text, count_text, run_heading, run_notes
from edgekit.runtime.errors import MissingExtraError

if TYPE_CHECKING:
    from markupsafe import Markup

# Histograms that are shown at once; the others unfold.
_FIRST_HISTOGRAMS = 8
_PACKAGE = "edgekit.bench.report"


def report_html(
    runs: Sequence[Run], calibrations: Sequence[CalibrationEntry] = (), title: str = ""
) -> str:
    """The report as HTML.

    Args:
        runs: Results files; at least one.
        calibrations: Calibration reports to show beside them.
        title: Of the page; by default the data set's.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    template, markup = _jinja()
    models = report_models(runs)
    js = _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(js.encode()).digest()).decode()
    content: dict[str, Any] = {
        "title": title or _title(runs),
        "version": version("edgekit"),
        "css": markup(_resource("page.css")),
        "js": markup(js),
        "script_hash": f"sha256-{digest}",
        "lead": _lead(runs),
        "notes": [note for run in runs for note in run_notes(run)],
        "models": model_table(models, len(runs) > 1),
        **_fronts(models, markup),
        **_layers(models, markup),
        "noise": _noise(models, markup),
        **_confusions(models, markup),
        "calibrations": [
            _calibration(one, index, markup) for index, one in enumerate(calibrations)
        ],
        "origins": list(_origins(runs, models)),
    }
    content["sections"] = list(_sections(content))
    return str(template.render(content))


def _jinja() -> tuple[Any, type[Markup]]:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtraError("jinja2", "report") from error
    environment = Environment(
        loader=PackageLoader(_PACKAGE, "."), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html.jinja"), Markup


def _resource(name: str) -> str:
    return resources.files(_PACKAGE).joinpath(name).read_text("utf-8")


def _title(runs: Sequence[Run]) -> str:
    data = dict.fromkeys(run.data for run in runs if run.data)
    return f"Models on {', '.join(data)}" if data else "Models"


def _lead(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        source = f"{PurePath(run.source).name}: " if len(runs) > 1 else ""
        yield source + run_heading(run)
    if len({(run.data, run.split) for run in runs}) > 1:
        yield "The files measure accuracy on different data: compare it within a file only."
    if len({(run.cpu, run.onnxruntime) for run in runs}) > 1:
        yield "The files come from different machines: compare latency within a file only."


def _sections(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "models", "Models"
    if content["fronts"] or content["front_gaps"]:
        yield "front", "Accuracy against cost"
    for key, anchor, name in (
        ("layers", "layers", "Layers"),
        ("noise", "noise", "Signal to noise"),
        ("confusions", "mistakes", "Mistakes"),
        ("calibrations", "calibration", "Calibration"),
    ):
        if content[key]:
            yield anchor, name
    yield "provenance", "Provenance"


def _fronts(models: Sequence[ReportModel], markup: type[Markup]) -> dict[str, Any]:
    candidates = [one.candidate for one in models]
    plots, gaps = [], []
    without = [one.name for one in models if one.entry.accuracy is None]
    if without:
        names = ", ".join(without) if len(without) < len(models) else "every model"
        gaps.append(f"Left out for want of accuracy: {names}. Run the comparison with --data.")
    for index, cost in enumerate(COSTS):
        if drawable(cost, candidates):
            plots.append(markup(front_svg(cost, candidates, f"front{index}")))
        missing = [one.name for one in models if cost.value(one.entry) is None]
        if missing:
            gaps.append(f"No {cost.title}: {', '.join(missing)}.")
    return {
        "fronts": plots,
        "front_gaps": gaps,
        "legend_items": _legend(models, markup),
    }


def _legend(models: Sequence[ReportModel], markup: type[Markup]) -> list[dict[str, Any]]:
    return [{"name": one.name, "mark": markup(mark_svg(one.place))} for one in models]


def _layers(models: Sequence[ReportModel], markup: type[Markup]) -> dict[str, Any]:
    found, gaps = [], []
    for one in models:
        nodes = shown_nodes(one.entry)
        if not nodes or not shown_measures(nodes):
            gaps.append(f"{one.name}: no figures of its layers; bench it with this release.")
            continue
        measures = shown_measures(nodes)
        left = len(one.entry.nodes) - len(nodes)
        headings = [Heading("layer", words=True), Heading("operator", words=True)]
        rows = [
            (
                Cell(node.name or node.op_type, title=node.name),
                Cell(node.op_type, words=True),
                *(Cell(measure.text(node), measure.value(node)) for measure in measures),
            )
            for node in nodes
        ]
        most = f", the {MOST_ROWS} costliest" if len(nodes) == MOST_ROWS else ""
        found.append(
            {
                "name": one.name,
                "summary": f"{len(nodes)} layers{most}; {left} nodes without figures",
                "plot": markup(layers_svg(nodes, f"layers{one.place}", f"Layers of {one.name}")),
                "table": Table(
                    f"Layers of {one.name}",
                    (*headings, *(Heading(measure.title) for measure in measures)),
                    tuple(rows),
                ),
            }
        )
    return {"layers": found, "layer_gaps": gaps if found else []}


def _noise(models: Sequence[ReportModel], markup: type[Markup]) -> dict[str, Any] | None:
    compared = [one for one in models if one.entry.noise]
    if not compared:
        return None
    drawn = [one for one in compared if not _is_rounding(one)]
    notes = [
        f"{one.name} differs from {PurePath(one.entry.noise_reference).name} by rounding alone "
        f"(above {ROUNDING_DB} dB everywhere) and is not drawn."
        for one in compared
        if _is_rounding(one)
    ]
    found = {one.name: {layer.tensor: layer for layer in one.entry.noise} for one in compared}
    rows = []
    for tensor in noise_layers([one.candidate for one in compared]):
        layers = [found[one.name].get(tensor) for one in compared]
        op_type = next(layer.op_type for layer in layers if layer is not None)
        cells = (
            Cell("", "")
            if layer is None
            else Cell("exact", 1e9)
            if layer.db is None
            else Cell(f"{layer.db:.1f}", layer.db)
            for layer in layers
        )
        rows.append((Cell(tensor, title=tensor), Cell(op_type, words=True), *cells))
    headings = (
        Heading("tensor", words=True),
        Heading("operator", words=True),
        *(Heading(f"{one.name} (dB)") for one in compared),
    )
    plot = ""
    if drawn:
        places = [one.place for one in drawn]
        plot = markup(noise_svg([one.candidate for one in drawn], places, "noise"))
    return {
        "notes": notes,
        "legend": _legend(drawn, markup),
        "plot": plot,
        "table": Table("Signal-to-noise ratio by layer", headings, tuple(rows)),
    }


def _is_rounding(one: ReportModel) -> bool:
    return all(layer.db is None or layer.db > ROUNDING_DB for layer in one.entry.noise)


def _confusions(models: Sequence[ReportModel], markup: type[Markup]) -> dict[str, Any]:
    found, gaps = [], []
    for one in models:
        confusion, accuracy = one.entry.confusion, one.entry.accuracy
        if confusion is None or accuracy is None:
            continue
        plot = ""
        if len(confusion.class_names) <= MOST_CLASSES:
            title = f"Confusion matrix of {one.name}"
            plot = markup(confusion_svg(confusion, f"confusion{one.place}", title))
        else:
            gaps.append(
                f"{one.name}: {len(confusion.class_names)} classes, too many to draw; its "
                "commonest mistakes stand above."
            )
        summary = f"{accuracy.correct:,} of {accuracy.total:,} right ({accuracy.top1:.2%})"
        found.append(
            {
                "name": one.name,
                "summary": summary,
                "plot": plot,
                "mistakes": mistakes(confusion)[:4],
            }
        )
    return {"confusions": found, "confusion_gaps": gaps}


def _calibration(one: CalibrationEntry, index: int, markup: type[Markup]) -> dict[str, Any]:
    def plot(place: int, tensor: TensorEntry) -> dict[str, Any]:
        return {
            "svg": markup(histogram_svg(tensor, f"calibration{index}-{place}")),
            "name": tensor.tensor,
            "text": f"{tensor.low:.3g} to {tensor.high:.3g}, {tensor.bits} bits, "
            f"{tensor.clipped:.2%} clipped",
        }

    plots = [plot(place, tensor) for place, tensor in enumerate(by_clipping(one.tensors))]
    pairs = setting_pairs(one.settings)
    settings = ", ".join(f"{key} {' '.join(values)}" for key, values in pairs)
    return {
        "name": PurePath(one.model).name,
        "summary": f"{len(plots)} tensors; {settings}",
        "first": plots[:_FIRST_HISTOGRAMS],
        "rest": plots[_FIRST_HISTOGRAMS:],
    }


def _origins(runs: Sequence[Run], models: Sequence[ReportModel]) -> Iterator[dict[str, Any]]:
    for one in models:
        entry = one.entry
        summary = (
            f"{entry.precision}, {bytes_text(entry.file_bytes)}, {count_text(entry.macs)} MACs"
        )
        yield {"name": one.name, "summary": summary, "pairs": origin_pairs(entry)}
    for run in runs:
        name = PurePath(run.source).name or "this comparison"
        yield {"name": name, "summary": "how it was measured", "pairs": run_pairs(run)}
