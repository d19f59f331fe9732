"""What calibration costs, by edgekit and by onnxruntime: seconds and peak memory, as a table.

    python tests/peers/calibration_cost.py [MODEL.onnx] [--images 100,1000,10000] [--rounds 3]
        [--tools "edgekit percentile;onnxruntime percentile"]

Every figure is from a process of its own, one thread, the tools in turns; the same images, the same
tensors. Without a model it is a post-activation DenseNet for 32x32 images, its values random.
Images are noise, made as they are read, so that none of the memory is theirs; they come in batches
of 20. onnxruntime's calibrators have their own default settings; "batch by batch" hands them one
batch at a time, so that they do not keep all of them, which its quantize_static does. Those that
keep all are left out above `--most` images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgekit.bench.memory import own_peak_rss_bytes
from edgekit.export.calibration import CalibrationReader, Feed
from edgekit.export.calibrators import CALIBRATORS, calibrator
from edgekit.export.graph import load_graph, model_preprocessing
from edgekit.export.quiet import quiet
from edgekit.export.to_qdq import QDQ_OPS
from edgekit.runtime.session import open_session

BATCH_SIZE = 20
THEIRS = {"percentile": "Percentile", "entropy": "Entropy", "minmax": "MinMax"}
PEERS = ("onnxruntime percentile", "onnxruntime percentile, batch by batch", "onnxruntime entropy")


class OneBatch:
    """A batch as a reader of onnxruntime's."""

    def __init__(self, feed: Feed) -> None:
        self._feed: Feed | None = feed

    def get_next(self) -> Feed | None:
        feed, self._feed = self._feed, None
        return feed


def reader_of(path: Path, count: int) -> CalibrationReader:
    """Noise in the form that a model takes; all batches are full, as onnxruntime needs them."""
    preprocessing = model_preprocessing(load_graph(path))
    assert preprocessing is not None
    name = load_graph(path).graph.inputs[0].name
    shape = (BATCH_SIZE, *preprocessing.image_shape)

    def feeds() -> Iterator[Feed]:
        generator = np.random.default_rng(0)
        for _ in range(count // BATCH_SIZE):
            yield {str(name): preprocessing(generator.integers(0, 256, shape, np.uint8))}

    return CalibrationReader(feeds, count // BATCH_SIZE, {"data": "noise", "samples": count})


def ours(path: Path, reader: CalibrationReader, method: str) -> dict[str, Any]:
    """Ranges as edgekit finds them."""
    return dict(calibrator(method).ranges(load_graph(path), reader, QDQ_OPS))


def theirs(path: Path, reader: CalibrationReader, method: str, *, by_batch: bool) -> dict[str, Any]:
    """Ranges as onnxruntime finds them, on one thread."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    with tempfile.TemporaryDirectory() as folder, quiet():
        augmented = Path(folder) / "augmented.onnx"
        found = create_calibrator(
            path,
            list(QDQ_OPS),
            augmented_model_path=str(augmented),
            calibrate_method=CalibrationMethod[THEIRS[method]],
        )
        found.infer_session = open_session(augmented, optimize=False)
        for batch in map(OneBatch, reader) if by_batch else [reader]:
            found.collect_data(batch)
        return dict(found.compute_data().data)


TOOLS: dict[str, Callable[[Path, CalibrationReader], dict[str, Any]]] = {
    **{
        f"edgekit {name}": lambda path, reader, name=name: ours(path, reader, name)  # type: ignore[misc]
        for name in sorted(CALIBRATORS, key=lambda name: name != "percentile")
    },
    PEERS[0]: lambda path, reader: theirs(path, reader, "percentile", by_batch=False),
    PEERS[1]: lambda path, reader: theirs(path, reader, "percentile", by_batch=True),
    PEERS[2]: lambda path, reader: theirs(path, reader, "entropy", by_batch=False),
}


def measure(tool: str, path: Path, count: int) -> dict[str, Any]:
    """Calibrate once in this process."""
    import onnxruntime.quantization  # noqa: F401  loading it is no part of the time

    reader = reader_of(path, count)
    start = time.perf_counter()
    ranges = TOOLS[tool](path, reader)
    seconds = time.perf_counter() - start
    peak = own_peak_rss_bytes()
    return {"seconds": seconds, "peak": peak, "tensors": sorted(ranges)}


def measured(tool: str, path: Path, count: int) -> dict[str, Any]:
    """Calibrate once in a fresh process."""
    command = [sys.executable, __file__, str(path), "--tool", tool, "--images", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def default_model(path: Path) -> None:
    """Write a post-activation DenseNet for 32x32 images, its values random."""
    import torch

    from edgekit.export.graph import save_graph
    from edgekit.export.optimize import optimize
    from edgekit.export.to_onnx import to_onnx
    from edgekit.runtime.preprocessing import Preprocessing
    from edgekit.train.models.table import build_model

    torch.manual_seed(0)
    module = build_model("densenet", {"order": "post"}, in_channels=3, num_classes=10)
    model = to_onnx(module, Preprocessing(32, 32, (0.5,) * 3, (0.25,) * 3))
    optimize(model)
    save_graph(model, path)


def table(path: Path, chosen: list[str], counts: list[int], rounds: int, most: int) -> None:
    """Measure and print; the first tool is what others are compared with."""
    print("| images | calibration | seconds | times the first | peak MB | tensors |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |", flush=True)
    for count in counts:
        keeps_all = {PEERS[0], PEERS[2]}
        tools = [tool for tool in chosen if count <= most or tool not in keeps_all]
        runs: dict[str, list[dict[str, Any]]] = {tool: [] for tool in tools}
        for _ in range(rounds):
            for tool in tools:
                runs[tool].append(measured(tool, path, count))
        seconds = {tool: statistics.median(r["seconds"] for r in runs[tool]) for tool in tools}
        names = runs[tools[0]][0]["tensors"]
        for tool in tools:
            peak = statistics.median(run["peak"] for run in runs[tool])
            same = runs[tool][0]["tensors"] == names
            print(
                f"| {count:,} | {tool} | {seconds[tool]:.2f} "
                f"| {seconds[tool] / seconds[tools[0]]:.2f} | {peak / 1e6:,.0f} "
                f"| {len(names) if same else 'others'} |",
                flush=True,
            )


def main() -> None:
    """Measure once, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--images", default="100,1000,10000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=1000)
    parser.add_argument("--tools", default=";".join(TOOLS))
    parser.add_argument("--tool", choices=TOOLS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    counts = [int(count) for count in given.images.split(",")]
    if given.tool:
        print(json.dumps(measure(given.tool, given.model, counts[0])))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = given.model
        if path is None:
            path = Path(folder) / "densenet.onnx"
            default_model(path)
        print(f"{path.name}, onnxruntime {ort.__version__}\n")
        table(path, given.tools.split(";"), counts, given.rounds, given.most)


if __name__ == "__main__":
    main()
