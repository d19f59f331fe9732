"""Whether a file of integer operators is faster than one of quantizer pairs, as Markdown.

    python tests/peers/int8_forms.py [NET ...] [--iterations 100]

The pairs (QDQ) are what edgekit writes: QuantizeLinear and DequantizeLinear around float operators,
all of them ONNX's own. The integer operators (QOperator) are what onnxruntime makes of that file
when it loads it, written down: QLinearConv, and QLinearConcat, QGemm and others of its own. Both
run in turns in one process, on one thread; times are medians in ms.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from int8_speed import OURS, files  # beside this file

from edgekit.bench.latency import measure, summarize
from edgekit.runtime.session import open_session


def written_down(source: Path, target: Path) -> int:
    """Write what onnxruntime makes of a file; returns how many nodes are not ONNX's own."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return Counter(bool(node.domain) for node in onnx.load(target).graph.node)[True]


def load_ms(path: Path) -> float:
    """Median time to load a file."""
    took = []
    for _ in range(15):
        start = time.perf_counter()
        open_session(path)
        took.append((time.perf_counter() - start) * 1e3)
    return statistics.median(took)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=[*OURS, "resnet18"])
    parser.add_argument("--iterations", type=int, default=100)
    arguments = parser.parse_args()
    ort.set_default_logger_severity(3)
    print(
        "| network | QDQ, ms | QOperator, ms | QDQ over QOperator | QDQ loads, ms | QOperator "
        "loads, ms | nodes of QOperator that are not ONNX's |\n|---|---:|---:|---:|---:|---:|---:|"
    )
    for name in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            paths, size = files(name, Path(folder))
            pairs, operators = paths["edgekit"], Path(folder) / "operators.onnx"
            foreign = written_down(pairs, operators)
            images = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
            sessions = [open_session(path) for path in (pairs, operators)]
            outputs = [session.run(None, {"input": images})[0] for session in sessions]
            assert np.array_equal(*outputs), f"{name}: the two forms give other outputs"
            runs = [partial(session.run, None, {"input": images}) for session in sessions]
            done = measure(runs, warmup=10, iterations=arguments.iterations)
            first, second = (summarize(one.seconds, 1).p50_ms for one in done)
            loads = f"{load_ms(pairs):.1f} | {load_ms(operators):.1f}"
            print(
                f"| {name} | {first:.3f} | {second:.3f} | {first / second:.3f} | {loads} "
                f"| {foreign} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
