from __future__ import annotations

import numpy as np
import pytest

from edgekit.runtime.errors import DataError, ModelFileError
from edgekit.runtime.preprocessing import Preprocessing, preprocessing_of

RGB = Preprocessing(2, 3, (0.5, 0.25, 0.125), (0.5, 0.25, 1.0), ("a", "b"))


def test_pixels_become_standardized_channels_first() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 3, 3), dtype=np.uint8)
    expected = (images / 255 - np.array(RGB.mean)) / np.array(RGB.std)
    np.testing.assert_allclose(RGB(images), expected.transpose(0, 3, 1, 2), atol=1e-6)


def test_channels_last_keeps_the_axes() -> None:
    nhwc = Preprocessing(2, 3, RGB.mean, RGB.std, layout="NHWC")
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 3, 3), dtype=np.uint8)
    np.testing.assert_array_equal(nhwc(images), RGB(images).transpose(0, 2, 3, 1))
    assert nhwc.input_shape == (2, 3, 3)
    assert RGB.input_shape == (3, 2, 3)


def test_metadata_round_trip_is_exact() -> None:
    odd = Preprocessing(5, 7, (1 / 3,), (0.1,), ("Käse", 'a "quoted" name'))
    for preprocessing in (RGB, odd):
        assert Preprocessing.from_metadata(preprocessing.to_metadata()) == preprocessing


@pytest.mark.parametrize("given", ["mean", "std"])
def test_values_for_channels_that_are_not_there_are_refused(given: str) -> None:
    gray = Preprocessing(2, 3, (0.5,), (0.5,))
    both = {"mean": (0.5,), "std": (0.5,), given: (0.5,) * 3}
    with pytest.raises(DataError, match=f"{given} has 3 values for images of 1 channel"):
        preprocessing_of(gray.to_metadata(), [None, 1, 2, 3], **both)


def test_a_model_without_metadata_has_none() -> None:
    assert Preprocessing.from_metadata({"author": "somebody"}) is None


@pytest.mark.parametrize("key", ["mean", "std", "class_names", "input_size"])
@pytest.mark.parametrize("value", ["", "{", "7", '["x"]', "[0, 0, 0, 0]"])
def test_damaged_metadata_is_refused(key: str, value: str) -> None:
    metadata = RGB.to_metadata() | {f"edgekit.{key}": value}
    if key == "class_names" and value in ('["x"]', "[0, 0, 0, 0]"):
        return  # those are class names
    with pytest.raises(ModelFileError, match="metadata is damaged"):
        Preprocessing.from_metadata(metadata)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input_size", "[Infinity, 8]"),
        ("input_size", "[1e400, 8]"),
        ("input_size", "[8, 65537]"),
        ("mean", f"[1{'0' * 400}]"),
        ("class_names", "[" * 100_000),
    ],
)
def test_metadata_that_is_beyond_all_measure_is_refused(key: str, value: str) -> None:
    with pytest.raises(ModelFileError, match="metadata is damaged"):
        Preprocessing.from_metadata(RGB.to_metadata() | {f"edgekit.{key}": value})


def test_images_of_another_size_or_type_are_refused() -> None:
    with pytest.raises(DataError, match=r"takes uint8 \[2, 3, 3\]"):
        RGB(np.zeros((1, 3, 2, 3), np.uint8))
    with pytest.raises(DataError, match="float32"):
        RGB(np.zeros((1, 2, 3, 3), np.float32))  # type: ignore[arg-type]


def test_statistics_that_cannot_be_are_refused() -> None:
    for mean, std in (((0.5,), (0.0,)), ((0.5,), (1.0, 1.0)), ((float("nan"),), (1.0,))):
        with pytest.raises(DataError):
            Preprocessing(2, 2, mean, std)


def test_what_the_model_carries_wins_over_its_shape_and_flags_over_both() -> None:
    assert preprocessing_of(RGB.to_metadata(), ["batch", 3, 9, 9]) == RGB
    changed = preprocessing_of(RGB.to_metadata(), [], mean=(0.1,))
    assert (changed.mean, changed.std) == ((0.1, 0.1, 0.1), RGB.std)
    with pytest.raises(DataError, match="1 or 3 values"):
        preprocessing_of(RGB.to_metadata(), [], mean=(0.1, 0.2))


@pytest.mark.parametrize(
    ("shape", "image_shape", "layout"),
    [
        (["N", 3, 5, 7], (5, 7, 3), "NCHW"),
        ([1, 1, 8, 8], (8, 8, 1), "NCHW"),
        ([None, 5, 7, 3], (5, 7, 3), "NHWC"),
    ],
)
def test_a_model_without_metadata_is_read_by_its_shape_with_a_warning(
    shape: list[int | str | None],
    image_shape: tuple[int, int, int],
    layout: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = preprocessing_of({}, shape)
    assert (found.image_shape, found.layout) == (image_shape, layout)
    assert "--mean and --std" in caplog.text
    caplog.clear()
    preprocessing_of({}, shape, mean=(0.5,), std=(0.5,))
    assert caplog.text == ""


@pytest.mark.parametrize("shape", [["N", 3, "H", "W"], ["N", 10], ["N", 4, 8, 8], []])
def test_an_input_that_is_no_image_is_refused(shape: list[int | str | None]) -> None:
    with pytest.raises(ModelFileError, match="fixed size"):
        preprocessing_of({}, shape)
