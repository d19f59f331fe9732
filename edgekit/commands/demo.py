"""`edgekit demo`: the whole job on data that ships inside a dependency."""

from __future__ import annotations

import json
from pathlib import Path

from edgekit import console
from edgekit.bench.report.calibration import read_calibration
from edgekit.bench.report.front import report_front_png
from edgekit.bench.report.page import report_html
from edgekit.bench.report.results_file import read_runs
from edgekit.bench.report.table import summary_markdown
from edgekit.bench.results import BenchReport
from edgekit.bench.settings import BenchSettings
from edgekit.commands.bench import bench_files
from edgekit.commands.calibrating import Calibration
from edgekit.commands.export import export_checkpoint
from edgekit.commands.images import DataSource
from edgekit.commands.optimize import optimize_file
from edgekit.commands.packing import Packing
from edgekit.commands.quantize import quantize_file
from edgekit.commands.train import train_recipe
from edgekit.export.precisions import PRECISIONS
from edgekit.runtime.files import check_output, write_text

RECIPE = "densenet-digits"
DIGITS = DataSource("digits")
CONVERSIONS = ("fp16", "fp16-storage", "int8", "int16")
SETTINGS = BenchSettings(warmup=50, iterations=500, noise_images=64)


def run_demo(folder: Path, *, force: bool = False) -> BenchReport:
    """Train, prune, export, optimize, convert and measure a small DenseNet on digits.

    The folder then holds the run, the models, bench.json, summary.md, front.png
    and report.html.

    Args:
        folder: The folder to fill.
        force: Use a folder that exists; what an earlier demo left there is replaced.

    Raises:
        EdgekitError: the folder cannot be used, or an extra is missing.
    """
    check_output(folder, force=force, folder=True)
    console.say("1/5  train a DenseNet on digits, pruning half of its weights on the way")
    run = train_recipe(RECIPE, folder / "run", force=force).run
    console.say("2/5  export it to ONNX and compare it with torch")
    exported = folder / "exported.onnx"
    export_checkpoint(run.checkpoint, exported, data=DIGITS, passes=False, force=force)
    console.say("3/5  fold batch norms and remove what is not needed, checking every step")
    optimized = folder / "optimized.onnx"
    optimize_file(exported, optimized, data=DIGITS, force=force)
    console.say(f"4/5  convert it to {', '.join(CONVERSIONS)} and packed int8")
    models, calibrations = [exported, optimized], []
    for precision in CONVERSIONS:
        models.append(folder / f"{precision}.onnx")
        calibrated = PRECISIONS[precision].calibrated
        if calibrated:
            calibrations.append(folder / f"{precision}.calibration.json")
        quantize_file(
            optimized,
            models[-1],
            precision=precision,
            calibration=Calibration(DIGITS) if calibrated else None,
            calibration_report=calibrations[-1] if calibrated else None,
            force=force,
        )
    models.append(folder / "int8-packed.onnx")
    quantize_file(
        optimized, models[-1], calibration=Calibration(DIGITS), packing=Packing(), force=force
    )
    console.say("5/5  measure all of them, side by side")
    report = bench_files(models, DIGITS, "test", SETTINGS)
    write_text(folder / "bench.json", json.dumps(report.to_json(), indent=2) + "\n")
    write_text(folder / "summary.md", summary_markdown(report))
    report_front_png(report, folder / "front.png")
    runs = read_runs([folder / "bench.json"])
    seen = [read_calibration(path) for path in calibrations]
    write_text(folder / "report.html", report_html(runs, seen))
    return report
