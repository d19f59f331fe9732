"""From a recipe to a checkpoint in a run folder.

A run folder holds recipe.toml (a copy), last.ckpt (the state after the last whole epoch, for
resuming), metrics.csv, tensorboard/, and when the run is finished model.safetensors and
summary.json. Channel pruning is a second stage with a state and logs of its own in fine-tune/; what
it starts from is trained.safetensors.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekit.runtime.data.load import DATASETS, load_split
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import OutputError, RecipeError
from edgekit.runtime.files import check_output, replace_atomically
from edgekit.train.batches import measure_preprocessing
from edgekit.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgekit.train.distill import Distillation, load_teacher
from edgekit.train.download import download as download_data
from edgekit.train.fit import LAST, METRICS, TENSORBOARD, Devices, fit
from edgekit.train.lightning_module import TrainingData, TrainingModule
from edgekit.train.models.table import build_model
from edgekit.train.prune_channels import prune_channels
from edgekit.train.prune_weights import WeightPruning, cubic_schedule
from edgekit.train.rank import is_first_process, wait_for_all
from edgekit.train.recipe import PruneChannelsRecipe, Recipe, TrainRecipe, parse_recipe

RECIPE = "recipe.toml"
MODEL = "model.safetensors"
SUMMARY = "summary.json"
TRAINED = "trained.safetensors"
FINE_TUNE = "fine-tune"
_CONTENTS = (SUMMARY, MODEL, TRAINED, LAST, METRICS, TENSORBOARD, FINE_TUNE, RECIPE)


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        checkpoint: The trained network.
        last_accuracy: Top-1 of the saved weights on the validation part, 0 to 1; None without one.
        best_accuracy: The highest that an epoch of the last stage reached.
        images_per_second: Median over the epochs, evaluation left out.
        seconds: Time spent on training batches, over all stages and attempts.
        was_finished: Whether the run had been finished before and nothing was trained.
    """

    checkpoint: Path
    last_accuracy: float | None
    best_accuracy: float | None
    images_per_second: float
    seconds: float
    was_finished: bool = False


def run_recipe(
    recipe: Recipe,
    run_dir: Path,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    force: bool = False,
    devices: int = 1,
    num_nodes: int = 1,
    accelerator: str = "auto",
    strategy: str = "auto",
    progress: bool = True,
) -> RunResult:
    """Train as the recipe says; continue an interrupted run, and leave a finished one alone.

    A run that was killed at any moment and continued ends with the same weights, bit for bit, as
    one that was not (on one kind of machine with the same number of threads).

    Args:
        recipe: What to do.
        run_dir: The run folder; made if it is not there.
        data_dir: Where named data sets live.
        download: Fetch a named data set that is not there.
        force: Begin anew, whatever the folder holds from earlier.
        devices: How many devices on each machine.
        num_nodes: How many machines, each of which runs this under torchrun.
        accelerator: Lightning's name of the kind of device.
        strategy: Lightning's name of how devices work together.
        progress: Show a bar when standard error is a terminal.

    Raises:
        CheckpointError: the teacher does not load or does not fit the data.
        DataError: the data is missing or damaged.
        InputError: there are no such devices.
        OutputError: the folder holds another run, or cannot be written.
        RecipeError: a key of the model is wrong, or the batch does not divide among the devices.
        TrainingError: the loss is not finite.
    """
    if not force and (finished := _finished(recipe, run_dir)) is not None:
        return finished
    where = Devices(accelerator, devices, num_nodes, strategy)
    if recipe.train.batch_size % where.processes:
        raise RecipeError(
            f"train.batch_size: {recipe.train.batch_size} images do not divide among "
            f"{where.processes} devices"
        )
    check_output(run_dir / RECIPE, force=True)
    with torch.random.fork_rng(devices=[]):
        data = load_training_data(recipe, data_dir=data_dir, download=download)
        network = _fresh_network(recipe, data)
        distillation = _distillation(recipe, data)
        _prepare_folder(recipe, run_dir, force=force)
        run = _Run(
            recipe,
            run_dir,
            data,
            where,
            distillation,
            resume=not force,
            progress=progress,
        )
        history = run.train(network)
    return _summarize(run_dir, history)


@dataclass(frozen=True)
class _Run:
    """What the stages of a run share."""

    recipe: Recipe
    folder: Path
    data: TrainingData
    devices: Devices
    distillation: Distillation | None
    resume: bool
    progress: bool

    def train(self, network: nn.Module) -> list[dict[str, float]]:
        """All stages; what is left is model.safetensors. Returns the last stage's history."""
        channels = self.recipe.prune_channels
        if channels is None:
            return self._train_weights(network, self.folder / MODEL)
        trained = self.folder / TRAINED
        if not (self.resume and trained.is_file()):
            self._train_weights(network, trained)
        return self._fine_tune(channels, trained)

    def _train_weights(self, network: nn.Module, target: Path) -> list[dict[str, float]]:
        train, prune = self.recipe.train, self.recipe.prune
        total = len(self.data.train)
        steps_per_epoch = total // min(train.batch_size, total)
        pruning = None
        if prune is not None:
            pruning = WeightPruning(network, cubic_schedule(prune, train.epochs, steps_per_epoch))
        return self._stage(network, train, pruning, self.folder, "training", target)

    def _fine_tune(self, channels: PruneChannelsRecipe, trained: Path) -> list[dict[str, float]]:
        """Remove channels from the trained network and train what is left of it."""
        network = load_checkpoint(trained).build()
        example = torch.zeros(1, *self.data.preprocessing.input_shape)
        prune_channels(network, example, ratio=channels.ratio, round_to=channels.round_to)
        network.train()
        train = dataclasses.replace(
            self.recipe.train,
            epochs=channels.fine_tune_epochs,
            learning_rate=self.recipe.train.learning_rate * channels.learning_rate_factor,
            warmup_epochs=0.0,
            milestones=(),
        )
        pruning = WeightPruning(network, None) if self.recipe.prune else None
        folder = self.folder / FINE_TUNE
        return self._stage(network, train, pruning, folder, "fine-tuning", self.folder / MODEL)

    def _stage(
        self,
        network: nn.Module,
        train: TrainRecipe,
        pruning: WeightPruning | None,
        folder: Path,
        title: str,
        target: Path,
    ) -> list[dict[str, float]]:
        if train.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        module = TrainingModule(
            network,
            train,
            self.recipe.augment,
            self.data,
            seed=self.recipe.seed,
            pruning=pruning,
            distillation=self.distillation,
        )
        if train.compile:
            network.compile()
        fit(
            module,
            train,
            folder,
            title=title,
            devices=self.devices,
            resume=self.resume,
            progress=self.progress,
        )
        if module.average is not None:
            module.average.swap(network)
        self._save(network, target)
        wait_for_all()
        return module.history

    def _save(self, network: nn.Module, target: Path) -> None:
        if not is_first_process():
            return
        preprocessing = self.data.preprocessing
        save_checkpoint(
            Checkpoint(
                architecture=self.recipe.architecture,
                options=self.recipe.model_options,
                in_channels=preprocessing.channels,
                num_classes=self.data.num_classes,
                preprocessing=preprocessing,
                data=self.recipe.data.name,
                recipe=self.recipe.text,
                state={name: t.cpu().contiguous() for name, t in network.state_dict().items()},
            ),
            target,
        )


def load_training_data(
    recipe: Recipe, *, data_dir: Path | None = None, download: bool = False
) -> TrainingData:
    """The training and validation parts; the test part is not touched.

    Raises:
        DataError: the data is missing or damaged.
    """
    keys = recipe.data
    name = keys.name if keys.name in DATASETS else str(recipe.path(keys.name))
    if download:
        data_dir = download_data(name, data_dir)
    shape = None if keys.image_size is None else (*keys.image_size, keys.channels)

    def part(which: str) -> Split:
        return load_split(
            name,
            which,
            data_dir=data_dir,
            image_shape=shape,
            validation=keys.validation,
            seed=recipe.seed,
        )

    train = part("train")
    return TrainingData(
        train=train,
        validation=part("validation") if keys.validation else None,
        preprocessing=measure_preprocessing(train),
    )


def _fresh_network(recipe: Recipe, data: TrainingData) -> nn.Module:
    torch.manual_seed(recipe.seed)
    return build_model(
        recipe.architecture,
        recipe.model_options,
        in_channels=data.preprocessing.channels,
        num_classes=data.num_classes,
    )


def _distillation(recipe: Recipe, data: TrainingData) -> Distillation | None:
    keys = recipe.distill
    if keys is None:
        return None
    return load_teacher(keys, recipe.path(keys.teacher), data.preprocessing)


def _finished(recipe: Recipe, run_dir: Path) -> RunResult | None:
    """The result of a run that was finished before; also refuses a folder of another run.

    Raises:
        OutputError: the folder is none of this recipe's runs.
    """
    _check_same_run(recipe, run_dir)
    if not (run_dir / MODEL).is_file():
        return None
    try:
        summary = json.loads((run_dir / SUMMARY).read_text("utf-8"))
        return RunResult(run_dir / MODEL, **summary, was_finished=True)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(f"{run_dir / SUMMARY}: is damaged; train anew with --force") from error


def _check_same_run(recipe: Recipe, run_dir: Path) -> None:
    if not run_dir.exists():
        return
    if not run_dir.is_dir():
        raise OutputError(f"{run_dir}: is not a folder; choose another for the run")
    copy = run_dir / RECIPE
    if not copy.is_file():
        if any(run_dir.iterdir()):
            raise OutputError(f"{run_dir}: holds other files; choose another folder for the run")
        return
    try:
        same = parse_recipe(copy.read_text("utf-8"), origin=str(copy)) == recipe
    except (RecipeError, OSError, UnicodeDecodeError):
        same = False
    if not same:
        raise OutputError(
            f"{run_dir}: holds a run of another recipe; choose another folder or give --force"
        )


def _prepare_folder(recipe: Recipe, run_dir: Path, *, force: bool) -> None:
    if not is_first_process():
        return
    if force:
        for name in _CONTENTS:
            _remove(run_dir / name)
    if not (run_dir / RECIPE).is_file():
        with replace_atomically(run_dir / RECIPE) as staged:
            staged.write_text(recipe.text, "utf-8")


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be removed: {error.strerror or error}") from error


def _seconds(metrics: Path) -> float:
    if not metrics.is_file():
        return 0.0
    with metrics.open(newline="") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def _summarize(run_dir: Path, history: list[dict[str, float]]) -> RunResult:
    accuracies = [row["validation_accuracy"] for row in history if "validation_accuracy" in row]
    summary: dict[str, Any] = {
        "last_accuracy": accuracies[-1] if accuracies else None,
        "best_accuracy": max(accuracies) if accuracies else None,
        "images_per_second": statistics.median(row["images_per_second"] for row in history),
        "seconds": sum(_seconds(folder / METRICS) for folder in (run_dir, run_dir / FINE_TUNE)),
    }
    if is_first_process():
        with replace_atomically(run_dir / SUMMARY) as staged:
            staged.write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
    return RunResult(run_dir / MODEL, **summary)
