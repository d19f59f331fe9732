"""What the commands that measure print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from edgekit import console
from edgekit.bench.report.table import columns, heading, notes
from edgekit.bench.results import BenchReport
from edgekit.bench.speed_tables import comparison_table, speed_notes, speed_tables
from edgekit.commands.bench import BenchResult
from edgekit.commands.compare import CompareResult
from edgekit.commands.compare_text import comparison_pairs, comparison_tables
from edgekit.options import Format
from edgekit.tables import pairs, show, show_json, show_text_table, table_of

if TYPE_CHECKING:
    pass


def print_bench(result: BenchResult, format_: Format) -> None:
    """Models side by side, then what else was measured, changed or checked."""
    if format_ is Format.JSON:
        show_json(result.to_json())
        return
    _print_models(result.report)
    tables = list(speed_tables(result.report))
    if result.comparison is not None:
        tables.append(comparison_table(result.comparison))
    for text in tables:
        show_text_table(text)
    for check in result.checks or ():
        console.output().print(Text(f"{'passed' if check.passed else 'FAILED'}: {check.message}"))


def _print_models(report: BenchReport) -> None:
    """Models side by side; one under the other where a terminal is too narrow for that."""
    described = columns(report)
    table = table_of(described[0][0], *(f">{title}" for title, _ in described[1:]))
    for row in zip(*(cells for _, cells in described), strict=True):
        table.add_row(*row)
    caption = "\n".join([heading(report), *notes(report), *speed_notes(report)])
    if console.fits(table):
        table.caption = caption
        show(table)
        return
    *models, last = zip(*(cells for _, cells in described), strict=True)
    titles = [title for title, _ in described]
    for model in models:
        show(pairs([*zip(titles, model, strict=True), ("", "")]))
    lowest = pairs(zip(titles, last, strict=True))
    lowest.caption, lowest.caption_justify = caption, "left"
    show(lowest)


def print_comparison(result: CompareResult, format_: Format, top: int) -> None:
    """Where two versions of a model differ."""
    if format_ is Format.JSON:
        show_json(result.to_json())
        return
    show(pairs(comparison_pairs(result)))
    for text in comparison_tables(result, top):
        show_text_table(text)
    for note in result.notes:
        console.say(f"note: {note}")
