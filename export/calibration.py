"""Calibration data: which samples a static quantizer sees, checked as they are read.

A reader feeds `{input name: array}` dictionaries, batch by batch, in onnxruntime's protocol for
calibration data (`get_next`, `rewind`, `len`), so that it also serves onnxruntime's own tools.
What turns the data into ranges is in export/calibrators/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.calibration_spool import Spool, batches_of, check_kind
from edgekit.runtime.data.digests import DigestedImages, digest
from edgekit.runtime.data.source import Split, batches
from edgekit.runtime.errors import DataError, ModelFileError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.runtime.session import INPUT_TYPES, to_input_type

Feed = Mapping[str, NDArray[Any]]

DEFAULT_SAMPLES = 512
BATCH_SIZE = 32
# Fewer samples, in all or of a class, are doubtful.
_FEW_SAMPLES = 100
_FEW_OF_A_CLASS = 10
_IMAGE_TYPES = [ir.DataType.from_numpy(np.dtype(dtype)) for dtype in INPUT_TYPES.values()]


class CalibrationReader:
    """Feeds calibration data batch by batch, any number of times.

    Attributes:
        settings: What the data is, for a model's metadata: data, part, samples, seed.
        positions: For images of a split: the place of each sample in it.
    """

    def __init__(
        self,
        feeds: Callable[[], Iterable[Feed]],
        batch_count: int,
        settings: Mapping[str, Any],
        *,
        images: Split | None = None,
        positions: NDArray[np.int64] | None = None,
    ) -> None:
        """Read from `feeds`, which starts over each time it is called.

        Args:
            feeds: Gives the batches.
            batch_count: How many.
            settings: What the data is.
            images: What the samples are made of, one image each; None where that is not known.
            positions: The place of each image in its data set.

        Raises:
            DataError: there are no batches.
        """
        if batch_count < 1:
            raise DataError("calibration needs at least one sample, and there is none")
        self.settings = dict(settings)
        self.positions = positions
        self._images = images
        self._feeds = feeds
        self._batch_count = batch_count
        self._pending = iter(self)

    def __len__(self) -> int:
        """Number of batches."""
        return self._batch_count

    def __iter__(self) -> Iterator[Feed]:
        """All batches from the first, whatever `get_next` has read.

        Raises:
            DataError: a batch is empty, not finite or of another shape than the first, or, once all
                are read, they hold nothing but one repeated value or sample.
        """
        return _checked(self._feeds())

    def get_next(self) -> Feed | None:
        """The next batch; None after the last."""
        return next(self._pending, None)

    def rewind(self) -> None:
        """Start over with the first batch."""
        self._pending = iter(self)

    def sample_name(self, index: int) -> str:
        """What to call the sample at `index`, in the order that it is read."""
        if self.positions is None:
            return f"calibration sample {index}"
        data, part = self.settings["data"], self.settings["part"]
        return f"image {self.positions[index]} of {data}'s {part} part"

    def class_counts(self) -> dict[str, int] | None:
        """Samples of each class; None where classes are not known."""
        if self._images is None:
            return None
        names = self._images.class_names
        counts = np.bincount(self._images.labels, minlength=len(names))
        return dict(zip(names, counts.tolist(), strict=True))

    def warnings(self) -> tuple[str, ...]:
        """What makes the data doubtful, one sentence each."""
        samples = int(self.settings["samples"])
        counts = self.class_counts() or {}
        found = []
        missing = [name for name, count in counts.items() if not count]
        few = [name for name, count in counts.items() if 0 < count < _FEW_OF_A_CLASS]
        if missing:
            found.append(f"no calibration sample is of class {_some(missing)}; give more --samples")
        if samples < _FEW_SAMPLES:
            found.append(
                f"{samples} calibration samples are few; give {_FEW_SAMPLES} or more --samples"
            )
        elif few:
            found.append(
                f"fewer than {_FEW_OF_A_CLASS} calibration samples are of class {_some(few)}; "
                "give more --samples"
            )
        return tuple(found)

    def digests(self) -> NDArray[np.uint64]:
        """A digest of each sample's pixels, or of its arrays where it is no image [samples]."""
        if self._images is not None and isinstance(self._images.images, DigestedImages):
            return self._images.images.all_digests()
        rows = (zip(*feed.values(), strict=True) for feed in self)
        return np.array([digest(*row) for feed in rows for row in feed], np.uint64)

    @classmethod
    def from_feeds(cls, feeds: object) -> CalibrationReader:
        """Read any iterable of `{input name: batch}`, or any reader in onnxruntime's protocol.

        What can be read only once, an iterator or such a reader, is kept in a temporary file.

        Raises:
            DataError: there are no batches, or they are something else.
        """
        if isinstance(feeds, list | tuple):
            for feed in feeds:
                check_kind(feed)
        kept = feeds if isinstance(feeds, list | tuple) else Spool(batches_of(feeds))
        samples = sum(len(next(iter(feed.values()))) for feed in kept if feed)
        return cls(lambda: kept, len(kept), {"data": "custom", "samples": samples})

    @classmethod
    def from_split(
        cls,
        split: Split,
        preprocessing: Preprocessing,
        model: ir.Model,
        *,
        samples: int | None = None,
        seed: int = 0,
    ) -> CalibrationReader:
        """Read images of a split, preprocessed, for a model with one input.

        The samples are drawn without replacement, of each class in proportion to its share. A model
        whose batch axis is fixed gets batches of that size, and what does not fill one is left out.

        Args:
            split: Where the images come from; by rights the training part.
            preprocessing: The preprocessing that the model was trained with.
            model: The model that will run on the data.
            samples: How many; by default `DEFAULT_SAMPLES`, or all if there are fewer.
            seed: Draws the samples.

        Raises:
            DataError: fewer than one sample, or more than there are, are asked for, or not enough
                for the model's batch size.
            ModelFileError: the model has not exactly one input.
        """
        count = min(DEFAULT_SAMPLES, len(split)) if samples is None else samples
        if not 1 <= count <= len(split):
            raise DataError(
                f"{split.name}: {count} calibration samples asked for; choose 1 to {len(split)}, "
                f"the size of its {split.part} part"
            )
        entry = single_input(model)
        fixed = entry.shape[0] if entry.shape is not None and len(entry.shape) else None
        size = fixed if isinstance(fixed, int) else BATCH_SIZE
        if isinstance(fixed, int):
            count -= count % fixed
        if not count:
            raise DataError(
                f"the model's batch size is {size}, more than the calibration samples: give more"
            )
        chosen = stratified_sample(split.labels, count, seed)
        images = split.take(chosen)
        images = replace(images, images=DigestedImages(images.images))
        dtype = np.dtype(np.float32) if entry.dtype is None else entry.dtype.numpy()

        def feeds() -> Iterator[Feed]:
            for pixels, _ in batches(images, size):
                yield {str(entry.name): to_input_type(preprocessing(pixels), dtype)}

        settings = {"data": split.label, "part": split.part, "samples": count, "seed": seed}
        return cls(feeds, -(-count // size), settings, images=images, positions=chosen)


def stratified_sample(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Draw `count` different indices, of each class in proportion to its share, in random order.

    The members of each class, shuffled, are spread evenly over [0, 1); the first `count` of all are
    taken, so that no class is off its exact share by more than one.

    Args:
        labels: Class of each sample [N].
        count: 1 to N.
        seed: Draws the samples.

    Returns:
        Indices [count].
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        position[members] = (np.arange(len(members)) + generator.random()) / len(members)
    return generator.permutation(np.argsort(position, kind="stable")[:count])


def single_input(model: ir.Model) -> ir.Value:
    """The one input of a classifier; initializers that may be overridden do not count.

    Raises:
        ModelFileError: the model has none, or several, or it takes no images.
    """
    inputs = _fed_inputs(model)
    if len(inputs) != 1:
        names = ", ".join(str(value.name) for value in inputs) or "none"
        raise ModelFileError(f"the model has {len(inputs)} inputs ({names}), a classifier has one")
    dtype = inputs[0].dtype
    if dtype is not None and dtype not in _IMAGE_TYPES:
        raise ModelFileError(
            f"the model's input is {dtype.name.lower()}; give one that takes images"
        )
    return inputs[0]


def has_fixed_batch(model: ir.Model) -> bool:
    """Whether an input of the model takes batches of one size alone."""
    shapes = [value.shape for value in _fed_inputs(model)]
    return any(shape is not None and len(shape) and isinstance(shape[0], int) for shape in shapes)


def in_parts(feeds: Iterable[Feed], size: int | None) -> Iterator[Feed]:
    """Batches in parts of `size` samples, the last one smaller; whole ones where it is None."""
    for feed in feeds:
        samples = len(next(iter(feed.values())))
        step = samples if size is None else size
        for start in range(0, samples, step):
            yield {name: array[start : start + step] for name, array in feed.items()}


def check_feed(model: ir.Model, feed: Feed) -> None:
    """Compare a batch with the inputs of a model before it is run.

    Raises:
        DataError: an input is missing, unknown, or of another type or shape.
    """
    inputs = {str(value.name): value for value in _fed_inputs(model)}
    if inputs.keys() != feed.keys():
        raise DataError(
            f"calibration data has inputs {sorted(feed)}, the model takes {sorted(inputs)}"
        )
    for name, value in inputs.items():
        array = feed[name]
        if value.dtype is not None and array.dtype != value.dtype.numpy():
            raise DataError(
                f"calibration data for {name!r} is {array.dtype}, the model takes "
                f"{value.dtype.numpy()}"
            )
        if value.shape is not None and not _fits(array.shape, value.shape):
            raise DataError(
                f"calibration data for {name!r} has shape {list(array.shape)}, the model takes "
                f"{value.shape}: use data of that size"
            )


def _fed_inputs(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _some(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    return repr(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _fits(shape: tuple[int, ...], wanted: ir.Shape) -> bool:
    return len(shape) == len(wanted) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(wanted, shape, strict=True)
    )


def _checked(feeds: Iterable[Feed]) -> Iterator[Feed]:
    first: dict[str, NDArray[Any]] = {}
    constant: set[str] = set()
    samples = 0
    for feed in feeds:
        for name, array in feed.items():
            _check_array(name, array, first.get(name))
            if name not in first:
                first[name] = array[:1].copy()
                constant.add(name)
            if name in constant and (array != first[name]).any():
                constant.discard(name)
        samples += len(next(iter(feed.values()), ()))
        yield feed
    if not samples:
        raise DataError("calibration needs at least one sample, and there is none")
    for name in first:
        flat = first[name].size and (first[name] == first[name].flat[0]).all()
        if name in constant and (samples > 1 or flat):
            raise DataError(
                f"calibration data for {name!r} is constant: all {samples} samples are the same; "
                "use real images"
            )


def _check_array(name: str, array: NDArray[Any], first: NDArray[Any] | None) -> None:
    if array.ndim == 0 or len(array) == 0:
        raise DataError(f"calibration data for {name!r} has a batch without samples; leave it out")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(
            f"calibration data for {name!r} has values that are not finite: check how it is made"
        )
    if first is not None and first.shape[1:] != array.shape[1:]:
        raise DataError(
            f"calibration data for {name!r} has samples of {list(first.shape[1:])} and of "
            f"{list(array.shape[1:])}: make them one size"
        )
