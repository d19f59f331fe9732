"""`edgekit quantize --calibration-report`: what calibration saw, and the ranges it chose."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgekit import console
from edgekit.export.calibration import CalibrationReader
from edgekit.export.histograms import histograms, write_calibration_report
from edgekit.export.precisions import PRECISIONS
from edgekit.export.quantize import QuantizeResult
from edgekit.runtime.errors import InputError
from edgekit.runtime.files import check_output


def check_calibration_report(
    path: Path,
    precision: str,
    *,
    force: bool,
    inputs: Iterable[Path],
    outputs: Iterable[Path],
) -> None:
    """Refuse a report before any work is done for it.

    Args:
        path: The report.
        precision: What the model is converted to.
        force: Replace an existing report.
        inputs: Files that are read; none of them may be the report.
        outputs: Files that are written besides; likewise.

    Raises:
        InputError: nothing is calibrated for that precision.
        OutputError: the file is one of those, or cannot be written.
    """
    if precision in PRECISIONS and not PRECISIONS[precision].calibrated:
        calibrated = " or ".join(name for name, entry in PRECISIONS.items() if entry.calibrated)
        raise InputError(
            f"--calibration-report: {precision} chooses no ranges; use it with {calibrated}"
        )
    flag = "--calibration-report"
    check_output(path, force=force, inputs=inputs, outputs=outputs, flag=flag)


def report_calibration(
    path: Path,
    result: QuantizeResult,
    reader: CalibrationReader,
    output: Path,
) -> None:
    """Write the distribution and the range of each quantized tensor.

    Args:
        path: The report.
        result: What quantization made of it.
        reader: The calibration data.
        output: The file of the result.

    Raises:
        EdgekitError: the data is unusable, or the file cannot be written.
    """
    with console.progress("histograms") as advance:
        found = histograms(result.reference, result.model, reader, advance)
    write_calibration_report(found, output, result.report.settings, path)
