"""Packed files beside unpacked ones: their size, and with --time how they load and run.

    python tests/peers/packed_files.py [--time]

The network is that of the recipe densenet-cifar10 with random weights, the smallest of each layer
zero, at int8 as `edgekit quantize` makes it and with its choice of kernels. "Needed" is what the
MicroNet rules count in the packed file: non-zero values or codes at their width, one mask bit an
element, codebooks, scales and zero points. Times are those of onnxruntime on one thread, medians
in turns: of creating a session, and of one image.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import time
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch

from edgekit.bench.count import count
from edgekit.bench.scores import storage_bits
from edgekit.export.graph import to_proto
from edgekit.export.optimize import optimize
from edgekit.export.pack import pack
from edgekit.export.quantize import quantize
from edgekit.export.static import Kernels, StaticOptions
from edgekit.export.to_onnx import to_onnx
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.train.models.table import build_model

COLORS = Preprocessing(32, 32, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
# As in the recipe densenet-cifar10.
OPTIONS = {
    "order": "post",
    "blocks": (6, 7, 8),
    "growth": (12, 12, 15),
    "groups": (2, 3, 3),
    "bottleneck": 3,
    "stem_width": 24,
    "stem_stride": 2,
}
SPARSITIES = (0.5, 0.57, 0.8)
TIMED_SPARSITY = 0.57
CODE_BITS = 4


def float_model(sparsity: float) -> ir.Model:
    """The network, its batch norms folded."""
    torch.manual_seed(0)
    module = build_model("densenet", OPTIONS, in_channels=3, num_classes=10)
    with torch.no_grad():
        for _ in range(5):
            module.train()(torch.randn(64, 3, 32, 32))
        for weights in module.parameters():
            if weights.ndim > 1:
                weights.mul_(weights.abs() > torch.quantile(weights.abs().flatten(), sparsity))
    model = to_onnx(module.eval(), COLORS)
    optimize(model, verify=False)
    return model


def int8_model(model: ir.Model, kernels: Kernels = "fast") -> ir.Model:
    """It at int8, from random images."""
    generator = np.random.default_rng(0)
    feeds = [{"input": generator.normal(size=(32, 3, 32, 32)).astype(np.float32)}] * 4
    feeds = [{str(model.graph.inputs[0].name): next(iter(feed.values()))} for feed in feeds]
    return quantize(model, "int8", reader=feeds, static=StaticOptions(kernels=kernels)).model


def print_sizes() -> None:
    """A row for each file."""
    print("| zeros | kernels | file | non-zero | bytes | needed | ratio | bytes, gzip |")
    print("|---:|---|---|---:|---:|---:|---:|---:|")
    for sparsity in SPARSITIES:
        source = float_model(sparsity)
        for kernels in ("fast", "keep"):
            plain = int8_model(source, kernels)
            exact, codes = pack(plain).model, pack(plain, codebook=CODE_BITS).model
            files = (
                ("int8", plain),
                ("int8, `--pack`", exact),
                (f"int8, `--pack --codebook {CODE_BITS}`", codes),
            )
            for name, model in files:
                data, counts = to_proto(model).SerializeToString(), count(model)
                nonzero = sum(tensor.nonzero for tensor in counts.learned)
                needed = storage_bits(counts) / 8
                print(
                    f"| {sparsity:.0%} | {kernels} | {name} | {nonzero:,} | {len(data):,} | "
                    f"{needed:,.0f} | {len(data) / needed:.3f} | {len(gzip.compress(data)):,} |"
                )


def print_times(rounds: int, runs: int) -> None:
    """A row for each file of one network, in turns."""
    plain = int8_model(float_model(TIMED_SPARSITY))
    models = {
        "int8": plain,
        "int8, `--pack`": pack(plain).model,
        f"int8, `--pack --codebook {CODE_BITS}`": pack(plain, codebook=CODE_BITS).model,
    }
    files = {name: to_proto(model).SerializeToString() for name, model in models.items()}
    loads = {name: seconds * 1e3 for name, seconds in load_times(files, rounds).items()}
    latencies = {name: seconds * 1e3 for name, seconds in run_times(files, runs).items()}
    print("| file | load, ms | ratio | latency, ms | ratio |\n|---|---:|---:|---:|---:|")
    for name in files:
        print(
            f"| {name} | {loads[name]:.1f} | {loads[name] / loads['int8']:.2f} | "
            f"{latencies[name]:.4f} | {latencies[name] / latencies['int8']:.3f} |"
        )


def session(data: bytes) -> ort.InferenceSession:
    """One thread, no log."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    return ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"])


def load_times(files: dict[str, bytes], rounds: int) -> dict[str, float]:
    """Median seconds that a session takes to make."""
    times: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(rounds):
        for name, data in files.items():
            start = time.perf_counter()
            session(data)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def run_times(files: dict[str, bytes], runs: int) -> dict[str, float]:
    """Median seconds of one run."""
    sessions = {name: session(data) for name, data in files.items()}
    image = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(runs):
        for name, each in sessions.items():
            feed = {each.get_inputs()[0].name: image}
            start = time.perf_counter()
            each.run(None, feed)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each[runs // 10 :]) for name, each in times.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table or the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--runs", type=int, default=3000)
    options = parser.parse_args(arguments)
    if options.time:
        print_times(options.rounds, options.runs)
    else:
        print_sizes()


if __name__ == "__main__":
    main()
