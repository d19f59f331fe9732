"""Whether a checkpoint is of the same images and classes as some data."""

from __future__ import annotations

from pathlib import Path

from edgekit.runtime.errors import CheckpointError
from edgekit.runtime.preprocessing import Preprocessing


def check_same_data(path: Path, own: Preprocessing, data: Preprocessing, advice: str) -> None:
    """Refuse a checkpoint of other classes or image sizes.

    Args:
        path: The checkpoint, for the message.
        own: Sizes and class names of its images.
        data: Those of the data.
        advice: What to do with another checkpoint in its place.

    Raises:
        CheckpointError: it takes other images or knows other classes.
    """
    if own.class_names != data.class_names:
        raise CheckpointError(
            f"{path}: knows the classes {_named(own.class_names)}, the data has "
            f"{_named(data.class_names)}; {advice} of the same classes"
        )
    if own.image_shape != data.image_shape:
        raise CheckpointError(
            f"{path}: takes images {list(own.image_shape)} (height, width, channels), the data has "
            f"{list(data.image_shape)}; {advice} of the same size"
        )


def _named(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    return f"{len(classes)} ({shown})"
