"""A comparison as a table to paste into a README."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from edgekit.bench.results import BenchReport, ModelResult


def summary_markdown(report: BenchReport) -> str:
    """The comparison as GitHub-flavoured markdown: how it was measured, and one row a model."""
    described = columns(report)
    titles = [title for title, _ in described]
    names = [f"`{name}`" for name in described[0][1]]
    rows = zip(names, *(cells for _, cells in described[1:]), strict=True)
    marks = ["---", *(["---:"] * (len(titles) - 1))]
    lines = [_row(titles), _row(marks), *(_row(row) for row in rows)]
    return "\n".join([heading(report), "", *lines, "", *notes(report)]).rstrip() + "\n"


def columns(report: BenchReport) -> list[tuple[str, list[str]]]:
    """The comparison as text, column by column: (title, one cell a model).

    The first column names the models. One that would be empty for every model is left out.
    """
    first = report.models[0]
    described = [("model", model_names([Path(model.figures.path) for model in report.models]))]
    for title, cell in _COLUMNS.items():
        cells = [cell(model, first) for model in report.models]
        if any(cells):
            described.append((title, [text or "n/a" for text in cells]))
    return described


def model_names(paths: Sequence[Path]) -> list[str]:
    """File names, with their folder where two models have the same name."""
    seen = Counter(path.name for path in paths)
    return [path.name if seen[path.name] == 1 else str(path) for path in paths]


def bytes_text(size: int) -> str:
    """A size in bytes, kB or MB (powers of ten)."""
    if size < 1_000:
        return f"{size} B"
    return f"{size / 1e3:.1f} kB" if size < 1_000_000 else f"{size / 1e6:.1f} MB"


def count_text(number: int) -> str:
    """A count with three digits and k, M or G."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}" if number < 1e3 * factor else f"{number:,}"
    return str(number)


def _accuracy(model: ModelResult, _first: ModelResult) -> str:
    accuracy = model.accuracy
    if accuracy is None:
        return ""
    low, high = accuracy.ci95
    return f"{accuracy.top1:.2%} ({low:.1%} to {high:.1%})"


def _speedup(model: ModelResult, first: ModelResult) -> str:
    return f"{first.latency.p50_ms / model.latency.p50_ms:.2f}x"


_COLUMNS: dict[str, Callable[[ModelResult, ModelResult], str]] = {
    "precision": lambda m, _: m.figures.precision,
    "top-1 (95% interval)": _accuracy,
    "flips": lambda m, _: str(m.accuracy.flips_vs_first) if m.accuracy else "",
    "file": lambda m, _: bytes_text(m.figures.file_bytes),
    "non-zero params": lambda m, _: count_text(m.figures.nonzero),
    "MACs (effective)": lambda m, _: (
        f"{count_text(m.figures.macs)} ({count_text(m.figures.effective_macs)})"
    ),
    "p50 ms": lambda m, _: f"{m.latency.p50_ms:.3g}",
    "p90 ms": lambda m, _: f"{m.latency.p90_ms:.3g}",
    "speed": _speedup,
    "memory": lambda m, _: "" if m.peak_rss_bytes is None else bytes_text(m.peak_rss_bytes),
    "IMT": lambda m, _: f"{m.figures.score.imt:.3g}",
    "MicroNet": lambda m, _: f"{m.figures.score.micronet2019:.3g}",
}


def heading(report: BenchReport) -> str:
    """How the comparison was measured, in one line."""
    settings, machine = report.settings, report.machine
    data = f"{report.data} ({report.split})" if report.data else "no data, random input"
    return (
        f"{data}; {machine.cpu}, {_plural(settings.threads, 'thread')}, "
        f"batch {settings.batch_size}, median of {settings.iterations} runs, "
        f"onnxruntime {machine.onnxruntime}."
    )


def notes(report: BenchReport) -> list[str]:
    """What a reader of the table must know besides."""
    lines = []
    for model in report.models:
        if model.figures.uncounted_ops:
            operators = ", ".join(model.figures.uncounted_ops)
            lines.append(f"{Path(model.figures.path).name}: MACs not counted of {operators}.")
    return lines


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
