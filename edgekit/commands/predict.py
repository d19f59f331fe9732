"""`edgekit predict`: classes and probabilities of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.commands.images import AS_STORED, Normalization
from edgekit.export.graph import load_graph
from edgekit.runtime.data.source import decode_image
from edgekit.runtime.errors import ModelFileError
from edgekit.runtime.session import open_session, run_batch


@dataclass(frozen=True)
class Prediction:
    """What a model sees in an image.

    Attributes:
        image: The file.
        classes: Names (or numbers) of the likeliest classes, best first.
        probabilities: Theirs, 0 to 1.
    """

    image: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def predict_images(
    path: Path,
    images: Sequence[Path],
    *,
    top: int = 3,
    normalization: Normalization = AS_STORED,
) -> list[Prediction]:
    """Classify image files.

    Args:
        path: The model.
        images: Image files; each is resized to what the model takes.
        top: Classes to keep for each.
        normalization: Mean and deviation in place of the model's.

    Raises:
        EdgekitError: the model or an image cannot be used.
    """
    preprocessing = normalization.of(load_graph(path))
    session = open_session(path)
    predictions = []
    for image in images:
        pixels = decode_image(image, preprocessing.image_shape)
        logits = run_batch(session, preprocessing(pixels[None]))
        if not np.isfinite(logits).all():
            raise ModelFileError(f"{path}: its outputs on {image} are not finite; it is broken")
        probabilities = softmax(logits)[0]
        best = np.argsort(-probabilities, kind="stable")[:top]
        names = preprocessing.class_names or tuple(map(str, range(len(probabilities))))
        if len(names) != len(probabilities):
            raise ModelFileError(
                f"{path}: has {len(probabilities)} outputs but names {len(names)} classes; "
                "export it again"
            )
        predictions.append(
            Prediction(
                image,
                tuple(names[index] for index in best),
                tuple(float(probabilities[index]) for index in best),
            )
        )
    return predictions


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities of logits [N, classes]; rows that are probabilities already stay."""
    values = logits.astype(np.float64)
    if (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3):
        return values
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares
