"""From a recipe to a checkpoint in a run folder, in one stage or two."""

from __future__ import annotations

import copy
import dataclasses
import logging
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edgekit.runtime.errors import RecipeError
from edgekit.runtime.files import check_output
from edgekit.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgekit.train.distill import Distillation
from edgekit.train.fit import Devices, check_devices, fit
from edgekit.train.lightning_module import TrainingModule
from edgekit.train.memory_format import overrunning_layer
from edgekit.train.prune_channels import ChannelPruning, prune_channels
from edgekit.train.prune_weights import WeightPruning, cubic_schedule, sparsity_of
from edgekit.train.quantization import Quantization, plain_state
from edgekit.train.rank import is_first_process, wait_for_all
from edgekit.train.recipe import Recipe
from edgekit.train.recipe_tables import PruneChannelsRecipe, PruneRecipe, TrainRecipe
from edgekit.train.run_folder import (
    FINE_TUNE,
    MODEL,
    RECIPE,
    TRAINED,
    History,
    RunResult,
    check_inputs_stay,
    check_is_run,
    claimed,
    find_finished,
    prepare_folder,
    summarize,
)
from edgekit.train.start import first_network
from edgekit.train.teacher import load_teachers
from edgekit.train.teacher_outputs import TeacherOutputs, outputs_folder
from edgekit.train.trained import check_named
from edgekit.train.training_data import TrainingData, load_training_data

_LOGGER = logging.getLogger(__name__)

__all__ = ["RunResult", "run_recipe"]


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
        CheckpointError: the teacher or the start does not load or does not fit.
        DataError: the data is missing or damaged.
        InputError: there are no such devices.
        OutputError: the folder holds another run, or with force an input of this one, or cannot be
            written.
        RecipeError: a key of the model is wrong, the batch does not divide among the devices, or
            channel pruning would remove nothing.
        TerminatedError: a SIGTERM came.
        TrainingError: the loss is not finite.
    """
    if not force and (finished := find_finished(recipe, run_dir)) is not None:
        return finished
    where = Devices(accelerator, devices, num_nodes, strategy)
    if recipe.train.batch_size % where.processes:
        raise RecipeError(
            f"train.batch_size: {recipe.train.batch_size} images do not divide among "
            f"{where.processes} devices"
        )
    if recipe.train.batch_size < 2 * where.processes:
        raise RecipeError(
            f"train.batch_size: {recipe.train.batch_size} leaves a device one image, of which "
            "batch norm finds no variance; give 2 or more a device"
        )
    if where.processes > 1 and recipe.quantize and recipe.quantize.method == "learned-step":
        raise RecipeError('quantize.method: "learned-step" trains on one device; give --devices 1')
    check_output(run_dir / RECIPE, force=True)
    if force:
        check_is_run(run_dir)
        check_inputs_stay(recipe, run_dir)
    check_devices(where)
    with torch.random.fork_rng(devices=[]):
        data = load_training_data(recipe, data_dir=data_dir, download=download)
        network, data = first_network(recipe, data)
        distillation = _distillation(recipe, data, run_dir)
        _try_channel_pruning(recipe, network, data)
        writes = is_first_process(where.processes)
        run = _Run(
            recipe,
            run_dir,
            data,
            where,
            distillation,
            resume=not force,
            progress=progress,
        )
        with claimed(run_dir) if writes else nullcontext():
            if writes:
                prepare_folder(recipe, run_dir, force=force)
            history, cut = run.train(network)
    return summarize(run_dir, history, cut, write=writes)


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

    def train(self, network: nn.Module) -> tuple[History, ChannelPruning | None]:
        """All stages; what is left is model.safetensors.

        Returns:
            The last stage's history, and which channels were cut.
        """
        channels = self.recipe.prune_channels
        if channels is None:
            return self._stage(network, self.recipe.train, self.folder, self.folder / MODEL), None
        trained = self.folder / TRAINED
        if not (self.resume and trained.is_file()):
            self._stage(network, self.recipe.train, self.folder, trained)
        return self._fine_tune(channels, trained)

    def _fine_tune(
        self, channels: PruneChannelsRecipe, trained: Path
    ) -> tuple[History, ChannelPruning]:
        """Remove channels from the trained network and train what is left of it."""
        network = load_checkpoint(trained).build()
        cut = _cut(network, channels, self.data)
        network.train()
        train = dataclasses.replace(
            self.recipe.train,
            epochs=channels.fine_tune_epochs,
            learning_rate=self.recipe.train.learning_rate * channels.learning_rate_factor,
            warmup_epochs=0.0,
            milestones=(),
            resolutions=(),
        )
        return self._stage(network, train, self.folder / FINE_TUNE, self.folder / MODEL), cut

    def _stage(
        self,
        network: nn.Module,
        train: TrainRecipe,
        folder: Path,
        target: Path,
    ) -> History:
        train = self._in_safe_form(network, train)
        if train.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        is_last = target.name == MODEL
        quantize = self.recipe.quantize if is_last else None
        quantization = None if quantize is None else Quantization(network, quantize, train.epochs)
        module = TrainingModule(
            network,
            train,
            self.recipe.augment,
            self.data,
            seed=self.recipe.seed,
            pruning=self._pruning(network, train, self.recipe.prune if is_last else None),
            distillation=self.distillation,
            quantization=quantization,
        )
        fit(
            module,
            train,
            folder,
            title="training" if folder == self.folder else "fine-tuning",
            devices=self.devices,
            resume=self.resume,
            progress=self.progress,
        )
        torch.compiler.reset()  # else the next run in this process soon meets the recompile limit
        if module.average is not None:
            module.average.swap(network)
        self._save(network, target)
        wait_for_all()
        return module.history

    def _in_safe_form(self, network: nn.Module, train: TrainRecipe) -> TrainRecipe:
        """Without channels_last where the processor's kernels for it would corrupt memory."""
        layer = overrunning_layer(network)
        if not (train.channels_last and self.devices.are_cpus and layer):
            return train
        _LOGGER.warning(
            "train.channels_last: torch's CPU kernels for it fail at %s, a 1x1 convolution of few "
            "channels with a stride; training without it",
            layer,
        )
        return dataclasses.replace(train, channels_last=False)

    def _pruning(
        self, network: nn.Module, train: TrainRecipe, prune: PruneRecipe | None
    ) -> WeightPruning | None:
        if prune is not None:
            total = len(self.data.train)
            steps_per_epoch = total // min(train.batch_size, total)
            return WeightPruning(network, cubic_schedule(prune, train.epochs, steps_per_epoch))
        # What is zero already, as a checkpoint left it, stays zero.
        return WeightPruning(network, None) if sparsity_of(network) else None

    def _save(self, network: nn.Module, target: Path) -> None:
        if not is_first_process(self.devices.processes):
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
                state=plain_state(network),
            ),
            target,
        )


def _try_channel_pruning(recipe: Recipe, network: nn.Module, data: TrainingData) -> None:
    """Tell before the first training, since shapes alone decide how many channels go."""
    if recipe.prune_channels is not None:
        _cut(copy.deepcopy(network), recipe.prune_channels, data)


def _cut(network: nn.Module, keys: PruneChannelsRecipe, data: TrainingData) -> ChannelPruning:
    example = torch.zeros(1, *data.preprocessing.input_shape)
    return prune_channels(
        network, example, ratio=keys.ratio, round_to=keys.round_to, ranking=keys.ranking
    )


def _distillation(recipe: Recipe, data: TrainingData, run_dir: Path) -> Distillation | None:
    keys = recipe.distill
    if keys is None:
        return None
    teachers = [recipe.path(teacher) for teacher in keys.teachers]
    for teacher in teachers:
        check_named(teacher, "distill.teacher")
    distillation = Distillation(
        keys,
        load_teachers(teachers, data.preprocessing, mirror=keys.mirror, data=recipe.data),
        compile=recipe.train.compile,
        channels_last=recipe.train.channels_last,
    )
    if keys.views:
        if keys.outputs is not None:
            kept = recipe.path(keys.outputs)
            check_output(kept, force=True, folder=True, flag="distill.outputs")
        distillation.keep_outputs(TeacherOutputs(outputs_folder(recipe, teachers, run_dir)))
    return distillation
