"""A report as markdown: the table, what precision was lost where, mistakes, provenance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath

from edgekit.bench.report.calibration import CalibrationEntry, by_clipping
from edgekit.bench.report.layers import shown_measures, shown_nodes
from edgekit.bench.report.mistakes import mistakes
from edgekit.bench.report.origin import Pairs, origin_pairs, run_pairs
from edgekit.bench.report.report_models import ReportModel, report_models
from edgekit.bench.report.results_file import Run
from edgekit.bench.report.table import code, row_markdown, table_markdown

# Rows of a section; the page has them all.
_MOST_ROWS = 10


def report_markdown(
    runs: Sequence[Run], calibrations: Sequence[CalibrationEntry] = (), title: str = ""
) -> str:
    """The report as GitHub-flavoured markdown.

    Args:
        runs: Results files; at least one.
        calibrations: Calibration reports to show beside them.
        title: The heading, in place of the usual one.
    """
    models = report_models(runs)
    blocks = [f"# {' '.join(title.split()) or 'Models side by side'}"]
    for run in runs:
        if len(runs) > 1:
            blocks.append(f"## {code(PurePath(run.source).name)}")
        blocks.append(table_markdown(run).rstrip())
    blocks += _section("Costliest layers", _layers(models))
    blocks += _section("Signal to noise", _noise(models))
    blocks += _section("Mistakes", _mistakes(models))
    blocks += _section("Calibration", _calibration(calibrations))
    blocks += _section("Provenance", _provenance(runs, models))
    return "\n\n".join(blocks) + "\n"


def _section(title: str, blocks: Iterator[str]) -> list[str]:
    found = list(blocks)
    return [f"## {title}", *found] if found else []


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = ["---", *(["---:"] * (len(titles) - 1))]
    return "\n".join([row_markdown(titles), row_markdown(marks), *map(row_markdown, rows)])


def _layers(models: Sequence[ReportModel]) -> Iterator[str]:
    for one in models:
        nodes = shown_nodes(one.entry)
        measures = shown_measures(nodes)
        if not measures:
            continue
        nodes.sort(key=lambda node: (-(node.time_share or 0), -node.macs, -node.params))
        rows = [
            [code(node.name or node.op_type), *(measure.text(node) for measure in measures)]
            for node in nodes[:_MOST_ROWS]
        ]
        yield f"{code(one.name)}, {len(rows)} of {len(nodes)}:"
        yield _table(["layer", *(measure.title for measure in measures)], rows)


def _noise(models: Sequence[ReportModel]) -> Iterator[str]:
    for one in models:
        known = [(layer.db, layer.tensor) for layer in one.entry.noise if layer.db is not None]
        if not one.entry.noise:
            continue
        reference = code(PurePath(one.entry.noise_reference).name)
        if not known:
            yield f"{code(one.name)} computes exactly what {reference} does."
            continue
        rows = [[code(tensor), f"{db:.1f}"] for db, tensor in sorted(known)[:_MOST_ROWS]]
        yield f"{code(one.name)} beside {reference}, the {len(rows)} lowest of {len(known)}:"
        yield _table(["tensor", "dB"], rows)


def _mistakes(models: Sequence[ReportModel]) -> Iterator[str]:
    for one in models:
        if one.entry.confusion is None:
            continue
        found = [
            f"{code(m.true)} taken for {code(m.predicted)} {m.images} times"
            for m in mistakes(one.entry.confusion)
        ]
        yield f"{code(one.name)}: {', '.join(found) or 'none'}."


def _calibration(calibrations: Sequence[CalibrationEntry]) -> Iterator[str]:
    for one in calibrations:
        rows = [
            [
                code(tensor.tensor),
                f"{tensor.low:.3g} to {tensor.high:.3g}",
                f"{tensor.smallest:.3g} to {tensor.largest:.3g}",
                f"{tensor.clipped:.2%}",
            ]
            for tensor in by_clipping(one.tensors)[:_MOST_ROWS]
        ]
        yield f"{code(PurePath(one.model).name)}, {len(rows)} of {len(one.tensors)} tensors:"
        yield _table(["tensor", "range", "seen", "clipped"], rows)


def _provenance(runs: Sequence[Run], models: Sequence[ReportModel]) -> Iterator[str]:
    for one in models:
        yield f"{code(one.name)}:"
        yield _bullets(origin_pairs(one.entry))
    for run in runs:
        yield f"How {code(PurePath(run.source).name)} was measured:"
        yield _bullets(run_pairs(run))


def _bullets(pairs: Pairs) -> str:
    return "\n".join(f"- {key}: {code(', '.join(values))}" for key, values in pairs)
