"""The page's tables: headings, and cells that know what to sort by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.bench.report.report_models import ReportModel
from edgekit.bench.report.table import COLUMNS


@dataclass(frozen=True)
class Heading:
    """A column's heading; `words` are aligned left."""

    title: str
    meaning: str = ""
    words: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell; sorted by `value`, or by its text where there is none."""

    text: str
    value: float | str | None = None
    best: bool = False
    words: bool = False
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table that a reader can sort."""

    caption: str
    headings: tuple[Heading, ...]
    rows: tuple[tuple[Cell, ...], ...]


def model_table(models: Sequence[ReportModel], several: bool) -> Table:
    """All models with all figures; with the run that each belongs to where there are several."""
    headings = [Heading("model", words=True)]
    columns: list[list[Cell]] = [[Cell(one.name, title=one.entry.path) for one in models]]
    if several:
        headings.append(Heading("run", "the results file", words=True))
        columns.append([Cell(one.run_name, words=True) for one in models])
    for column in COLUMNS:
        texts = [column.text(one.entry, one.first) for one in models]
        if not any(texts):
            continue
        if column.value is None:
            headings.append(Heading(column.title, column.meaning, words=True))
            columns.append([Cell(text or "n/a", words=True) for text in texts])
            continue
        values = [column.value(one.entry, one.first) for one in models]
        headings.append(Heading(column.title, column.meaning))
        best = _best([value for value in values if value is not None], column.best)
        columns.append(
            [
                Cell(
                    text or "n/a",
                    "" if value is None else value,
                    best is not None and value == best,
                )
                for text, value in zip(texts, values, strict=True)
            ]
        )
    return Table("Models side by side", tuple(headings), tuple(zip(*columns, strict=True)))


def _best(values: Sequence[float], which: str) -> float | None:
    """The best figure; None where nothing is better, or all are alike."""
    if not which or len(set(values)) < 2:
        return None
    return max(values) if which == "high" else min(values)
