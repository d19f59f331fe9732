"""The images that a step needs, in the form that its model takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.calibration import single_input
from edgekit.runtime.data.load import DATASETS, load_split
from edgekit.runtime.data.source import ArrayImages, Split
from edgekit.runtime.preprocessing import Preprocessing, preprocessing_of


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation given by hand; None where the model's own serve."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """What was given, as names and values for people."""
        given = (("mean", self.mean), ("deviation", self.std))
        return [(name, ", ".join(f"{x:g}" for x in values)) for name, values in given if values]

    def of(self, model: ir.Model) -> Preprocessing:
        """The preprocessing of a model, with what was given by hand in place of its own.

        Raises:
            ModelFileError: the model has not one input, or it takes no images.
            DataError: mean or std do not fit its channels.
        """
        shape = single_input(model).shape
        dims = [] if shape is None else [d if isinstance(d, int) else d.value for d in shape]
        return preprocessing_of(model.metadata_props, dims, mean=self.mean, std=self.std)


AS_STORED = Normalization()


@dataclass(frozen=True)
class DataSource:
    """A data set as the command line names it.

    Attributes:
        name: A named data set, a folder or an archive.
        folder: Where named data sets live; EDGEKIT_DATA by default.
        download: Fetch a named data set that is not there.
    """

    name: str
    folder: Path | None = None
    download: bool = False

    @property
    def files(self) -> list[Path]:
        """The archive that is read; none where it is a folder or a named set."""
        archive = Path(self.name)
        return [archive] if self.name not in DATASETS and archive.is_file() else []

    def load(self, part: str, preprocessing: Preprocessing) -> Split:
        """A part of it, decoded to the size that a model takes.

        Raises:
            DataError: it is missing or damaged, or cannot be downloaded.
        """
        folder = self.folder
        if self.download:
            from edgekit.train.download import download

            folder = download(self.name, folder)
        shape = preprocessing.image_shape
        return load_split(self.name, part, data_dir=folder, image_shape=shape)


def spread(split: Split, count: int) -> NDArray[np.uint8]:
    """Up to `count` images, spread evenly over a split: uint8 [n, height, width, channels]."""
    positions = np.linspace(0, len(split) - 1, min(count, len(split)))
    return split.images.read(positions.astype(np.int64))


def noise(preprocessing: Preprocessing, count: int) -> Split:
    """Images of independent, uniformly drawn pixels, all of the first class."""
    shape = (count, *preprocessing.image_shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    labels = np.zeros(count, np.int64)
    return Split("random pixels", "train", ArrayImages(pixels), labels, preprocessing.class_names)
