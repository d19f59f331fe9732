"""Images to which two models give different classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.accuracy import Accuracy


@dataclass(frozen=True)
class Flip:
    """One image that changed class.

    Attributes:
        index: Its place in the part of the data set, from 0.
        label: Its true class.
        before: What the first model says.
        after: What the second one says.
    """

    index: int
    label: str
    before: str
    after: str


def flips(
    before: Accuracy, after: Accuracy, indices: NDArray[np.int64], class_names: tuple[str, ...]
) -> tuple[Flip, ...]:
    """Where the answers of two models to the same images differ.

    Args:
        before: The first model's answers.
        after: The second one's.
        indices: Place in the data set of each image [N].
        class_names: Names of the classes.
    """
    return tuple(
        Flip(
            int(indices[row]),
            class_names[before.labels[row]],
            class_names[before.predictions[row]],
            class_names[after.predictions[row]],
        )
        for row in np.flatnonzero(before.predictions != after.predictions)
    )
