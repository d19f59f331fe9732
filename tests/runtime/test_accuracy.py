from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgekit.runtime.accuracy import Accuracy, evaluate, evaluate_with, wilson_interval
from edgekit.runtime.data.source import ArrayImages, Split
from edgekit.runtime.errors import DataError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.runtime.session import open_session

Build = Callable[..., onnx.ModelProto]
PREPROCESSING = Preprocessing(4, 4, (0.5,), (0.25,), ("x", "y", "z"))


def make_split(count: int = 10, classes: tuple[str, ...] = ("x", "y", "z")) -> Split:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)
    labels = generator.integers(0, len(classes), count)
    return Split("noise", "test", ArrayImages(images), labels, classes)


def test_predictions_are_the_largest_outputs_whatever_the_batch_size(classifier: Build) -> None:
    split = make_split(10)
    weight = onnx.numpy_helper.to_array(classifier().graph.initializer[-1])
    pixels = split.images.read(np.arange(10)).reshape(10, 16)
    expected = ((pixels / 255 - 0.5) / 0.25 @ weight).argmax(1)
    for batch_size in (1, 3, 256):
        got = evaluate(open_session(classifier()), PREPROCESSING, split, batch_size=batch_size)
        np.testing.assert_array_equal(got.predictions, expected)
        assert got.correct == (expected == split.labels).sum()
    wrong = evaluate(open_session(classifier(seed=1)), PREPROCESSING, split)
    assert wrong.flips(got) > 0


# Worked by hand from Wilson's formula; the first is also in Agresti & Coull (1998) for 0 of 10.
@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (9012, 10000, 0.8952, 0.9069), (5, 10, 0.2366, 0.7634)],
)
def test_interval_matches_worked_values(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=1e-4)


def test_figures_of_a_result() -> None:
    result = Accuracy(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]))
    other = Accuracy(np.array([0, 0, 0, 2]), result.labels)
    assert (result.correct, result.total, result.top1) == (3, 4, 0.75)
    assert result.flips(other) == 2


def test_other_classes_are_refused(classifier: Build) -> None:
    session = open_session(classifier())
    with pytest.raises(DataError, match="the model's classes are x, y, z"):
        evaluate(session, PREPROCESSING, make_split(classes=("x", "y", "w")))
    unnamed = Preprocessing(4, 4, (0.5,), (0.25,))
    with pytest.raises(DataError, match="3 outputs, noise has 2 classes"):
        evaluate(session, unnamed, make_split(classes=("x", "y")))


def test_outputs_that_are_not_finite_are_refused(classifier: Build) -> None:
    model = classifier()
    broken = np.full((16, 3), np.nan, np.float32)
    model.graph.initializer[-1].CopyFrom(onnx.numpy_helper.from_array(broken, "weight"))
    with pytest.raises(DataError, match="not finite"):
        evaluate(open_session(model), PREPROCESSING, make_split())


@pytest.mark.parametrize(("side", "most"), [(8, 256), (224, 13), (3000, 1)])
def test_large_images_are_classified_a_few_at_a_time(side: int, most: int) -> None:
    preprocessing = Preprocessing(side, side, (0.5,) * 3, (0.2,) * 3)
    count = 2 * most + 1 if side < 3000 else 2
    images = np.broadcast_to(np.zeros((1, side, side, 3), np.uint8), (count, side, side, 3))
    split = Split("big", "test", ArrayImages(images), np.zeros(count, np.int64), ("a", "b"))
    sizes: list[int] = []

    def classify(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        sizes.append(len(batch))
        return np.zeros((len(batch), 2), np.float32)

    assert evaluate_with(classify, preprocessing, split).total == sum(sizes) == count
    assert max(sizes) == most
