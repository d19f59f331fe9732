"""A progress bar over all epochs of a stage, on standard error."""

from __future__ import annotations

from typing import Any

import edgekit.train.vision  # noqa: F401 (makes torchvision importable for torchmetrics)

# isort: split
import lightning as L  # noqa: N812 (its documented name)
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from edgekit.train.lightning_module import TrainingModule

_ADVANCE_EVERY = 8


class EpochProgress(L.Callback):
    """Shows the epoch, the loss and the validation accuracy while a stage trains.

    Lightning's own rich bar redirects rich's global console, so it is not used.

    Args:
        title: What is being done.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar, at the epoch that a resumed run continues from."""
        del pl_module
        if not trainer.is_global_zero:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
            transient=True,
        )
        total = (trainer.max_epochs or 0) * int(trainer.num_training_batches)
        self._task = self._bar.add_task(
            self._title, total=total, completed=trainer.global_step, figures=""
        )
        self._bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Move the bar now and then."""
        del pl_module, args, kwargs
        if self._bar is not None and trainer.global_step % _ADVANCE_EVERY == 0:
            self._bar.update(self._task, completed=trainer.global_step)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the epoch's figures."""
        if self._bar is None or not isinstance(pl_module, TrainingModule):
            return
        row = pl_module.history[-1]
        accuracy = row.get("validation_accuracy")
        figures = f"epoch {row['epoch']}/{trainer.max_epochs}  loss {row['train_loss']:.3f}"
        figures += "" if accuracy is None else f"  accuracy {accuracy:.1%}"
        self._bar.update(self._task, completed=trainer.global_step, figures=figures)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        del trainer, pl_module
        self._close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar."""
        del trainer, pl_module, exception
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
