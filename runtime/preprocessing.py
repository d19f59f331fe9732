"""One preprocessing for training, calibration, accuracy and prediction."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.errors import DataError, ModelFileError

Layout = Literal["NCHW", "NHWC"]

PREFIX = "edgekit."

# What entries raise that hold something else, however large or deep it is.
_DAMAGED = (KeyError, TypeError, ValueError, ArithmeticError, RecursionError, DataError)

# Longest side of an image, in pixels; what claims more is damaged, and asks for absurd memory.
MAX_SIDE = 1 << 16

# Pixels of a plane that are normalized at a time.
_BLOCK_PIXELS = 1 << 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preprocessing:
    """What turns uint8 pixels into a model's input: (pixel / 255 - mean) / std, channel by channel.

    Attributes:
        height: Rows of the model's input, from 1 to `MAX_SIDE`.
        width: Columns of the model's input, likewise.
        mean: Mean of each channel, in units of pixel / 255.
        std: Standard deviation of each channel, in units of pixel / 255.
        class_names: Names of the classes, in the order of the model's outputs; may be empty.
        layout: Axis order of the model's input.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()
    layout: Layout = "NCHW"

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise DataError(
                f"mean {self.mean} and std {self.std} must both have 1 or 3 values, one a channel"
            )
        if not np.all(np.isfinite(self.mean)) or not all(0 < s < np.inf for s in self.std):
            raise DataError(f"mean {self.mean} must be finite and std {self.std} above zero")
        if not (1 <= self.height <= MAX_SIDE and 1 <= self.width <= MAX_SIDE):
            raise DataError(
                f"image size {self.height}x{self.width} must be from 1x1 to {MAX_SIDE}x{MAX_SIDE}"
            )
        if self.layout not in ("NCHW", "NHWC"):
            raise DataError(f"layout {self.layout!r} must be NCHW or NHWC")

    @property
    def channels(self) -> int:
        """Channels of an image: 1 or 3."""
        return len(self.mean)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one uint8 image: (height, width, channels)."""
        return self.height, self.width, self.channels

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one sample of the model's input, in `layout`, without the batch axis."""
        if self.layout == "NHWC":
            return self.image_shape
        return self.channels, self.height, self.width

    @cached_property
    def _affine(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        std = np.asarray(self.std, np.float64)
        scale = 1 / (255 * std)
        shift = -np.asarray(self.mean, np.float64) / std
        return scale.astype(np.float32), shift.astype(np.float32)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn uint8 images [N, height, width, channels] into float32 input [N, *input_shape].

        Raises:
            DataError: the images have another shape or type.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            raise DataError(
                f"images are {images.dtype} {list(images.shape[1:])}, the model takes uint8 "
                f"{list(self.image_shape)} (height, width, channels): use data of that size"
            )
        scale, shift = self._affine
        output = np.empty((len(images), *self.input_shape), np.float32)
        as_images = output if self.layout == "NHWC" else output.transpose(0, 2, 3, 1)
        block = max(1, _BLOCK_PIXELS // (self.height * self.width))
        for start in range(0, len(images), block):
            rows = slice(start, start + block)
            for channel in range(self.channels):  # one plane after the other stays in the cache
                plane = as_images[rows, ..., channel]
                np.multiply(images[rows, ..., channel], scale[channel], out=plane)
                np.add(plane, shift[channel], out=plane)
        return output

    def to_metadata(self) -> dict[str, str]:
        """As `metadata_props` entries of an ONNX model, or of a checkpoint."""
        return {
            f"{PREFIX}input_size": json.dumps([self.height, self.width]),
            f"{PREFIX}mean": json.dumps(self.mean),
            f"{PREFIX}std": json.dumps(self.std),
            f"{PREFIX}class_names": json.dumps(self.class_names, ensure_ascii=False),
            f"{PREFIX}layout": self.layout,
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Preprocessing | None:
        """Read what `to_metadata` wrote; None where the model carries none of it.

        Raises:
            ModelFileError: an entry is damaged.
        """
        if f"{PREFIX}input_size" not in metadata:
            return None

        def entry(name: str) -> Any:
            return json.loads(metadata[PREFIX + name])

        try:
            height, width = entry("input_size")
            return cls(
                height=int(height),
                width=int(width),
                mean=tuple(float(value) for value in entry("mean")),
                std=tuple(float(value) for value in entry("std")),
                class_names=tuple(str(name) for name in entry("class_names")),
                layout=metadata.get(f"{PREFIX}layout", "NCHW"),  # type: ignore[arg-type]
            )
        except _DAMAGED as error:
            raise ModelFileError(
                f"the model's edgekit.* metadata is damaged ({error}): export it again"
            ) from error


def preprocessing_of(
    metadata: Mapping[str, str],
    input_shape: Sequence[int | str | None],
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Preprocessing:
    """What a model's metadata says, or, for a model without, what its input's shape allows.

    Args:
        metadata: The model's `metadata_props`.
        input_shape: Shape of the model's input; only the batch axis may be open.
        mean: Overrides the mean; one value serves all channels.
        std: Overrides the standard deviation, likewise.

    Raises:
        ModelFileError: the metadata is damaged, or the input is no image of a fixed size.
        DataError: mean or std do not fit the channels.
    """
    stored = Preprocessing.from_metadata(metadata)
    if stored is None:
        stored = _from_shape(input_shape)
        if mean is None or std is None:
            logger.warning(
                "the model does not say how its input is normalized: taking mean %s and std %s of "
                "pixel / 255 (set them with --mean and --std)",
                *(list(given or default) for given, default in ((mean, (0.0,)), (std, (1.0,)))),
            )
    return replace(
        stored,
        mean=_per_channel("mean", mean or stored.mean, stored.channels),
        std=_per_channel("std", std or stored.std, stored.channels),
    )


def _per_channel(name: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == 3 and channels == 1:  # other numbers no image has
        raise DataError(f"{name} has 3 values for images of 1 channel: give one value")
    return values * channels if len(values) == 1 else values


def _from_shape(input_shape: Sequence[int | str | None]) -> Preprocessing:
    match list(input_shape)[1:]:
        case [1 | 3 as channels, int(height), int(width)]:
            layout: Layout = "NCHW"
        case [int(height), int(width), 1 | 3 as channels]:
            layout = "NHWC"
        case _:
            raise ModelFileError(
                f"the model's input is {list(input_shape)}; edgekit needs images of a fixed size "
                "with 1 or 3 channels, [N, C, H, W] or [N, H, W, C]: export it so"
            )
    return Preprocessing(height, width, (0.0,) * channels, (1.0,) * channels, layout=layout)
