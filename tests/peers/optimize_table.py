"""What `edgekit optimize` makes of networks beside other tools, as a Markdown table.

    python tests/peers/optimize_table.py [MODEL ...] [--runs 60] [--folder FOLDER]

"pre" and "post" are edgekit's DenseNet as in the recipe densenet-cifar10-grouped, in either order;
the others are torchvision's. Weights are drawn, normalizations have scales, shifts and statistics
as if trained. "before" is the file as edgekit exports it, before any pass; "threshold" stands for
`edgekit optimize --batch-norm threshold`. Latency is that of onnxruntime with its own
optimizations, one thread, batch 1: the median over runs in which all files of a model take turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from optimize_speed import TOOLS  # beside this file, like the next one

from edgekit.bench.count import count
from edgekit.commands.optimize import optimize_file
from edgekit.export.graph import load_graph, nodes, save_graph
from edgekit.export.quiet import quiet
from edgekit.export.verify import largest_difference, random_inputs, run_outputs

OURS = ("pre", "post")
MODELS = (*OURS, "densenet121", "resnet50", "mobilenet_v3_large")
WARM_UP = 5
SIZES = {"pre": 32, "post": 32}
RECIPE = {
    "blocks": (6, 7, 8),
    "growth": (12, 12, 15),
    "groups": (2, 3, 3),
    "bottleneck": 3,
    "stem_width": 24,
    "stem_stride": 2,
}


def source_file(name: str, folder: Path) -> Path:
    """The file of a model as edgekit exports it, before its passes; made once."""
    path = folder / f"{name}.plain.onnx"
    if not path.exists():
        import torch
        from torchvision_models import draw_statistics

        from edgekit.export.to_onnx import to_onnx
        from edgekit.runtime.preprocessing import Preprocessing
        from edgekit.train.models.table import build_model
        from edgekit.train.vision import torchvision

        torch.manual_seed(0)
        if name in OURS:
            module = build_model(
                "densenet", {"order": name, **RECIPE}, in_channels=3, num_classes=10
            )
        else:
            module = torchvision.models.get_model(name, weights=None)
        draw_statistics(module.eval())
        size = SIZES.get(name, 224)
        folder.mkdir(parents=True, exist_ok=True)
        save_graph(to_onnx(module, Preprocessing(size, size, (0.5,) * 3, (0.25,) * 3)), path)
    return path


def made(source: Path, folder: Path) -> dict[str, Path]:
    """The file before, and what each tool made of it."""
    files = {"before": source}
    for tool, load in TOOLS.items():
        files[tool] = folder / f"{source.stem}.{tool}.onnx"
        with quiet():
            load()(source, files[tool])
    files["edgekit, threshold"] = folder / "threshold.onnx"
    optimize_file(source, files["edgekit, threshold"], batch_norm="threshold", verify=False)
    return files


def latencies_ms(files: dict[str, Path], runs: int) -> dict[str, float]:
    """Median time of one image, the files in turns."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    feeds = {
        name: np.random.default_rng(0).standard_normal((1, *array.shape[1:])).astype(np.float32)
        for name, array in random_inputs(load_graph(files["before"])).items()
    }
    sessions = {tool: ort.InferenceSession(str(path), options) for tool, path in files.items()}
    times: dict[str, list[float]] = {tool: [] for tool in files}
    for run in range(runs + WARM_UP):
        for tool, session in sessions.items():
            start = time.perf_counter()
            session.run(None, feeds)
            if run >= WARM_UP:
                times[tool].append(1e3 * (time.perf_counter() - start))
    return {tool: statistics.median(each) for tool, each in times.items()}


def main() -> None:
    """Make, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "edgekit-peers"
    )
    settings = parser.parse_args()
    print(
        "| model | tool | nodes | BNs | parameters | MACs | bytes | error | ms |\n"
        "|---|---|---:|---:|---:|---:|---:|---:|---:|"
    )
    for name in settings.models:
        source = source_file(name, settings.folder)
        with tempfile.TemporaryDirectory() as folder:
            files = made(source, Path(folder))
            latency = latencies_ms(files, settings.runs)
            inputs = random_inputs(load_graph(source), batch=1)
            expected = run_outputs(load_graph(source), inputs)
            for tool, path in files.items():
                model = load_graph(path)
                operators = [node.op_type for node in nodes(model)]
                counts = count(model)
                error = largest_difference(expected, run_outputs(model, inputs))
                print(
                    f"| {name} | {tool} | {len(operators):,} "
                    f"| {operators.count('BatchNormalization')} | {counts.params:,} "
                    f"| {counts.macs:,} | {path.stat().st_size:,} | {error:.0e} "
                    f"| {latency[tool]:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
