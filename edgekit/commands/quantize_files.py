"""The files of `edgekit quantize`: what it reads must stay, what it writes must not collide."""

from __future__ import annotations

from pathlib import Path

from edgekit.commands.accuracy_drop import DropLimit
from edgekit.commands.calibrating import Calibration, check_cache
from edgekit.commands.calibration_report import check_calibration_report
from edgekit.commands.max_drop import CODED, best_path
from edgekit.runtime.files import check_output
from edgekit.runtime.model_file import own_files


def check_files(
    path: Path,
    output: Path,
    precision: str,
    *,
    calibration: Calibration | None,
    max_drop: DropLimit | None,
    calibration_report: Path | None,
    force: bool,
) -> None:
    """Refuse files before any work is done; the arguments are those of `quantize_file`.

    Raises:
        InputError: a file is asked for that the precision has no use for.
        OutputError: an output is an input or another output, exists, or cannot be written.
    """
    sources = [calibration.data if calibration else None, max_drop.data if max_drop else None]
    inputs = [*own_files(path), *(file for source in sources if source for file in source.files)]
    outputs = [output]
    if max_drop is not None and precision in CODED:
        outputs.append(best_path(output))
    for file in outputs:
        check_output(file, force=force, inputs=inputs)
    if calibration_report is not None:
        check_calibration_report(
            calibration_report, precision, force=force, inputs=inputs, outputs=outputs
        )
        outputs.append(calibration_report)
    cache = calibration.cache if calibration else None
    check_cache(cache, precision, inputs=inputs, outputs=outputs)
