"""How much of a bare PyTorch loop's speed is left when `edgekit train` trains the same network.

    python tests/train/training_speed.py [RECIPE] [--steps 30] [--rounds 5] [--threads 1]

Two copies of the recipe's network are trained on the same images in memory, in turns: by a bare
loop (batch, augmentation, forward, backward, SGD) and by the recipe's own training, with the
recipe's average of the weights, pruning masks, checks of the loss and all that Lightning does
around a step. Both have the recipe's precision, compiler, memory format, batch size and
augmentation. What is compiled is compiled before. Timed are an epoch's batches, without evaluation
and without saving the state. Printed are the median of the quotients and each way's best images a
second. The images are CIFAR-10's where EDGEKIT_DATA holds it, else random ones of its shape.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import nn

from edgekit.runtime.data.load import load_split
from edgekit.runtime.data.source import ArrayImages, Split
from edgekit.runtime.errors import DataError
from edgekit.train.augment import Augmentation, Normalize
from edgekit.train.batches import Share, measure_preprocessing, open_source, training_batches
from edgekit.train.fit import Devices, computes_bf16, fit
from edgekit.train.lightning_module import TrainingModule
from edgekit.train.models.table import build_model
from edgekit.train.optim import make_optimizer
from edgekit.train.prune_weights import WeightPruning, cubic_schedule
from edgekit.train.recipe import Recipe, load_recipe
from edgekit.train.training_data import TrainingData

CPU = torch.device("cpu")


def images_for(recipe: Recipe, count: int) -> Split:
    """`count` images of the recipe's data set, or noise where it is not there."""
    folder = os.environ.get("EDGEKIT_DATA")
    try:
        split = load_split(recipe.data.name, "train", data_dir=Path(folder) if folder else None)
        return split.take(np.arange(count))
    except DataError:
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        names = tuple("0123456789")
        return Split("noise", "train", ArrayImages(pixels), rng.integers(0, 10, count), names)


@dataclass
class BareLoop:
    """The loop that one would write by hand."""

    recipe: Recipe
    data: TrainingData
    network: nn.Module

    def __post_init__(self) -> None:
        train = self.recipe.train
        normalize = Normalize(self.data.preprocessing, channels_last=train.channels_last)
        self.augment = Augmentation(self.recipe.augment, normalize, self.data.num_classes)
        self.optimizer = make_optimizer(self.network, train)
        source = open_source(self.data.train, CPU)
        self.batches = training_batches(
            source,
            len(self.data.train),
            train.batch_size,
            seed=0,
            epoch=lambda: 0,
            share=Share(),
        )
        self.call = torch.compile(self.network, dynamic=False) if train.compile else self.network

    def epoch(self) -> float:
        """Seconds of one pass over the images."""
        train = self.recipe.train
        mixed = train.precision == "bf16-mixed" and computes_bf16()
        began = time.perf_counter()
        for images, labels in self.batches:
            inputs, targets = self.augment(images, labels)
            with torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext():
                logits = self.call(inputs).float()
                loss = F.cross_entropy(logits, targets, label_smoothing=train.label_smoothing)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return time.perf_counter() - began


class EdgekitLoop:
    """The recipe's own training, one epoch at a time."""

    def __init__(self, recipe: Recipe, data: TrainingData, network: nn.Module) -> None:
        self.recipe = replace(recipe.train, epochs=1, warmup_epochs=0.0, resolutions=())
        pruning = None
        if recipe.prune is not None:
            steps = len(data.train) // recipe.train.batch_size
            pruning = WeightPruning(network, cubic_schedule(recipe.prune, 1, steps))
        self.module = TrainingModule(
            network, self.recipe, recipe.augment, data, seed=0, pruning=pruning
        )

    def epoch(self) -> float:
        """Seconds of one pass over the images."""
        with tempfile.TemporaryDirectory() as folder:
            fit(
                self.module,
                self.recipe,
                Path(folder),
                title="training",
                devices=Devices("cpu"),
                resume=False,
                progress=False,
            )
        return self.module.history[-1]["seconds"]


def fresh_network(recipe: Recipe, data: TrainingData) -> nn.Module:
    torch.manual_seed(0)
    network = build_model(
        recipe.architecture,
        recipe.model_options,
        in_channels=data.preprocessing.channels,
        num_classes=data.num_classes,
    )
    if recipe.train.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="densenet-cifar10-grouped")
    parser.add_argument("--steps", type=int, default=30, help="steps an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = load_recipe(options.recipe)
    count = options.steps * recipe.train.batch_size
    train = images_for(recipe, count)
    data = TrainingData(train, None, measure_preprocessing(train))
    bare = BareLoop(recipe, data, fresh_network(recipe, data))
    ours = EdgekitLoop(recipe, data, fresh_network(recipe, data))
    bare.epoch(), ours.epoch()
    seconds = np.array([(bare.epoch(), ours.epoch()) for _ in range(options.rounds)])
    share = np.median(seconds[:, 0] / seconds[:, 1])
    best = count / seconds.min(axis=0)
    print(
        f"{options.recipe} on {train.name}, {options.threads} threads: {share:.1%} of a bare "
        f"loop's speed ({best[1]:,.0f} of {best[0]:,.0f} images/s)"
    )


if __name__ == "__main__":
    main()
