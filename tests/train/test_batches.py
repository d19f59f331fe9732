from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgekit.runtime.data.load import load_split
from edgekit.runtime.data.source import ArrayImages, Split
from edgekit.runtime.errors import DataError
from edgekit.train.batches import (
    Batches,
    Share,
    StreamSource,
    TensorSource,
    evaluation_batches,
    measure_preprocessing,
    open_source,
    training_batches,
)

CPU = torch.device("cpu")
ALONE = Share()


def numbered(count: int = 50, channels: int = 1) -> Split:
    """Image i is filled with i, but for a corner that is i + 100; its label is i % 5."""
    array = np.broadcast_to(np.arange(count)[:, None, None, None], (count, 2, 3, channels))
    array = array.astype(np.uint8).copy()
    array[:, 0, 0] += 100
    labels = np.arange(count, dtype=np.int64) % 5
    return Split("numbers", "train", ArrayImages(array), labels, tuple("abcde"))


def drawn(batches: Batches) -> list[list[int]]:
    """The numbers of the images in each batch, after checking their labels."""
    result = []
    for images, labels in batches:
        numbers = images[:, 1, 1, 0].long()
        assert torch.equal(numbers % 5, labels)
        result.append(numbers.tolist())
    return result


def flat(found: list[list[int]]) -> list[int]:
    return [number for batch in found for number in batch]


def training(epoch: int, share: Share = ALONE, seed: int = 0, total: int = 50) -> Batches:
    split = numbered(total)
    source = TensorSource(split, CPU)
    return training_batches(source, total, 8, seed=seed, epoch=lambda: epoch, share=share)


def test_an_epoch_shows_whole_batches_of_different_images() -> None:
    batches = training(0)
    found = drawn(batches)
    assert [len(batch) for batch in found] == [8] * 6 == [8] * len(batches)
    numbers = flat(found)
    assert len(set(numbers)) == 48
    assert numbers != sorted(numbers)


def test_the_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    assert drawn(training(3)) == drawn(training(3))
    assert drawn(training(3)) != drawn(training(4))
    assert drawn(training(3)) != drawn(training(3, seed=1))


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    assert [sorted(batch) for batch in drawn(training(0, total=5))] == [[0, 1, 2, 3, 4]]


def test_processes_share_each_batch_out() -> None:
    whole = drawn(training(2))
    shares = [drawn(training(2, Share(rank, 2))) for rank in (0, 1)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert len(first) == len(second) == 4
        assert sorted(first + second) == sorted(batch)


def test_evaluation_sees_every_image_once() -> None:
    source = TensorSource(numbered(), CPU)
    assert flat(drawn(evaluation_batches(source, 50, 16, ALONE))) == list(range(50))
    shares = [drawn(evaluation_batches(source, 50, 16, Share(rank, 3))) for rank in range(3)]
    assert sorted(number for share in shares for number in flat(share)) == list(range(50))


def test_a_streamed_folder_gives_the_batches_that_memory_gives(tmp_path: Path) -> None:
    for number in range(20):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        Image.new("L", (3, 2), number * 5).save(folder / f"{number:02}.png")
    split = load_split(str(tmp_path), "train", image_shape=(2, 3, 1))
    memory, stream = open_source(split, CPU), open_source(split, CPU, limit=119)
    assert isinstance(memory, TensorSource)
    assert isinstance(stream, StreamSource)
    order = np.random.default_rng(0).permutation(20)
    pairs = zip(memory.read(order, 6), stream.read(order, 6), strict=True)
    for (images, labels), (streamed, streamed_labels) in pairs:
        assert torch.equal(images, streamed)
        assert torch.equal(labels, streamed_labels)


def test_mean_and_deviation_are_measured_from_the_images() -> None:
    split = load_split("digits", "train")
    found = measure_preprocessing(split)
    images = split.images.read(np.arange(len(split))) / 255
    assert found.mean == (round(float(images.mean()), 4),)
    assert found.std == (round(float(images.std()), 4),)
    assert found.image_shape == (8, 8, 1)
    assert found.class_names == split.class_names
    assert measure_preprocessing(split.take(np.arange(100))).mean != found.mean


def test_color_channels_are_measured_apart() -> None:
    array = np.random.default_rng(0).integers(0, [[[[50, 150, 250]]]], (30, 4, 4, 3))
    images = ArrayImages(array.astype(np.uint8))
    split = Split("c", "train", images, np.zeros(30, np.int64), ("a",))
    found = measure_preprocessing(split)
    expected = (array / 255).mean(axis=(0, 1, 2))
    assert found.mean == tuple(round(float(value), 4) for value in expected)


def test_constant_images_are_refused() -> None:
    images = ArrayImages(np.full((4, 2, 2, 1), 7, np.uint8))
    split = Split("gray", "train", images, np.zeros(4, np.int64), ("a",))
    with pytest.raises(DataError, match="gray: a channel of the training images is the same"):
        measure_preprocessing(split)


class _Photographs:
    """Large images that are made when they are read; remembers the most read at once."""

    shape = (500, 500, 3)
    most = 0

    def __len__(self) -> int:
        return 90

    def read(self, indices: np.ndarray) -> np.ndarray:
        self.most = max(self.most, len(indices))
        return np.full((len(indices), *self.shape), indices[:, None, None, None], np.uint8)


def test_large_images_are_measured_and_held_a_few_at_a_time() -> None:
    images = _Photographs()
    split = Split("photos", "train", images, np.arange(90) % 5, tuple("abcde"))
    expected = np.arange(90) / 255
    found = measure_preprocessing(split)
    assert found.mean == (round(float(expected.mean()), 4),) * 3
    assert found.std == (round(float(expected.std()), 4),) * 3
    held = drawn(evaluation_batches(TensorSource(split, CPU), 90, 30, ALONE))
    assert flat(held) == list(range(90))
    assert images.most * 500 * 500 * 3 <= 16 * 1024**2
