"""`edgekit report`: results files as one page, as markdown or as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.bench.report.calibration import read_calibration
from edgekit.bench.report.front import COSTS, drawable, front_png
from edgekit.bench.report.markdown import report_markdown
from edgekit.bench.report.page import report_html
from edgekit.bench.report.report_models import report_models
from edgekit.bench.report.results_file import Run, read_runs
from edgekit.options import ReportFormat
from edgekit.runtime.errors import InputError
from edgekit.runtime.files import check_output, write_text

_SUFFIXES = {
    ".html": ReportFormat.HTML,
    ".htm": ReportFormat.HTML,
    ".md": ReportFormat.MARKDOWN,
    ".markdown": ReportFormat.MARKDOWN,
    ".png": ReportFormat.PNG,
}


def write_report(
    paths: Sequence[Path],
    output: Path,
    *,
    format_: ReportFormat | None = None,
    calibrations: Sequence[Path] = (),
    title: str = "",
    force: bool = False,
) -> list[str]:
    """Write a report on results of `edgekit bench --format json`.

    Args:
        paths: Results files.
        output: The file to write.
        format_: Its form; None to go by the ending of its name.
        calibrations: Files of `edgekit quantize --calibration-report`.
        title: The heading.
        force: Replace an existing output.

    Returns:
        What was left out, a line each.

    Raises:
        EdgekitError: a file cannot be read or written, or an extra is missing.
    """
    check_output(output, force=force, inputs=[*paths, *calibrations])
    format_ = format_ or _by_suffix(output)
    if calibrations and format_ is ReportFormat.PNG:
        raise InputError("--calibration is shown in html and md alone: leave it out for a png")
    runs = read_runs(paths)
    entries = [read_calibration(path) for path in calibrations]
    if format_ is ReportFormat.HTML:
        write_text(output, report_html(runs, entries, title))
    elif format_ is ReportFormat.MARKDOWN:
        write_text(output, report_markdown(runs, entries, title))
    else:
        candidates = [one.candidate for one in report_models(runs)]
        front_png(candidates, title or "Accuracy against cost", output)
    return _left_out(runs, format_)


def _by_suffix(output: Path) -> ReportFormat:
    if output.suffix.lower() not in _SUFFIXES:
        raise InputError(
            f"{output}: its name ends in none of {', '.join(_SUFFIXES)}; say what it shall be with "
            f"--format {', '.join(ReportFormat)}"
        )
    return _SUFFIXES[output.suffix.lower()]


def _left_out(runs: Sequence[Run], format_: ReportFormat) -> list[str]:
    """The plots that lack figures."""
    if format_ is ReportFormat.MARKDOWN:
        return []
    candidates = [one.candidate for one in report_models(runs)]
    if not any(candidate.entry.accuracy for candidate in candidates):
        return ["no accuracy in the results, so no plot of it: run edgekit bench with --data"]
    return [
        f"no model has both accuracy and {cost.title}, so no plot of them"
        for cost in COSTS
        if not drawable(cost, candidates)
    ]
