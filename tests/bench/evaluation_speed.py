"""How much of a session's own throughput is left when accuracy is evaluated.

    python tests/bench/evaluation_speed.py MODEL.onnx [--threads 1] [--images 4096] [--rounds 7]

Random images in memory are classified in two ways, in turns: by the session alone, on batches that
were made beforehand, and by `evaluate`, which reads and normalizes them as well. Printed is the
median of the quotients, and each way's best images a second.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgekit.export.graph import load_graph, model_preprocessing
from edgekit.runtime.accuracy import evaluate
from edgekit.runtime.data.source import ArrayImages, Split
from edgekit.runtime.session import open_session, run_batch

BATCH_SIZE = 256


def evaluation_share(
    model: Path, *, threads: int, images: int, rounds: int
) -> tuple[float, float, float]:
    """(median quotient, the session's images a second, the evaluation's)."""
    preprocessing = model_preprocessing(load_graph(model))
    if preprocessing is None:
        raise SystemExit(f"{model} does not say how its input is made")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, *preprocessing.image_shape), np.uint8)
    names = preprocessing.class_names
    labels = rng.integers(0, len(names), images)
    split = Split("noise", "test", ArrayImages(pixels), labels, names)
    session = open_session(model, threads=threads)
    starts = range(0, images, BATCH_SIZE)
    prepared = [preprocessing(pixels[start : start + BATCH_SIZE]) for start in starts]

    def alone() -> None:
        for batch in prepared:
            run_batch(session, batch)

    def evaluated() -> None:
        evaluate(session, preprocessing, split, batch_size=BATCH_SIZE)

    alone()
    bare, whole = np.array([(timed(alone), timed(evaluated)) for _ in range(rounds)]).T
    return float(np.median(bare / whole)), images / float(bare.min()), images / float(whole.min())


def timed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    share, bare, whole = evaluation_share(
        options.model, threads=options.threads, images=options.images, rounds=options.rounds
    )
    print(
        f"{options.model}, {options.threads} threads: {share:.1%} of the session's throughput "
        f"({whole:,.0f} of {bare:,.0f} images/s)"
    )


if __name__ == "__main__":
    main()
