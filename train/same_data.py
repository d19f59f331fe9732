"""Whether a checkpoint is of the same images and classes as some data."""

from __future__ import annotations

import logging
from pathlib import Path

from edgekit.runtime.errors import CheckpointError, RecipeError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.train.checkpoint import Checkpoint
from edgekit.train.recipe import parse_recipe
from edgekit.train.recipe_tables import DataRecipe

_LOGGER = logging.getLogger(__name__)


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


def warn_of_seen_images(path: Path, checkpoint: Checkpoint, data: DataRecipe) -> None:
    """Say where a checkpoint has learned from images that a run is judged on.

    Args:
        path: The checkpoint's file, for the message.
        checkpoint: The checkpoint.
        data: What the run learns from.
    """
    try:
        own = parse_recipe(checkpoint.recipe, origin=str(path)).data
    except RecipeError:
        return  # it does not say
    if own.name == data.name and own.validation < data.validation:
        _LOGGER.warning(
            "%s: has learned from images of the validation part: data.validation was %g there, and "
            "is %g here",
            path,
            own.validation,
            data.validation,
        )


def _named(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    return f"{len(classes)} ({shown})"
