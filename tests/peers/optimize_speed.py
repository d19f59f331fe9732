"""How long `edgekit optimize` takes, and how much memory, beside other tools.

    python tests/peers/optimize_speed.py [MODEL ...] [--runs 5] [--folder FOLDER]

Every run is a process of its own, in turns: a tool reads torchvision's model, runs all that it runs
by default without checking its results, and writes what comes out. "optimize" is the time from file
to file, once the tool is imported; "process" is all, start and imports included; medians over the
runs. "memory" is the peak of the process's resident memory, less what it took when the tool was
imported, in multiples of the model's size.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from edgekit.bench.memory import own_peak_rss_bytes

MODELS = ("densenet121", "resnet50", "vit_b_16")

Job = Callable[[Path, Path], object]


def edgekit() -> Job:
    """`edgekit optimize --no-verify`."""
    from edgekit.commands.optimize import optimize_file

    return lambda source, target: optimize_file(source, target, verify=False)


def onnxslim() -> Job:
    """`onnxslim`."""
    import onnxslim

    return lambda source, target: onnxslim.slim(str(source), str(target))


def onnxsim() -> Job:
    """`onnxsim`."""
    import onnx
    import onnxsim

    return lambda source, target: onnx.save(onnxsim.simplify(str(source), check_n=0)[0], target)


def onnxoptimizer() -> Job:
    """`onnxoptimizer`."""
    import onnx
    import onnxoptimizer

    return lambda source, target: onnx.save(onnxoptimizer.optimize(onnx.load(source)), target)


TOOLS: dict[str, Callable[[], Job]] = {
    "edgekit": edgekit,
    "onnxslim": onnxslim,
    "onnxsim": onnxsim,
    "onnxoptimizer": onnxoptimizer,
}


def run_here(tool: str, source: Path, target: Path) -> None:
    """Run one tool in this process, and print what it took."""
    job = TOOLS[tool]()
    imported, start = own_peak_rss_bytes(), time.perf_counter()
    job(source, target)
    seconds = time.perf_counter() - start
    print(json.dumps({"optimize": seconds, "bytes": own_peak_rss_bytes() - imported}))


def run(tool: str, source: Path, target: Path) -> dict[str, float]:
    """Run one tool in a process of its own."""
    target.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--here", tool, str(source), str(target)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    seconds = time.perf_counter() - start
    took: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return took | {"process": seconds}


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--here"]:
        run_here(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "edgekit-peers"
    )
    parser.add_argument("--export-only", action="store_true", help="make the models, measure none")
    settings = parser.parse_args()
    if missing := [n for n in settings.models if not (settings.folder / f"{n}.onnx").exists()]:
        from torchvision_models import exported  # beside this file

        for name in missing:
            exported(name, settings.folder)
    if settings.export_only:
        return
    print(
        "| model | MB | tool | optimize, s | process, s | memory |\n|---|---:|---|---:|---:|---:|"
    )
    for name in settings.models:
        source = settings.folder / f"{name}.onnx"
        size = source.stat().st_size
        with tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch) / "out.onnx"
            for tool in TOOLS:  # into the page cache
                run(tool, source, target)
            turns = [
                {tool: run(tool, source, target) for tool in TOOLS} for _ in range(settings.runs)
            ]
        for tool in TOOLS:
            took = {
                key: statistics.median(turn[tool][key] for turn in turns) for key in turns[0][tool]
            }
            print(
                f"| {name} | {size / 1e6:.0f} | {tool} | {took['optimize']:.2f} "
                f"| {took['process']:.2f} | {took['bytes'] / size:.2f}x |",
                flush=True,
            )


if __name__ == "__main__":
    main()
