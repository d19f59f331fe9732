"""Batches for training: from one tensor on the device where the images fit, else streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekit.runtime.data.source import Split, batches
from edgekit.runtime.errors import DataError
from edgekit.runtime.preprocessing import Preprocessing

IN_MEMORY_BYTES = 2 * 1024**3
_MEASURED_IMAGES = 20_000
_CHUNK_BYTES = 16 * 1024**2

Order = NDArray[np.int64]
Batch = tuple[Tensor, Tensor]


class Source(Protocol):
    """Images and labels, ready to be taken in any order."""

    def read(self, order: Order, batch_size: int) -> Iterator[Batch]:
        """Yield uint8 [B, H, W, C] and int64 [B] on the training device."""


class TensorSource:
    """A split held as one uint8 tensor on the training device.

    Args:
        split: What to hold.
        device: Where.
    """

    def __init__(self, split: Split, device: torch.device) -> None:
        self._images = torch.empty(
            len(split), *split.images.shape, dtype=torch.uint8, device=device
        )
        done = 0
        for images, _ in batches(split, _chunk(split)):
            self._images[done : done + len(images)] = torch.from_numpy(images)
            done += len(images)
        self._labels = torch.from_numpy(split.labels).to(device)

    def read(self, order: Order, batch_size: int) -> Iterator[Batch]:
        """Yield uint8 [B, H, W, C] and int64 [B] on the training device."""
        for chunk in torch.split(torch.from_numpy(order).to(self._images.device), batch_size):
            yield self._images[chunk], self._labels[chunk]


@dataclass(frozen=True)
class StreamSource:
    """A split that is read from disk while training, the next batches in the background."""

    split: Split
    device: torch.device

    def read(self, order: Order, batch_size: int) -> Iterator[Batch]:
        """Yield uint8 [B, H, W, C] and int64 [B] on the training device."""
        for images, labels in batches(self.split, batch_size, order, ahead=4):
            yield (
                torch.from_numpy(images).to(self.device, non_blocking=True),
                torch.from_numpy(labels).to(self.device, non_blocking=True),
            )


def open_source(split: Split, device: torch.device, limit: int = IN_MEMORY_BYTES) -> Source:
    """Hold the split in one tensor if it takes at most `limit` bytes, else stream it."""
    if len(split) * int(np.prod(split.images.shape)) <= limit:
        return TensorSource(split, device)
    return StreamSource(split, device)


@dataclass(frozen=True)
class Batches:
    """An iterable of batches with a length, in an order that `order` gives when a pass begins."""

    source: Source
    batch_size: int
    count: int
    order: Callable[[], Order]

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        yield from self.source.read(self.order(), self.batch_size)


@dataclass(frozen=True)
class Share:
    """Which part of every batch this process trains on."""

    rank: int = 0
    world_size: int = 1


def training_batches(
    source: Source,
    total: int,
    batch_size: int,
    *,
    seed: int,
    epoch: Callable[[], int],
    share: Share,
) -> Batches:
    """Shuffled batches; what does not fill a last batch is left out of the epoch.

    Args:
        source: Where the images are.
        total: Number of images in it.
        batch_size: Images a batch, over all processes together.
        seed: With the epoch, decides the order.
        epoch: Says which epoch it is when a pass begins.
        share: This process's part.
    """
    whole = min(batch_size, total)
    kept = total // whole * whole
    kept -= kept % share.world_size

    def order() -> Order:
        shuffled = np.random.default_rng((seed, epoch())).permutation(total)[:kept]
        return np.ascontiguousarray(shuffled[share.rank :: share.world_size])

    size = max(1, whole // share.world_size)
    return Batches(source, size, kept // share.world_size, order)


def evaluation_batches(source: Source, total: int, batch_size: int, share: Share) -> Batches:
    """All images in their own order, dealt out to the processes in turn."""
    order = np.arange(total, dtype=np.int64)[share.rank :: share.world_size]
    return Batches(source, batch_size, len(order), lambda: order)


def measure_preprocessing(split: Split) -> Preprocessing:
    """Mean and standard deviation of each channel, to four decimals, from the training images.

    Of more than 20,000 images that many are looked at, evenly spaced.

    Raises:
        DataError: a channel is the same everywhere.
    """
    step = -(-len(split) // _MEASURED_IMAGES)
    height, width, channels = split.images.shape
    counts = np.zeros((channels, 256), np.int64)
    for images, _ in batches(split, _chunk(split), np.arange(0, len(split), step)):
        for channel, count in enumerate(counts):
            count += np.bincount(images[..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    shares = counts / counts[0].sum()
    mean = shares @ levels
    std = np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0))
    if std.min() < 1e-4:
        raise DataError(
            f"{split.name}: a channel of the training images is the same everywhere, so there is "
            "nothing to learn from it; check the images"
        )
    return Preprocessing(
        height=height,
        width=width,
        mean=tuple(round(float(value), 4) for value in mean),
        std=tuple(round(float(value), 4) for value in std),
        class_names=split.class_names,
    )


def _chunk(split: Split) -> int:
    """Images to read at a time, so that what is read ahead stays small however large they are."""
    return max(1, _CHUNK_BYTES // int(np.prod(split.images.shape)))
