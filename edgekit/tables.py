"""Results on standard output: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from edgekit import console
from edgekit.bench.report.json_object import printable
from edgekit.bench.report.table import bytes_text
from edgekit.bench.speed_tables import TextTable

# The counts of a comparison, with numbers of five digits.
COUNTS_WIDTH = 56


class _Rows(Table):
    """A table whose cells cannot steer the terminal, whatever a model's names hold."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(_shown, cells), **options)


def _shown(cell: Any) -> Any:
    if isinstance(cell, str):
        return _lines(cell)
    if isinstance(cell, Text) and not cell.plain.isprintable():
        return Text(_lines(cell.plain), cell.style)
    return cell


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def show(*renderables: Table) -> None:
    """Write tables to standard output."""
    output = console.output()
    for renderable in renderables:
        output.print(renderable)


def show_json(value: Any) -> None:
    """Write a result to standard output as JSON; paths become strings."""
    try:
        print(json.dumps(value, indent=2, default=_plain, allow_nan=False), flush=True)
    except BrokenPipeError:
        console.end_of_pipe()


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def table_of(*titles: str) -> Table:
    """A table with these columns; `>` in front of a title aligns its column to the right."""
    table = _Rows(box=None, header_style="bold", caption_justify="left", pad_edge=False)
    for title in titles:
        right = title.startswith(">")
        justify: Literal["left", "right"] = "right" if right else "left"
        table.add_column(_lines(title.removeprefix(">")), justify=justify, overflow="fold")
    return table


def pairs(rows: Iterable[tuple[str, str]]) -> Table:
    """A table of names and values without a heading."""
    table = _Rows(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def written(output: Path, before: int, after: int) -> tuple[str, str]:
    """The row that tells the file that was written, and how its size changed."""
    return "written", f"{output} ({bytes_text(before)} to {bytes_text(after)})"


def percent(share: float | None) -> str:
    """A share as percent; None was not measured."""
    return "not measured" if share is None else f"{share:.2%}"


def show_text_table(text: TextTable) -> None:
    """Write a table under its caption to standard output."""
    first, *others = text.titles
    table = table_of(first, *(f">{title}" for title in others))
    for row in text.rows:
        table.add_row(*(Text(cell) for cell in row))
    console.output().print()
    console.output().print(Text(_lines(text.caption)))
    if text.rows:
        show(table)
