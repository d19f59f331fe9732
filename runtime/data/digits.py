"""Handwritten digits that ship inside scikit-learn: 1,797 real scans of 8 x 8 pixels."""

from __future__ import annotations

import numpy as np

from edgekit.runtime.data.source import ArrayImages, Split
from edgekit.runtime.errors import MissingExtraError

TEST_FRACTION = 0.25
LEVELS = 16  # the scans' gray values run from 0 to 16


def load_digits(part: str) -> Split:
    """Load a part of the digits: uint8 [1347 or 450, 8, 8, 1].

    The data set has no official split; the test part is a fixed stratified quarter (seed 0).

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets, model_selection
    except ModuleNotFoundError as error:
        raise MissingExtraError("scikit-learn", "digits") from error
    scans = datasets.load_digits()
    images = np.rint(scans.images * (255 / LEVELS)).astype(np.uint8)[..., None]
    labels = scans.target.astype(np.int64)
    train, test = model_selection.train_test_split(
        np.arange(len(labels)), test_size=TEST_FRACTION, stratify=labels, random_state=0
    )
    rows = train if part == "train" else test
    names = tuple(str(name) for name in scans.target_names)
    return Split("digits", part, ArrayImages(images[rows]), labels[rows], names)
