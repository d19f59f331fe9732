"""The training and validation images of a run, and how their pixels are normalized."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.runtime.data.load import DATASETS, load_split
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import DataError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.train.batches import measure_preprocessing
from edgekit.train.download import download as download_data
from edgekit.train.recipe import Recipe
from edgekit.train.recipe_keys import MIN_SIDE


@dataclass(frozen=True)
class TrainingData:
    """The images of a run.

    Attributes:
        train: What is trained on.
        validation: What is held out; None where nothing is.
        preprocessing: What turns pixels into the network's input.
    """

    train: Split
    validation: Split | None
    preprocessing: Preprocessing

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.train.class_names)


def load_training_data(
    recipe: Recipe, *, data_dir: Path | None = None, download: bool = False
) -> TrainingData:
    """The training and validation parts; the test part is not touched.

    The validation part is the same for every seed, and a smaller one is part of a larger one, so
    that a teacher that held out no less has not learned from what its student is judged on.

    Raises:
        DataError: the data is missing or damaged, or its images are too small.
    """
    keys = recipe.data
    name = keys.name if keys.name in DATASETS else str(recipe.path(keys.name))
    if download:
        data_dir = download_data(name, data_dir)
    shape = None if keys.image_size is None else (*keys.image_size, keys.channels)

    def part(which: str) -> Split:
        return load_split(
            name,
            which,
            data_dir=data_dir,
            image_shape=shape,
            validation=keys.validation,
        )

    train = part("train")
    height, width, _ = train.images.shape
    if min(height, width) < MIN_SIDE:
        raise DataError(
            f"{name}: images of {height}x{width} pixels; networks take {MIN_SIDE} or more on each "
            "side: enlarge them"
        )
    return TrainingData(
        train=train,
        validation=part("validation") if keys.validation else None,
        preprocessing=measure_preprocessing(train),
    )
