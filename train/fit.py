"""Lightning's Trainer, set up for a stage: quiet, logged, and resumed where it was interrupted."""

from __future__ import annotations

import csv
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import edgekit.train.vision  # noqa: F401 (makes torchvision importable for torchmetrics)

# isort: split
import lightning as L  # noqa: N812 (its documented name)
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from edgekit.runtime.errors import InputError, OutputError, TerminatedError
from edgekit.runtime.files import replace_atomically
from edgekit.train.lightning_module import TrainingModule
from edgekit.train.progress import EpochProgress
from edgekit.train.recipe_tables import Precision, TrainRecipe

_LOGGER = logging.getLogger(__name__)

LAST = "last.ckpt"
METRICS = "metrics.csv"
TENSORBOARD = "tensorboard"
COLUMNS = (
    "epoch",
    "step",
    "train_loss",
    "validation_accuracy",
    "learning_rate",
    "sparsity",
    "images_per_second",
    "seconds",
)


@dataclass(frozen=True)
class Devices:
    """Where to train, in Lightning's words.

    Attributes:
        accelerator: "auto", "cpu", "gpu", ...
        devices: How many on each machine.
        num_nodes: How many machines.
        strategy: How they work together.
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return self.devices * self.num_nodes

    @property
    def are_cpus(self) -> bool:
        """Whether it is processors that train."""
        if self.accelerator == "auto":
            return not torch.accelerator.is_available()
        return self.accelerator == "cpu"


class EpochCheckpoint(Checkpoint):
    """Saves the state and the metrics at the end of every epoch, whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save; every process must take part, the first one writes."""
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self._folder / LAST)
            return
        with replace_atomically(self._folder / LAST) as staged:
            trainer.save_checkpoint(staged)
        if isinstance(pl_module, TrainingModule):
            write_metrics(self._folder / METRICS, pl_module.history)


def write_metrics(path: Path, history: list[dict[str, float]]) -> None:
    """Write one row an epoch; a figure that an epoch does not have stays empty."""
    with replace_atomically(path) as staged, staged.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(history)


def fit(
    module: TrainingModule,
    recipe: TrainRecipe,
    folder: Path,
    *,
    title: str,
    devices: Devices,
    resume: bool,
    progress: bool,
) -> None:
    """Train a stage, from its last checkpoint if it was interrupted.

    Args:
        module: The stage; its network holds the result.
        recipe: Epochs, precision and the like.
        folder: Gets last.ckpt, metrics.csv and tensorboard/.
        title: What the progress bar calls it.
        devices: Where.
        resume: Whether a last.ckpt in the folder is continued.
        progress: Whether to show a bar when standard error is a terminal.

    Raises:
        InputError: there are no such devices.
        OutputError: last.ckpt is damaged.
        TerminatedError: a SIGTERM came.
        TrainingError: the loss is not finite.
    """
    last = folder / LAST
    resumes = resume and last.is_file()
    if resumes:
        _check_state(last)
    callbacks: list[L.Callback] = [EpochCheckpoint(folder)]
    if progress and sys.stderr.isatty():
        callbacks.append(EpochProgress(title))
    with _quiet_lightning(), _interrupts():
        trainer = _trainer(module, recipe, folder, devices, callbacks)
        trainer.fit(module, ckpt_path=last if resumes else None, weights_only=True)
        if module.evaluates and "validation_accuracy" not in module.history[-1]:
            trainer.validate(module, verbose=False)
            if trainer.is_global_zero:
                write_metrics(folder / METRICS, module.history)


def check_devices(devices: Devices) -> None:
    """Refuse devices that are not there, before anything is made for them.

    Raises:
        InputError: there are no such devices.
    """
    with _quiet_lightning(), _named_devices(devices):
        L.Trainer(
            accelerator=devices.accelerator,
            devices=devices.devices,
            num_nodes=devices.num_nodes,
            strategy=devices.strategy,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )


@contextmanager
def _named_devices(devices: Devices) -> Iterator[None]:
    """What Lightning has against them, in one line."""
    try:
        yield
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise InputError(
            f"cannot train on {devices.devices} x {devices.accelerator} with the strategy "
            f"{devices.strategy}: {' '.join(str(error).split())}"
        ) from error


def _trainer(
    module: TrainingModule,
    recipe: TrainRecipe,
    folder: Path,
    devices: Devices,
    callbacks: list[L.Callback],
) -> L.Trainer:
    with _named_devices(devices):
        return L.Trainer(
            accelerator=devices.accelerator,
            devices=devices.devices,
            num_nodes=devices.num_nodes,
            strategy=devices.strategy,
            precision=_precision(recipe.precision, devices),
            max_epochs=recipe.epochs,
            limit_val_batches=1.0 if module.evaluates else 0,
            check_val_every_n_epoch=recipe.evaluate_every,
            gradient_clip_val=recipe.gradient_clip or None,
            logger=TensorBoardLogger(folder, name=TENSORBOARD, version=""),
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )


def _check_state(path: Path) -> None:
    """Refuse a state that does not load, before Lightning fails on it."""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, UnpicklingError) as error:
        raise OutputError(
            f"{path}: is damaged, so the run cannot be continued; train anew with --force"
        ) from error


def _precision(wanted: Precision, devices: Devices) -> Precision:
    """What is worth asking Lightning for there; on a CPU both mixed precisions are of bfloat16."""
    if wanted == "32-true" or not devices.are_cpus:
        return wanted
    if not computes_bf16():
        _LOGGER.warning(
            "%s: this processor has no arithmetic for bfloat16; training with 32-true", wanted
        )
        return "32-true"
    if wanted == "16-mixed":
        _LOGGER.warning("16-mixed needs a GPU; training with bf16-mixed on the CPU")
    return "bf16-mixed"


def computes_bf16() -> bool:
    """Whether torch's convolutions on this CPU have kernels for bfloat16.

    Without them (x86 before AVX-512) they go through loops that are many times slower than
    float32. The question is the one that torch.compile itself asks.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's banners, tips and advice about loaders from the user."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            # Lightning 2.6 asks torch's pytree for a class that is on its way out.
            warnings.filterwarnings("ignore", r".*LeafSpec.*", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, SIGTERM TerminatedError; Lightning makes exits of both."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException:
        raise TerminatedError(
            "terminated; the same command, without --force, goes on after the last whole epoch"
        ) from None
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
