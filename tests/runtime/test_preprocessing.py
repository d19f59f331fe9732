from __future__ import annotations

import numpy as np
import pytest

from edgekit.runtime.errors import DataError, ModelFileError
from edgekit.runtime.preprocessing import Preprocessing

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


def test_images_of_another_size_or_type_are_refused() -> None:
    with pytest.raises(DataError, match=r"takes uint8 \[2, 3, 3\]"):
        RGB(np.zeros((1, 3, 2, 3), np.uint8))
    with pytest.raises(DataError, match="float32"):
        RGB(np.zeros((1, 2, 3, 3), np.float32))  # type: ignore[arg-type]


def test_statistics_that_cannot_be_are_refused() -> None:
    for mean, std in (((0.5,), (0.0,)), ((0.5,), (1.0, 1.0)), ((float("nan"),), (1.0,))):
        with pytest.raises(DataError):
            Preprocessing(2, 2, mean, std)
