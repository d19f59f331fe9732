"""Data as people have it: damaged archives, hidden files, turned photographs, 16-bit scans."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from edgekit.runtime.data.load import load_split
from edgekit.runtime.data.source import decode_image
from edgekit.runtime.errors import DataError

IMAGES = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((1, 6, 6), np.uint8)
LABELS = np.arange(20) % 4


def archive(path: Path, **changed: Any) -> str:
    arrays = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS} | changed
    np.savez_compressed(path, **arrays)
    return str(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"class_names": np.array("cat")}, "class_names is"),
        ({"y_train": LABELS + 2**45}, "is no class"),
        ({"y_train": np.full(20, 2**64 - 1, np.uint64)}, "is no class"),
        ({"y_test": np.array(["cat"] * 20)}, "must be integers"),
        ({"x_train": np.zeros((20, 0, 6), np.uint8)}, "it must be uint8"),
    ],
)
def test_an_npz_that_makes_no_sense_is_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_split(archive(tmp_path / "odd.npz", **changed), "train")


def test_an_npz_whose_compressed_bytes_are_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    archive(path)
    content = bytearray(path.read_bytes())
    for position in range(60, 100):
        content[position] ^= 0x5A
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable"):
        load_split(str(path), "train")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (100000, 100000, 100000)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (",
    ],
)
def test_an_npz_with_a_damaged_header_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "data.npz"
    archive(path, class_names=np.array(list("abcd")))
    length = len(header).to_bytes(2, "little")
    with zipfile.ZipFile(path, "a") as members, pytest.warns(UserWarning, match="Duplicate"):
        members.writestr("x_train.npy", b"\x93NUMPY\x01\x00" + length + header.encode())
    with pytest.raises(DataError, match="not a readable"):
        load_split(str(path), "train")


def test_an_npy_in_the_name_of_an_npz_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", IMAGES)
    path = (tmp_path / "data.npy").rename(tmp_path / "data.npz")
    with pytest.raises(DataError, match=r"data\.npz: not a readable .*it is no zip"):
        load_split(str(path), "train")


def test_an_npz_whose_members_are_no_arrays_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as members:
        for key in ("x_train.npy", "y_train.npy"):
            members.writestr(key, b"words" * 40)
    with pytest.raises(DataError, match="it must be uint8"):
        load_split(str(path), "train")
    content = bytearray(path.read_bytes())
    content[60:70] = b"\xff" * 10
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable"):
        load_split(str(path), "train")


def test_hidden_folders_and_files_are_no_classes_and_no_images(image_folder: Path) -> None:
    (image_folder / ".ipynb_checkpoints").mkdir()
    (image_folder / "cat" / "._0.png").write_bytes(b"Mac OS X")
    split = load_split(str(image_folder), "test")
    assert split.class_names == ("cat", "dog")
    assert len(split) == 10


def test_sixteen_bit_scans_keep_their_shades(tmp_path: Path) -> None:
    shades = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(shades).save(tmp_path / "scan.png")
    decoded = decode_image(tmp_path / "scan.png", (8, 8, 1))[..., 0]
    np.testing.assert_array_equal(decoded, shades >> 8)


def test_a_folder_takes_the_size_of_a_turned_photograph_as_it_is_seen(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    photograph = Image.new("RGB", (20, 10))
    exif = photograph.getexif()
    exif[0x0112] = 6  # turn it by 90 degrees
    photograph.save(tmp_path / "cat" / "photo.jpg", exif=exif)
    assert load_split(str(tmp_path), "train").images.shape == (20, 10, 3)


def test_an_image_that_claims_to_be_enormous_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    bomb = tmp_path / "cat" / "bomb.ppm"
    bomb.write_bytes(b"P6 30000 30000 255\n")
    with pytest.raises(DataError, match="does not decode"):
        load_split(str(tmp_path), "train")


def lopsided_image() -> Image.Image:
    """A gray image of 16x8 that looks another way in each of the eight orientations."""
    rows, columns = np.mgrid[:8, :16]
    return Image.fromarray((rows * 8 + columns * 4).astype(np.uint8))


@pytest.mark.parametrize("kind", ["jpg", "tif", "webp"])
@pytest.mark.parametrize("code", range(10))
def test_every_orientation_is_turned_upright(tmp_path: Path, kind: str, code: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = code
    path = tmp_path / f"photo.{kind}"
    lopsided_image().save(path, exif=exif)
    with Image.open(path) as file:
        seen = ImageOps.exif_transpose(file).convert("L")
    decoded = decode_image(path, (seen.height, seen.width, 1))
    np.testing.assert_array_equal(decoded[..., 0], np.asarray(seen))


@pytest.mark.parametrize("in_folder", [False, True])
def test_a_turned_photograph_with_a_tag_of_another_type_is_read(
    tmp_path: Path, in_folder: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "hi"  # a description, in text
    (tmp_path / "cat").mkdir()
    path = tmp_path / "cat" / "photo.jpg"
    lopsided_image().save(path, exif=exif)
    upright = decode_image(path, (16, 8, 1))
    content = path.read_bytes()
    ill_typed = content.replace(b"\x01\x0e\x00\x02", b"\x01\x00\x00\x02")  # a width, in text
    assert ill_typed != content
    path.write_bytes(ill_typed)
    read = (
        load_split(str(tmp_path), "test").images.read(np.zeros(1, np.int64))[0]
        if in_folder
        else decode_image(path, (16, 8, 1))
    )
    np.testing.assert_array_equal(read, upright)
