"""Which classes a model takes for which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.accuracy import Accuracy


@dataclass(frozen=True)
class Confusion:
    """Images by true and by predicted class.

    Attributes:
        class_names: The classes, in the order of the matrix.
        matrix: Images of class i that were taken for class j: int64 [classes, classes].
    """

    class_names: tuple[str, ...]
    matrix: NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """The value of the key `confusion`: rows are true classes, columns predicted ones."""
        return {"class_names": list(self.class_names), "matrix": self.matrix.tolist()}


def confusion(accuracy: Accuracy, class_names: tuple[str, ...]) -> Confusion:
    """Count what a model made of the images of each class."""
    classes = len(class_names)
    cells = accuracy.labels * classes + accuracy.predictions
    counts = np.bincount(cells, minlength=classes * classes).astype(np.int64)
    return Confusion(class_names, counts.reshape(classes, classes))
