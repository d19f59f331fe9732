"""A model file that takes part in a comparison: read, counted and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.bench.details import Details
from edgekit.bench.engines import LoadedModel, find_engine
from edgekit.bench.figures import Figures, read_figures
from edgekit.bench.latency import check_batch_size, fill_batch, random_samples
from edgekit.bench.provenance import provenance
from edgekit.bench.settings import BenchSettings
from edgekit.bench.shapes import Shape
from edgekit.export.calibration import single_input
from edgekit.export.graph import load_graph, model_preprocessing
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import DataError, InputError, ModelFileError, naming
from edgekit.runtime.preprocessing import Preprocessing, preprocessing_of


@dataclass(frozen=True)
class Candidate:
    """One model file.

    Attributes:
        path: The file.
        model: Its graph.
        figures: Identity, counts and scores.
        preprocessing: What makes its input of images; None where neither file nor data tell.
        loaded: The model in the engine of the settings, with their first number of threads.
        details: What a report shows beside the totals, as far as it is known yet.
    """

    path: Path
    model: ir.Model
    figures: Figures
    preprocessing: Preprocessing | None
    loaded: LoadedModel
    details: Details

    def sample_shape(self, settings: BenchSettings) -> Shape | None:
        """Shape of one sample where the settings or the model's metadata give it."""
        given = settings.input_shapes.get(str(single_input(self.model).name))
        if given is not None:
            return tuple(given[1:])
        return None if self.preprocessing is None else self.preprocessing.input_shape

    def samples(
        self, split: Split | None, settings: BenchSettings, count: int
    ) -> NDArray[np.generic] | None:
        """Up to `count` samples: the first images, or random ones where only a shape is known."""
        if split is not None and self.preprocessing is not None:
            return self.preprocessing(split.images.read(np.arange(min(count, len(split)))))
        shape = self.sample_shape(settings)
        if shape is None:
            return None
        return random_samples(self.loaded.input, (count, *shape))

    def batch(
        self, split: Split | None, settings: BenchSettings, batch_size: int
    ) -> NDArray[np.generic]:
        """A batch to time the model on, of the type and shape that it takes.

        Raises:
            InputError, DataError: as `latency.fill_batch`, naming the file.
        """
        try:
            samples = self.samples(split, settings, batch_size)
            return fill_batch(self.loaded.input, batch_size, samples)
        except (DataError, InputError) as error:
            raise type(error)(f"{self.path}: {error}") from error


def read_candidate(path: Path, split: Split | None, settings: BenchSettings) -> Candidate:
    """Read, count and load a model file.

    Raises:
        ModelFileError: it is damaged, cannot be counted or cannot be run.
        InputError: the file fixes another batch size.
        DataError: the settings' mean or deviation do not fit it.
    """
    model = load_graph(path)
    figures, counts = read_figures(path, model, settings.input_shapes, settings.conventions)
    loaded = find_engine(settings.engine).open(path, settings.threads)
    if not loaded.input.shape:
        raise ModelFileError(
            f"{path}: the model's input {loaded.input.name!r} has no axes, or tells none; give "
            "one that takes images"
        )
    try:
        for size in dict.fromkeys((settings.batch_size, *settings.sweep_batch_sizes)):
            check_batch_size(loaded.input, size)
        fixed = loaded.input.shape[0]
        if "SingleStream" in settings.loadgen and isinstance(fixed, int) and fixed != 1:
            raise InputError(
                f"LoadGen's SingleStream sends one image at a time, the model takes batches of "
                f"{fixed} only: give --loadgen Offline"
            )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    preprocessing = model_preprocessing(model)
    if split is not None:
        name = str(single_input(model).name)  # an engine may give it another
        shape: Sequence[int | str | None] = settings.input_shapes.get(name, loaded.input.shape)
        with naming(path):
            preprocessing = preprocessing_of(
                model.metadata_props, shape, mean=settings.mean, std=settings.std
            )
    details = Details(counts.nodes, provenance(model.metadata_props))
    return Candidate(path, model, figures, preprocessing, loaded, details)
