"""Whether `edgekit optimize` takes time in proportion to a model's nodes.

    python tests/peers/optimize_scaling.py [--nodes 1000 10000 50000]

Chains of Conv, BatchNormalization and Relu with two channels, and of Add and Relu, through all
passes, from file to file, without verification; each length in a process of its own. Printed is the
time, and the exponent of the power of the number of nodes that fits the times best.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

CHANNELS = 2


def conv_chain(nodes: int) -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, and again."""
    rng = np.random.default_rng(0)
    made, tensors, value = [], [], "x"
    for index in range(nodes // 3):
        arrays = {
            f"w{index}": rng.standard_normal((CHANNELS, CHANNELS, 1, 1)),
            **{f"{name}{index}": rng.uniform(0.5, 1.5, CHANNELS) for name in ("s", "b", "m", "v")},
        }
        tensors += [onnx.numpy_helper.from_array(a.astype("f4"), n) for n, a in arrays.items()]
        made += [
            onnx.helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], f"conv{index}"),
            onnx.helper.make_node(
                "BatchNormalization",
                [f"c{index}", *(f"{name}{index}" for name in ("s", "b", "m", "v"))],
                [f"n{index}"],
                f"norm{index}",
            ),
            onnx.helper.make_node("Relu", [f"n{index}"], [f"r{index}"], f"relu{index}"),
        ]
        value = f"r{index}"
    return _model(made, tensors, value)


def add_chain(nodes: int) -> onnx.ModelProto:
    """Add, Relu, and again."""
    made, tensors, value = [], [], "x"
    for index in range(nodes // 2):
        array = np.full((CHANNELS, 1, 1), index + 1, np.float32)
        tensors.append(onnx.numpy_helper.from_array(array, f"k{index}"))
        made += [
            onnx.helper.make_node("Add", [value, f"k{index}"], [f"a{index}"], f"add{index}"),
            onnx.helper.make_node("Relu", [f"a{index}"], [f"r{index}"], f"relu{index}"),
        ]
        value = f"r{index}"
    return _model(made, tensors, value)


CHAINS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "Conv, BatchNormalization, Relu": conv_chain,
    "Add, Relu": add_chain,
}


def _model(
    nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], output: str
) -> onnx.ModelProto:
    shape = (1, CHANNELS, 4, 4)
    x, y = (
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("x", "y")
    )
    nodes[-1].output[0] = "y"
    del output
    graph = onnx.helper.make_graph(nodes, "chain", [x], [y], tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])


def run_here(source: Path) -> None:
    """Optimize one file in this process, and print the seconds that it took."""
    from edgekit.commands.optimize import optimize_file

    start = time.perf_counter()
    optimize_file(source, source.with_suffix(".out"), verify=False, force=True)
    print(time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--here"]:
        run_here(Path(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=(1_000, 10_000, 50_000))
    lengths = parser.parse_args().nodes
    head = " | ".join(f"{nodes:,} nodes, s" for nodes in lengths)
    print(f"| chain | {head} | exponent |\n|---" + "|---:" * (len(lengths) + 1) + "|")
    for name, build in CHAINS.items():
        seconds = []
        for nodes in lengths:
            with tempfile.TemporaryDirectory() as folder:
                source = Path(folder) / "chain.onnx"
                onnx.save(build(nodes), source)
                command = [sys.executable, __file__, "--here", str(source)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds.append(float(done.stdout.splitlines()[-1]))
        exponent = np.polyfit(np.log(lengths), np.log(seconds), 1)[0]
        times = " | ".join(f"{each:.2f}" for each in seconds)
        print(f"| {name} | {times} | {exponent:.2f} |", flush=True)


if __name__ == "__main__":
    main()
