"""What int8 costs in accuracy, refinement by refinement.

    python tests/peers/int8_accuracy.py --data cifar10 MODEL.onnx ... [--methods minmax,mse]

Every row is one float model and one method of calibration. Columns are top-1 in percent on the test
part: the float model's; int8 with nearest rounding and nothing else; with equalization; with bias
correction too; with adaptive rounding too. In brackets: signal-to-noise ratio of the logits, in dB.
Below them is the mean drop of each column in points.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgekit.commands.images import AS_STORED, DataSource
from edgekit.export.calibration import CalibrationReader
from edgekit.export.graph import load_graph, session_source
from edgekit.export.quantize import quantize
from edgekit.export.refinement import Refinements
from edgekit.export.static_options import StaticOptions
from edgekit.runtime.accuracy import evaluate_with
from edgekit.runtime.data.source import Split
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.runtime.session import open_session, run_batch

FORMS = {
    "int8 nearest": Refinements("off", "off"),
    "+ equalization": Refinements("on", "off"),
    "+ bias correction": Refinements("on", "on"),
    "as by default": Refinements(),
    "+ adaptive rounding": Refinements(rounding="adaptive"),
}


def logits_and_top1(
    model: ir.Model, preprocessing: Preprocessing, split: Split
) -> tuple[np.ndarray, float]:
    """Logits [N, classes] of a split and the share of images classified right."""
    kept = []
    with session_source(model) as source:
        session = open_session(source)

    def classify(batch: np.ndarray) -> np.ndarray:
        kept.append(run_batch(session, batch))
        return kept[-1]

    top1 = evaluate_with(classify, preprocessing, split).top1
    return np.concatenate(kept).astype(np.float64), top1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--methods", default="minmax")
    parser.add_argument("--images", type=int, help="test images, the first ones; default all")
    options = parser.parse_args()
    data = DataSource(options.data)
    print("| model | method | float | " + " | ".join(FORMS) + " |")
    print("|---|---|" + "---:|" * (len(FORMS) + 1))
    drops = []
    for path in options.models:
        model = load_graph(path)
        preprocessing = AS_STORED.of(model)
        split = data.load("test", preprocessing)
        split = split.take(np.arange(min(options.images or len(split), len(split))))
        train = data.load("train", preprocessing)
        expected, top1 = logits_and_top1(model, preprocessing, split)
        for method in options.methods.split(","):
            cells, drop = [f"{top1:.2%}"], []
            for refinements in FORMS.values():
                reader = CalibrationReader.from_split(train, preprocessing, model)
                static = StaticOptions(refinements=refinements)
                result = quantize(model, "int8", reader=reader, method=method, static=static)
                found, share = logits_and_top1(result.model, preprocessing, split)
                noise = ((found - expected) ** 2).sum()
                ratio = 10 * np.log10((expected**2).sum() / noise)
                cells.append(f"{share:.2%} ({ratio:.1f})")
                drop.append((top1 - share) * 100)
            drops.append(drop)
            print(f"| {path.stem} | {method} | " + " | ".join(cells) + " |", flush=True)
    mean = np.mean(drops, axis=0)
    print("| mean drop, points | | | " + " | ".join(f"{drop:.2f}" for drop in mean) + " |")
    worst = np.max(drops, axis=0)
    print("| largest drop, points | | | " + " | ".join(f"{drop:.2f}" for drop in worst) + " |")


if __name__ == "__main__":
    main()
