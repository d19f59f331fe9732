"""Peak memory of commands on a model that one file does not hold.

    python tests/peers/optimize_large.py [--gigabytes 2.2] [--folder FOLDER]

The model is a chain of matrix products with its weights, none of them zero, in an external file.
Printed is the peak of each command's resident memory above what it takes
for a model of a few bytes, in multiples of the model's size. The file that comes out is compared
with the one that went in, weight by weight.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

from edgekit.export.graph import load_graph

SIZE = 8192
WEIGHT_BYTES = SIZE * SIZE * 4


def write_chain(path: Path, weights: int) -> None:
    """A model of so many matrix products, each weight another."""
    data = path.with_name(f"{path.name}.weights")
    nodes, tensors = [], []
    rows = np.random.default_rng(0).uniform(1, 2, (64, SIZE)).astype(np.float32)
    with data.open("wb") as file:
        for index in range(weights):
            for _ in range(SIZE // len(rows)):
                file.write(np.roll(rows, index).tobytes())
            tensor = onnx.TensorProto(
                name=f"w{index}", data_type=onnx.TensorProto.FLOAT, dims=(SIZE, SIZE)
            )
            tensor.data_location = onnx.TensorProto.EXTERNAL
            place = {"location": data.name, "offset": index * WEIGHT_BYTES, "length": WEIGHT_BYTES}
            for key, entry in place.items():
                tensor.external_data.add(key=key, value=str(entry))
            tensors.append(tensor)
            source = f"x{index}" if index else "x"
            target = f"x{index + 1}" if index + 1 < weights else "y"
            nodes += [
                onnx.helper.make_node("MatMul", [source, f"w{index}"], [f"m{index}"]),
                onnx.helper.make_node("Identity", [f"m{index}"], [target]),
            ]
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, SIZE))
        for name in ("x", "y")
    )
    graph = onnx.helper.make_graph(nodes, "large", [x], [y], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    path.write_bytes(model.SerializeToString())


def peak_bytes(*command: str) -> int:
    """Peak of the resident memory of `edgekit COMMAND`."""
    code = (
        "import sys; from edgekit.bench.memory import own_peak_rss_bytes\n"
        "from edgekit.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(own_peak_rss_bytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True, check=True
    )
    return int(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2.2)
    parser.add_argument("--folder", type=Path, default=None, help="where there is room for it")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=settings.folder) as name:
        folder = Path(name)
        small, large, output = (folder / f"{n}.onnx" for n in ("small", "large", "out"))
        small.write_bytes(_identity().SerializeToString())
        weights = -(-int(settings.gigabytes * 1e9) // WEIGHT_BYTES)
        write_chain(large, weights)
        size = weights * WEIGHT_BYTES
        print(f"{size:,} bytes of weights")
        print("| command | peak above a small model's |\n|---|---:|")
        for command in (
            ["optimize", "FILE", "-o", str(output), "--force", "--no-verify"],
            ["inspect", "FILE"],
        ):
            base, peak = (
                peak_bytes(*(str(file) if word == "FILE" else word for word in command))
                for file in (small, large)
            )
            print(f"| `edgekit {command[0]}` | {(peak - base) / size:.2f}x |", flush=True)
        _check_equal(large, output)


def _identity() -> onnx.ModelProto:
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 8))
        for name in ("x", "y")
    )
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "s", [x], [y])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])


def _check_equal(before: Path, after: Path) -> None:
    first, second = load_graph(before).graph.initializers, load_graph(after).graph.initializers
    assert first.keys() == second.keys()
    for name, value in first.items():
        one, other = value.const_value, second[name].const_value
        assert one is not None
        assert other is not None
        assert np.array_equal(one.numpy(), other.numpy()), name
    print(f"{len(first)} weights are equal before and after optimize")


if __name__ == "__main__":
    main()
