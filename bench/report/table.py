"""A comparison as a table: its columns, and markdown to paste into a README."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from edgekit.bench.report.json_object import printable
from edgekit.bench.report.results_file import Entry, Run, run_of
from edgekit.bench.results import BenchReport

Value = Callable[[Entry, Entry], float | None]


@dataclass(frozen=True)
class Column:
    """One column of the table; each function takes a model and the first of its run.

    Attributes:
        title: Its heading.
        meaning: What it is, in a few words.
        text: A cell as people read it; "" where there is no figure.
        value: The figure to sort by; None to sort by the text.
        best: Which end of the scale is the better one; "" for none.
    """

    title: str
    meaning: str
    text: Callable[[Entry, Entry], str]
    value: Value | None = None
    best: Literal["", "high", "low"] = ""


def summary_markdown(report: BenchReport) -> str:
    """The comparison as GitHub-flavoured markdown: how it was measured, and one row a model."""
    return table_markdown(run_of(report))


def table_markdown(run: Run) -> str:
    """One run as GitHub-flavoured markdown: how it was measured, and one row a model."""
    described = run_columns(run)
    titles = [title for title, _ in described]
    names = [code(name) for name in described[0][1]]
    rows = zip(names, *(cells for _, cells in described[1:]), strict=True)
    marks = ["---", *(["---:"] * (len(titles) - 1))]
    lines = [row_markdown(titles), row_markdown(marks), *(row_markdown(row) for row in rows)]
    return "\n".join([run_heading(run), "", *lines, "", *run_notes(run)]).rstrip() + "\n"


def row_markdown(cells: Sequence[str]) -> str:
    """One row of a markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def code(text: str) -> str:
    """Text in markdown as code, which nothing in it can end."""
    return f"`{text.replace('`', chr(39))}`"


def columns(report: BenchReport) -> list[tuple[str, list[str]]]:
    """The comparison as text, column by column: (title, one cell a model).

    The first column names the models. One that would be empty for every model is left out.
    """
    return run_columns(run_of(report))


def run_columns(run: Run) -> list[tuple[str, list[str]]]:
    """See `columns`."""
    first = run.entries[0]
    described = [("model", model_names([entry.path for entry in run.entries]))]
    for column in COLUMNS:
        cells = [column.text(entry, first) for entry in run.entries]
        if any(cells):
            described.append((column.title, [text or "n/a" for text in cells]))
    return described


def model_names(paths: Sequence[str]) -> list[str]:
    """File names, with their folder where two models have the same name."""
    names = [PurePath(path).name or path for path in paths]
    seen = Counter(names)
    return [name if seen[name] == 1 else path for name, path in zip(names, paths, strict=True)]


def bytes_text(size: int) -> str:
    """A size in bytes, kB or MB (powers of ten)."""
    if size < 1_000:
        return f"{size} B"
    return f"{size / 1e3:.1f} kB" if size < 999_950 else f"{size / 1e6:.1f} MB"


def count_text(number: int) -> str:
    """A count with three digits and k, M or G."""
    for unit, factor in (("", 1), (" k", 1e3), (" M", 1e6), (" G", 1e9)):
        digits = f"{number / factor:.3g}"
        if float(digits) < 1_000:
            return digits + unit
    return f"{number:,}"


def heading(report: BenchReport) -> str:
    """How the comparison was measured, in one line."""
    return run_heading(run_of(report))


def run_heading(run: Run) -> str:
    """See `heading`."""
    data = f"{run.data} ({run.split})" if run.data else "no data, random input"
    how = [run.cpu]
    threads, batch, iterations = (
        run.settings.get(key) for key in ("threads", "batch_size", "iterations")
    )
    if isinstance(threads, int):
        how.append(_plural(threads, "thread"))
    if isinstance(batch, int):
        how.append(f"batch {batch}")
    if isinstance(iterations, int):
        how.append(f"median of {_plural(iterations, 'run')}")
    return f"{data}; {', '.join(how)}, {_engine(run)}."


def _engine(run: Run) -> str:
    """What ran the models; files of earlier releases, which had no choice, do not say."""
    engine = run.settings.get("engine", "onnxruntime")
    if engine == "onnxruntime":
        return f"onnxruntime {run.onnxruntime}"
    return printable(f"{engine} {run.settings.get('engine_version', '')}").strip()


def notes(report: BenchReport) -> list[str]:
    """What a reader of the table must know besides."""
    return run_notes(run_of(report))


def run_notes(run: Run) -> list[str]:
    """See `notes`."""
    return [
        f"{PurePath(entry.path).name}: MACs not counted of {', '.join(entry.uncounted_ops)}."
        for entry in run.entries
        if entry.uncounted_ops
    ]


def _accuracy(entry: Entry, _first: Entry) -> str:
    accuracy = entry.accuracy
    if accuracy is None:
        return ""
    return f"{accuracy.top1:.2%} ({accuracy.low:.1%} to {accuracy.high:.1%})"


def _speed(entry: Entry, first: Entry) -> float | None:
    return first.p50_ms / entry.p50_ms if entry.p50_ms else None


def _speed_text(entry: Entry, first: Entry) -> str:
    speed = _speed(entry, first)
    return "" if speed is None else f"{speed:.2f}x"


def _short(number: float | None) -> str:
    if number is None:
        return ""
    return f"{number:.3g}" if number < 999.5 else f"{number:.0f}"


COLUMNS = (
    Column("precision", "number format of the products", lambda m, _: m.precision),
    Column(
        "top-1 (95% interval)",
        "share of images whose class was found",
        _accuracy,
        lambda m, _: m.accuracy.top1 if m.accuracy else None,
        "high",
    ),
    Column(
        "flips",
        "images to which the first model gives another class",
        lambda m, _: str(m.accuracy.flips) if m.accuracy else "",
        lambda m, _: m.accuracy.flips if m.accuracy else None,
    ),
    Column(
        "file",
        "size on disk",
        lambda m, _: bytes_text(m.file_bytes),
        lambda m, _: m.file_bytes,
        "low",
    ),
    Column(
        "non-zero params",
        "learned values that are not zero",
        lambda m, _: count_text(m.nonzero),
        lambda m, _: m.nonzero,
        "low",
    ),
    Column(
        "MACs (effective)",
        "multiply-accumulates for one image; in brackets those with non-zero weights",
        lambda m, _: f"{count_text(m.macs)} ({count_text(m.effective_macs)})",
        lambda m, _: m.effective_macs,
        "low",
    ),
    Column("p50 ms", "median latency", lambda m, _: _short(m.p50_ms), lambda m, _: m.p50_ms, "low"),
    Column(
        "p90 ms",
        "latency that nine runs of ten keep",
        lambda m, _: _short(m.p90_ms),
        lambda m, _: m.p90_ms,
        "low",
    ),
    Column(
        "speed", "median latency of the first model over this one's", _speed_text, _speed, "high"
    ),
    Column(
        "memory",
        "peak memory of a process that runs the model once",
        lambda m, _: "" if m.peak_rss_bytes is None else bytes_text(m.peak_rss_bytes),
        lambda m, _: m.peak_rss_bytes,
        "low",
    ),
    Column(
        "IMT",
        "score of parameters and MACs, small is good",
        lambda m, _: _short(m.imt),
        lambda m, _: m.imt,
        "low",
    ),
    Column(
        "MicroNet",
        "score after the NeurIPS 2019 rules, small is good",
        lambda m, _: _short(m.micronet2019),
        lambda m, _: m.micronet2019,
        "low",
    ),
)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
