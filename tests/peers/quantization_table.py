"""Quantized models side by side, of edgekit and of others, as a markdown table.

    python tests/peers/quantization_table.py FOLDER [--batch-sizes 1,32] [--seconds 120]

FOLDER is a sub-folder that quantization_files.py filled: one model, by each tool. All files run in
turns, in onnxruntime and in OpenVINO, on one thread; figures are medians, in milliseconds a batch.
Accuracy is on the images that results.json names; of a model with random weights it is agreement
with the float model. NNCF's OpenVINO model runs in OpenVINO alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bench.engines import find_engine
from edgekit.bench.latency import fill_batch, measure
from edgekit.runtime.errors import ModelFileError

ENGINES = ("onnxruntime", "openvino")
LONG_RUN_S = 0.05  # runs above it are not warmed up beyond one
FEWEST, MOST = 3, 400
OVERHEAD = 2  # a run that is not counted precedes those of each round

Timed = tuple[str, str, int]


@dataclass(frozen=True)
class Series:
    """Medians in seconds by tool, engine and batch size; what an engine refused is missing."""

    seconds: Mapping[Timed, float]
    iterations: Mapping[int, int]


def time_all(results: Sequence[Mapping[str, Any]], sizes: Sequence[int], seconds: float) -> Series:
    """Time every file in every engine, in turns, for about so many seconds in all."""
    loaded = {}
    for entry in results:
        for engine in ENGINES:
            path = Path(entry["path"])
            if "error" in entry or (path.suffix == ".xml" and engine != "openvino"):
                continue
            try:
                loaded[entry["tool"], engine] = find_engine(engine).open(path, 1)
            except ModelFileError as error:
                print(f"{entry['tool']} does not run in {engine}: {error}")
    medians: dict[Timed, float] = {}
    iterations = {}
    spec = next(iter(loaded.values())).input
    for size in sizes:
        batch = fill_batch(spec, size)
        runs = {key: model.bind(batch) for key, model in loaded.items()}
        once = {key: time_once(run) for key, run in runs.items()}
        budget = seconds / len(sizes) - sum(once.values())
        fitting = int(budget / OVERHEAD / sum(once.values()))
        iterations[size] = min(max(fitting, FEWEST), MOST)
        warmup = 0 if max(once.values()) > LONG_RUN_S else 10
        series = measure(list(runs.values()), warmup=warmup, iterations=iterations[size])
        for key, measured in zip(runs, series, strict=True):
            medians[(*key, size)] = float(np.median(measured.seconds))
    return Series(medians, iterations)


def time_once(run: Any) -> float:
    """Seconds of a second run."""
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def table(note: Mapping[str, Any], series: Series, sizes: Sequence[int]) -> Iterator[str]:
    """The table, line by line; beside each time its ratio to the float model's."""
    titles = [f"{engine}, batch {size}" for engine in ENGINES for size in sizes]
    yield "| file | top-1 | bytes | " + " | ".join(titles) + " |"
    yield "| --- | ---: | ---: |" + " ---: |" * len(titles)
    for entry in note["results"]:
        if "error" in entry:
            yield f"| {entry['tool']} | fails: {entry['error']} |" + " |" * (1 + len(titles))
            continue
        cells = [cell(series, entry["tool"], e, size) for e in ENGINES for size in sizes]
        yield (
            f"| {entry['tool']} | {entry['top1']:.2%} | {entry['bytes']:,} | "
            + " | ".join(cells)
            + " |"
        )
    yield ""
    counts = ", ".join(f"{n} runs at batch {size}" for size, n in series.iterations.items())
    yield f"{note['images']} images; {counts}; in brackets how many times faster than float."


def cell(series: Series, tool: str, engine: str, size: int) -> str:
    """A time and its speed-up, or a dash."""
    found = series.seconds.get((tool, engine, size))
    if found is None:
        return "-"
    speedup = series.seconds["float", engine, size] / found
    return f"{found * 1e3:.3g} ({speedup:.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch-sizes", default="1,32")
    parser.add_argument("--seconds", type=float, default=110)
    given = parser.parse_args()
    sizes = [int(size) for size in given.batch_sizes.split(",")]
    note = json.loads((given.folder / "results.json").read_text())
    for line in table(note, time_all(note["results"], sizes, given.seconds), sizes):
        print(line, flush=True)


if __name__ == "__main__":
    main()
