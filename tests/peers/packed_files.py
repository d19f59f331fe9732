"""Packed files beside unpacked ones: their size, and with --time how they load and run.

    python tests/peers/packed_files.py [--time [--torchvision resnet18 --runs 20 --rounds 5]]

The network is that of the recipe densenet-cifar10-grouped with random weights, the smallest of each
layer zero, at int8 as `edgekit quantize` makes it, with zeros stored for the sake of faster kernels
and without. Times are those of onnxruntime on one thread, medians in turns: of creating a session,
and of one image. With --torchvision they are those of that model, in float32, half of its weights
zero.

"Needed" is non-zero values or codes at their width, one mask bit an element of what has zeros,
codebooks, and the scales and zero points of activations and the scales of weights. "Counted" is the
MicroNet storage of the file before packing, by `edgekit inspect`: it has the scales of biases too,
which are products of the others, and zero points that are zero. With a codebook weights count as
codes in both.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch

from edgekit.bench.count import Counts, count
from edgekit.bench.scores import storage_bits
from edgekit.export.graph import from_proto, load_graph, to_proto
from edgekit.export.optimize import optimize
from edgekit.export.pack import pack
from edgekit.export.quantize import quantize
from edgekit.export.static_options import Kernels, StaticOptions
from edgekit.export.to_onnx import to_onnx
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.train.models.table import build_model
from edgekit.train.recipe import load_recipe

COLORS = Preprocessing(32, 32, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
OPTIONS = load_recipe("densenet-cifar10-grouped").model_options
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
    print("| zeros | kernels | file | non-zero | bytes | needed | ratio | counted | ratio |")
    print("|---:|---|---|---:|---:|---:|---:|---:|---:|")
    for sparsity in SPARSITIES:
        source = float_model(sparsity)
        for kernels in ("fast", "keep"):
            plain = int8_model(source, kernels)
            counts = count(plain)
            counted = storage_bits(counts)
            for bits in (None, CODE_BITS):
                report = pack(plain, codebook=bits).report
                coded = coded_bits(counts, report.tensors)
                needed = (coded + quantizer_bits(plain)) / 8
                total = (counted - storage_bits(replace(counts, parameters=counts.learned))) + coded
                name = "--pack" if bits is None else f"--pack --codebook {bits}"
                print(
                    f"| {sparsity:.0%} | {kernels} | `{name}` | "
                    f"{sum(t.nonzero for t in counts.learned):,} | {report.bytes_after:,} | "
                    f"{needed:,.0f} | {report.bytes_after / needed:.3f} | "
                    f"{total / 8:,.0f} | {report.bytes_after * 8 / total:.3f} |"
                )


def coded_bits(counts: Counts, storages: Mapping[str, str]) -> int:
    """Bits of the learned tensors: values or, where they are stored so, codes and a codebook."""
    total = 0
    for tensor in counts.learned:
        storage = storages.get(tensor.name.removesuffix("_quantized"), "mask")
        width, book = tensor.bits, 0
        if "codes" in storage:
            width = int(storage.rpartition("codes")[2])
            book = (1 << width) * tensor.bits
        mask = tensor.elements if tensor.nonzero < tensor.elements else 0
        total += width * tensor.nonzero + mask + book
    return total


def quantizer_bits(model: ir.Model) -> int:
    """Bits of the scales and zero points that follow from nothing else."""
    found: dict[ir.Value, int] = {}
    for node in model.graph:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        source = node.inputs[0].const_value if node.inputs[0] is not None else None
        if source is not None and source.dtype == ir.DataType.INT32:
            continue
        for value in node.inputs[1 : 3 if source is None else 2]:
            if value is not None and value.const_value is not None:
                found[value] = value.const_value.nbytes * 8
    return sum(found.values())


def torchvision_model(name: str) -> ir.Model:
    """A float32 model of torchvision, the smaller half of each of its weights zero."""
    from torchvision_models import exported  # beside this file

    with tempfile.TemporaryDirectory() as folder:
        model = from_proto(to_proto(load_graph(exported(name, Path(folder)))))
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and len(tensor.shape) > 1:
            array = tensor.numpy()
            large = np.abs(array) > np.median(np.abs(array))
            value.const_value = ir.tensor(array * large, name=value.name)
    return model


def print_times(plain: ir.Model, rounds: int, runs: int) -> None:
    """A row for each file of one network, in turns."""
    models = {
        "unpacked": plain,
        "`--pack`": pack(plain).model,
        f"`--pack --codebook {CODE_BITS}`": pack(plain, codebook=CODE_BITS).model,
    }
    files = {name: to_proto(model).SerializeToString() for name, model in models.items()}
    loads = {name: seconds * 1e3 for name, seconds in load_times(files, rounds).items()}
    latencies = {name: seconds * 1e3 for name, seconds in run_times(files, runs).items()}
    print("| file | load, ms | ratio | latency, ms | ratio |\n|---|---:|---:|---:|---:|")
    for name in files:
        print(
            f"| {name} | {loads[name]:.1f} | {loads[name] / loads['unpacked']:.2f} | "
            f"{latencies[name]:.4f} | {latencies[name] / latencies['unpacked']:.3f} |"
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
    source = next(iter(sessions.values())).get_inputs()[0]
    shape = [side if isinstance(side, int) else 1 for side in source.shape]
    feed = {source.name: np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    times: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(runs):
        for name, each in sessions.items():
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
    parser.add_argument("--torchvision")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--runs", type=int, default=3000)
    options = parser.parse_args(arguments)
    if options.time:
        name = options.torchvision
        plain = torchvision_model(name) if name else int8_model(float_model(TIMED_SPARSITY))
        print_times(plain, options.rounds, options.runs)
    else:
        print_sizes()


if __name__ == "__main__":
    main()
