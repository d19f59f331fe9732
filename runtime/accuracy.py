"""Top-1 accuracy of a model in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgekit.runtime.data.source import Split, batches
from edgekit.runtime.errors import DataError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.runtime.progress import Progress
from edgekit.runtime.session import run_batch

_MOST_IMAGES = 256
_INPUT_BYTES = 8 * 1024**2
Z95 = 1.959964  # two-sided 95% quantile of the normal distribution


@dataclass(frozen=True)
class Accuracy:
    """What a model made of a data set.

    Attributes:
        predictions: Class chosen for each image: int64 [N].
        labels: True class of each image: int64 [N].
    """

    predictions: NDArray[np.int64]
    labels: NDArray[np.int64]

    @property
    def correct(self) -> int:
        """Images whose class was found."""
        return int((self.predictions == self.labels).sum())

    @property
    def total(self) -> int:
        """Images that were looked at."""
        return len(self.labels)

    @property
    def top1(self) -> float:
        """Share of images whose class was found, 0 to 1."""
        return self.correct / self.total

    @property
    def ci95(self) -> tuple[float, float]:
        """The 95% confidence interval of `top1`."""
        return wilson_interval(self.correct, self.total)

    def flips(self, other: Accuracy) -> int:
        """Images to which the other model gives another class, right or wrong."""
        return int((self.predictions != other.predictions).sum())


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """The 95% score interval of a proportion (E. B. Wilson, JASA 22, 1927)."""
    share = correct / total
    spread = Z95**2 / total
    center = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, center - half), min(1.0, center + half)


def evaluate(
    session: ort.InferenceSession,
    preprocessing: Preprocessing,
    split: Split,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Accuracy:
    """Classify every image of a split.

    Args:
        session: The model.
        preprocessing: What turns the split's pixels into the model's input.
        split: Images and labels.
        batch_size: Images a run, on which memory depends. By default 256, and fewer of large ones.
            The result does not depend on it, but for a model that quantizes dynamically: it takes
            the range of an activation from the whole batch.
        progress: Called with (images done, images in all) after each batch.

    Raises:
        DataError: the images do not fit the model, its outputs are not the data's classes, or it
            answers with numbers that are not finite.
    """
    return evaluate_with(
        lambda batch: run_batch(session, batch),
        preprocessing,
        split,
        batch_size=batch_size,
        progress=progress,
    )


def evaluate_with(
    classify: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    preprocessing: Preprocessing,
    split: Split,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Accuracy:
    """Do what `evaluate` does, with any function from a batch to logits [N, classes].

    Raises:
        DataError: as `evaluate`.
    """
    _check_class_names(preprocessing, split)
    predictions = np.empty(len(split), np.int64)
    done = 0
    for images, _ in batches(split, batch_size or _images_a_run(preprocessing)):
        outputs = classify(preprocessing(images))
        if outputs.shape[1] != len(split.class_names):
            raise DataError(
                f"the model has {outputs.shape[1]} outputs, {split.name} has "
                f"{len(split.class_names)} classes; use the data that it was trained for"
            )
        if not np.isfinite(outputs).all():
            raise DataError(
                f"the model's outputs are not finite on images {done} to {done + len(images) - 1} "
                f"of {split.name}; the model is broken"
            )
        predictions[done : done + len(images)] = outputs.argmax(axis=1)
        done += len(images)
        if progress is not None:
            progress(done, len(split))
    return Accuracy(predictions, split.labels)


def _images_a_run(preprocessing: Preprocessing) -> int:
    """As many as fill `_INPUT_BYTES`: activations take a multiple of what goes in."""
    return max(1, min(_MOST_IMAGES, _INPUT_BYTES // (4 * math.prod(preprocessing.input_shape))))


def _check_class_names(preprocessing: Preprocessing, split: Split) -> None:
    names = preprocessing.class_names
    if names and names != split.class_names:
        raise DataError(
            f"the model's classes are {_shorten(names)}, those of {split.name} are "
            f"{_shorten(split.class_names)}; use the data that it was trained for"
        )


def _shorten(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (f", ... ({len(names)} in all)" if len(names) > 4 else "")
