"""One stage of training as a LightningModule."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import edgekit.train.vision  # noqa: F401 (makes torchvision importable for torchmetrics)

# isort: split
import lightning as L  # noqa: N812 (its documented name)
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from edgekit.runtime.errors import TrainingError
from edgekit.train.augment import Augmentation, Normalize, resize
from edgekit.train.batches import (
    Batch,
    Batches,
    Share,
    evaluation_batches,
    open_source,
    training_batches,
)
from edgekit.train.compiled import CompiledNetwork
from edgekit.train.distill import BatchIndex, Distillation
from edgekit.train.ema import WeightAverage
from edgekit.train.optim import make_optimizer, make_schedule, side_at
from edgekit.train.prune_weights import WeightPruning, sparsity_of
from edgekit.train.quantization import Quantization
from edgekit.train.recipe_tables import AugmentRecipe, TrainRecipe
from edgekit.train.training_data import TrainingData

CHECK_EVERY = 50  # steps between two looks at the losses, each of which waits for the accelerator
_STATE_KEY = "edgekit"


class TrainingModule(L.LightningModule):
    """Trains a network on batches that are augmented on its own device.

    The generators of all random draws are seeded anew for each batch, by (seed, epoch, step,
    process), so that a run which continues from the end of an epoch draws what it would have drawn,
    and what a network draws itself does not change how the next images are augmented.

    Args:
        network: What to train.
        train: How.
        augment: How the images are varied.
        data: The images.
        seed: Seed of all draws.
        pruning: Masks over the weights.
        distillation: A teacher.
        quantization: Of the network.
    """

    def __init__(
        self,
        network: nn.Module,
        train: TrainRecipe,
        augment: AugmentRecipe,
        data: TrainingData,
        *,
        seed: int,
        pruning: WeightPruning | None = None,
        distillation: Distillation | None = None,
        quantization: Quantization | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.pruning = pruning
        self.average = WeightAverage(network, train.ema) if train.ema else None
        self.accuracy = MulticlassAccuracy(data.num_classes, average="micro")
        self.history: list[dict[str, float]] = []
        self._train_recipe = train
        self._data = data
        self._seed = seed
        self._distillation = distillation
        self._quantization = quantization
        self._compiled = CompiledNetwork(network, compile=train.compile)
        self._normalize = Normalize(data.preprocessing, channels_last=train.channels_last)
        self._augmentation = Augmentation(augment, self._normalize, data.num_classes)
        self._steps = 0
        self._losses: list[Tensor] = []
        self._loss_sum = 0.0
        self._loss_count = 0
        self._epoch_began = 0.0
        self._learning_rate = 0.0

    # Data

    def train_dataloader(self) -> Batches:
        """Shuffled batches of the training part."""
        recipe, split = self._train_recipe, self._data.train
        return training_batches(
            open_source(split, self.device),
            len(split),
            recipe.batch_size,
            seed=self._seed,
            epoch=lambda: self._draws_epoch,
            share=self._share,
        )

    def val_dataloader(self) -> Batches | list[Batches]:
        """Batches of the validation part, if there is one."""
        split = self._data.validation
        if split is None:
            return []
        source = open_source(split, self.device)
        size = max(256, self._train_recipe.batch_size)
        return evaluation_batches(source, len(split), size, self._share)

    @property
    def evaluates(self) -> bool:
        """Whether there is a validation part."""
        return self._data.validation is not None

    @property
    def _share(self) -> Share:
        return Share(self.trainer.global_rank, self.trainer.world_size)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment or normalize, outside autocast, which would round the rotation's grid."""
        del dataloader_idx
        images, labels = batch
        if self.trainer.training:
            self._seed_draws(self._draws_epoch)
            augmented = self._augmentation(images, labels)
            if self._draws_epoch != self.current_epoch:  # the network's dropout does not repeat
                self._seed_draws(self.current_epoch)
            return augmented
        return self._normalize(images), labels

    def _seed_draws(self, epoch: int) -> None:
        step = self._steps % self._steps_per_epoch
        key = (self._seed, epoch, step, self.trainer.global_rank)
        # Hashed, since torch's generator of the CPU takes only 32 bits of its seed.
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        # torch.manual_seed asks every kind of device there could be, a quarter of a millisecond.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    # Training

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The recipe's optimizer and schedule."""
        recipe = self._train_recipe
        # Under 16-mixed a fused optimizer would undo the loss's scaling after the clipping.
        fused = self.device.type == "cuda" and recipe.precision != "16-mixed"
        optimizer = make_optimizer(self.network, recipe, fused=fused)
        schedule = make_schedule(optimizer, recipe, self._steps_per_epoch)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    @property
    def _steps_per_epoch(self) -> int:
        total = len(self._data.train)
        return total // min(self._train_recipe.batch_size, total)

    def on_fit_start(self) -> None:
        """Bring the teacher to the device."""
        if self._distillation is not None:
            self._distillation.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Begin the epoch's figures, and round what is to be rounded from this epoch on."""
        self._loss_sum, self._loss_count = 0.0, 0
        if self._quantization is not None:
            self._quantization.set_epoch(self.current_epoch)
            names = self._quantization.set_scales(self.current_epoch)
            if self.average is not None:
                self.average.restart(self.network, names)
        self._epoch_began = time.perf_counter()

    @property
    def _draws_epoch(self) -> int:
        epoch = self.current_epoch
        return epoch if self._distillation is None else self._distillation.draws_of(epoch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Note the step's learning rate, which the schedule moves on as soon as it is done."""
        del batch, batch_idx
        self._learning_rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch: cross-entropy, mixed with a teacher's if there is one."""
        recipe = self._train_recipe
        inputs, targets = batch
        side = side_at(recipe.resolutions, self.current_epoch)
        logits = self._compiled(resize(inputs, side)).float()
        loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
        if self._distillation is not None:
            done = self._steps / (recipe.epochs * self._steps_per_epoch)
            index = BatchIndex(self.current_epoch, batch_idx, self.trainer.global_rank)
            loss = self._distillation.mix(loss, logits, inputs, done, index)
        self._losses.append(loss.detach())
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """After the optimizer's step: prune, average, and now and then look at the losses."""
        del outputs, batch
        if self.pruning is not None:
            self.pruning.step(self.network, self._steps + 1)
        if self.average is not None:
            self.average.update(self.network, self._steps)
            if self.pruning is not None:
                self.average.multiply(self.pruning.masks)
        self._steps += 1
        is_last = batch_idx + 1 == self._steps_per_epoch
        if is_last or len(self._losses) >= CHECK_EVERY:
            self._check_losses(batch_idx)
        if is_last:
            self._end_of_batches()

    def _check_losses(self, batch_idx: int) -> None:
        losses = torch.stack(self._losses).tolist()
        self._losses.clear()
        first = batch_idx + 1 - len(losses)
        for offset, loss in enumerate(losses):
            if not abs(loss) < float("inf"):
                raise TrainingError(
                    f"the loss is {loss} in epoch {self.current_epoch + 1} at step "
                    f"{first + offset + 1} of {self._steps_per_epoch}: lower train.learning_rate "
                    "or set train.gradient_clip"
                )
        self._loss_sum += sum(losses)
        self._loss_count += len(losses)

    def _end_of_batches(self) -> None:
        seconds = time.perf_counter() - self._epoch_began
        images = self._steps_per_epoch * min(self._train_recipe.batch_size, len(self._data.train))
        row = {
            "epoch": self.current_epoch + 1,
            "step": self._steps,
            "train_loss": self._loss_sum / self._loss_count,
            "learning_rate": self._learning_rate,
            "images_per_second": images / seconds,
            "seconds": seconds,
        }
        if self.pruning is not None:
            row["sparsity"] = sparsity_of(self.network)
        self.history.append(row)

    def on_train_epoch_end(self) -> None:
        """Keep the teacher's answers, and log the epoch."""
        if self._distillation is not None:
            self._distillation.end_epoch()
        for logger in self.loggers:
            logger.log_metrics(self.history[-1], self._steps)

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        """Evaluate the averaged weights where there are any, everywhere those of process 0."""
        if self.trainer.world_size > 1:
            for owner in (self.network, self.average):
                for buffer in owner.buffers() if owner is not None else ():
                    torch.distributed.broadcast(buffer, src=0)
        self._swap_average()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count what is right."""
        del batch_idx
        inputs, labels = batch
        self.accuracy.update(self._compiled(inputs).float(), labels)

    def on_validation_epoch_end(self) -> None:
        """Add the accuracy to the epoch's row."""
        self._swap_average()
        self.history[-1]["validation_accuracy"] = float(self.accuracy.compute())
        self.accuracy.reset()

    def _swap_average(self) -> None:
        if self.average is not None:
            self.average.swap(self.network)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is counted over epochs."""
        checkpoint[_STATE_KEY] = {"steps": self._steps, "history": self.history}

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Take it back."""
        self._steps = checkpoint[_STATE_KEY]["steps"]
        self.history = checkpoint[_STATE_KEY]["history"]
        if self._quantization is not None:  # there may be no further epoch
            self._quantization.set_epoch(checkpoint["epoch"])
