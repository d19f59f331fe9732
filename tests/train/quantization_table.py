"""What few-bit weights cost on the digits, after training and with quantization-aware training.

    python tests/train/quantization_table.py FOLDER [--bits 8 4 3 2] [--seeds 3]

For each seed the shipped recipe densenet-digits is trained; its weights are then rounded to so many
bits, each output channel with its own scale: after training, with the scale of the largest weight
or that of the least squared error, and by fine-tuning for 20 epochs with either method of
`[quantize]`. Each network is exported, quantized to int8 (whose codes are those of the fewer bits)
and evaluated on the test images. Printed is a Markdown table of right answers, mean and lowest to
highest over the seeds. The trainings stay in FOLDER: what is finished there is not trained again.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from torch import nn

from edgekit.export.calibration import CalibrationReader
from edgekit.export.graph import save_graph
from edgekit.export.optimize import optimize
from edgekit.export.quantize import quantize
from edgekit.export.to_onnx import to_onnx
from edgekit.runtime.accuracy import evaluate
from edgekit.runtime.data.load import load_split
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.runtime.session import open_session
from edgekit.train.checkpoint import Checkpoint, load_checkpoint
from edgekit.train.fake_quantize import WeightQuantizer
from edgekit.train.recipe import Recipe, load_recipe, parse_recipe
from edgekit.train.recipe_tables import QuantizeMethod
from edgekit.train.run import run_recipe

METHODS: tuple[QuantizeMethod, ...] = ("straight-through", "learned-step")


def trained(recipe: Recipe, folder: Path) -> Checkpoint:
    return load_checkpoint(run_recipe(recipe, folder, progress=False).checkpoint)


def recipe_of(keys: dict[str, Any]) -> Recipe:
    return parse_recipe(tomli_w.dumps(keys), origin="densenet-digits")


def aware(base: dict[str, Any], start: Path, method: QuantizeMethod, bits: int) -> Recipe:
    """The fine-tuning that follows the base recipe's training."""
    train = {"epochs": 20, "warmup_epochs": 1, "learning_rate": 0.05, "start": str(start.resolve())}
    keys = {key: table for key, table in base.items() if key != "prune"}
    keys["train"] = {**base["train"], **train}
    return recipe_of({**keys, "quantize": {"weight_bits": bits, "method": method}})


@torch.no_grad()
def rounded(checkpoint: Checkpoint, bits: int, *, least_error: bool) -> nn.Module:
    """The network with its weights rounded as they are."""
    network = checkpoint.build()
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            quantizer = WeightQuantizer(layer.weight, bits, learns=least_error)
            quantizer.begin(layer.weight)
            quantizer.quantizes = True
            layer.weight.copy_(quantizer(layer.weight))
    return network


def right_answers(network: nn.Module, preprocessing: Preprocessing, folder: Path) -> int:
    """Test images that the int8 file of a network gets right."""
    model = to_onnx(network, preprocessing)
    optimize(model)
    images = load_split("digits", "train")
    reader = CalibrationReader.from_split(images, preprocessing, model, samples=512)
    path = folder / "int8.onnx"
    save_graph(quantize(model, "int8", reader=reader).model, path)
    return evaluate(open_session(path), preprocessing, load_split("digits", "test")).correct


def results(seed: int, bits: list[int], folder: Path) -> Iterator[tuple[str, int | None, int]]:
    """(how, bits, right answers) of one seed."""
    base = {**tomllib.loads(load_recipe("densenet-digits").text), "seed": seed}
    origin = folder / f"float-{seed}"
    checkpoint = trained(recipe_of(base), origin)
    preprocessing = checkpoint.preprocessing
    yield (
        "8 bits, edgekit quantize alone",
        None,
        right_answers(checkpoint.build(), preprocessing, folder),
    )
    for width in bits:
        for how, least in (("largest weight", False), ("least error", True)):
            network = rounded(checkpoint, width, least_error=least)
            yield f"after training, {how}", width, right_answers(network, preprocessing, folder)
        for method in METHODS:
            recipe = aware(base, origin / "model.safetensors", method, width)
            tuned = trained(recipe, folder / f"{method}-{width}-{seed}")
            yield f"trained, {method}", width, right_answers(tuned.build(), preprocessing, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4, 3, 2])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    table: dict[tuple[str, int | None], list[int]] = {}
    for seed in range(options.seeds):
        for how, width, right in results(seed, options.bits, options.folder):
            table.setdefault((how, width), []).append(right)
            print(f"seed {seed}: {how}, {width} bits: {right}", flush=True)
    total = len(load_split("digits", "test"))
    print(f"\n| weights | bits | right of {total}, mean | lowest to highest |\n|---|--:|--:|--:|")
    for (how, width), counts in table.items():
        print(f"| {how} | {width or 8} | {np.mean(counts):.1f} | {min(counts)} to {max(counts)} |")


if __name__ == "__main__":
    main()
