"""How long counting a loaded model takes.

    python tests/bench/counting_speed.py [MODEL.onnx] [--rounds 5]

By default the onnx package's own light_densenet121. Printed is the median in seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import onnx

from edgekit.bench.count import count
from edgekit.export.graph import load_graph

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light/light_densenet121.onnx"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", type=Path, nargs="?", default=LIGHT)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    model = load_graph(arguments.model)
    seconds = []
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        count(model)
        seconds.append(time.perf_counter() - start)
    print(f"{arguments.model.name}: {statistics.median(seconds):.3f} s")


if __name__ == "__main__":
    main()
