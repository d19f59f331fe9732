from __future__ import annotations

import io
import os
import pickle
import tarfile
import tracemalloc
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.runtime.data import cifar10
from edgekit.runtime.data.load import load_split
from edgekit.runtime.data.source import ArrayImages, Split, batches, decode_image
from edgekit.runtime.errors import DataError


def everything(split: Split) -> np.ndarray:
    return split.images.read(np.arange(len(split)))


def test_digits_are_the_scans_of_scikit_learn() -> None:
    train, test = load_split("digits", "train"), load_split("digits", "test")
    assert (len(train), len(test)) == (1347, 450)
    assert train.images.shape == (8, 8, 1)
    both = np.concatenate([everything(train), everything(test)])
    assert len(np.unique(both.reshape(1797, -1), axis=0)) == 1797  # no image in both parts
    assert (both.min(), both.max()) == (0, 255)
    counts = np.bincount(test.labels)
    assert counts.min() >= 43
    assert counts.max() <= 46


def test_validation_is_a_stratified_part_of_the_training_set() -> None:
    whole = load_split("digits", "train")
    train = load_split("digits", "train", validation=0.2, seed=3)
    validation = load_split("digits", "validation", validation=0.2, seed=3)
    assert len(train) + len(validation) == len(whole)
    assert validation.part == "validation"
    both = np.concatenate([everything(train), everything(validation)]).reshape(len(whole), -1)
    assert len(np.unique(both, axis=0)) == len(whole)
    shares = np.bincount(validation.labels) / np.bincount(whole.labels)
    np.testing.assert_allclose(shares, 0.2, atol=0.005)
    other = load_split("digits", "validation", validation=0.2, seed=4)
    assert not np.array_equal(everything(other), everything(validation))


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(DataError, match="no validation part"):
        load_split("digits", "validation")
    with pytest.raises(DataError, match="no part 'dev'"):
        load_split("digits", "dev")


def test_folder_classes_are_its_sub_folders(image_folder: Path) -> None:
    split = load_split(str(image_folder), "test")
    assert split.class_names == ("cat", "dog")
    assert split.images.shape == (4, 6, 3)
    np.testing.assert_array_equal(split.labels, [0] * 5 + [1] * 5)
    np.testing.assert_array_equal(everything(split)[7, 0, 0], [80, 100, 200])


def test_a_folder_without_parts_warns_whoever_trains_on_it(
    image_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_split(str(image_folder), "test")
    assert caplog.text == ""
    load_split(str(image_folder), "train")
    assert "no train/ and test/" in caplog.text


def test_a_folder_of_tests_alone_has_no_class_of_that_name(
    image_folder: Path, tmp_path: Path
) -> None:
    image_folder.rename(tmp_path / "test")
    (tmp_path / "photos" / ".thumbnails").mkdir(parents=True)
    (tmp_path / "test").rename(tmp_path / "photos" / "test")
    assert load_split(str(tmp_path / "photos"), "test").class_names == ("cat", "dog")
    with pytest.raises(DataError, match="has a test/ folder but no train/"):
        load_split(str(tmp_path / "photos"), "train")


def test_folder_images_are_resized_and_converted(image_folder: Path) -> None:
    split = load_split(str(image_folder), "test", image_shape=(8, 8, 1))
    gray = np.asarray(Image.new("RGB", (1, 1), (80, 100, 200)).convert("L"))[0, 0]
    assert everything(split).shape == (10, 8, 8, 1)
    assert (everything(split)[7] == gray).all()


def test_gray_values_of_16_bits_are_scaled_whatever_the_file(image_folder: Path) -> None:
    gray = np.array([[0, 255, 256], [1_800, 9_999, 65_535]], np.uint16)
    for kind in ("png", "tif"):
        Image.fromarray(gray).save(image_folder / f"gray.{kind}")
    (image_folder / "gray.pgm").write_bytes(b"P5 3 2 65535\n" + gray.astype(">u2").tobytes())
    (image_folder / "ten.pgm").write_bytes(b"P5 3 2 1023\n" + (gray // 64).astype(">u2").tobytes())
    for name in ("gray.png", "gray.tif", "gray.pgm"):
        decoded = decode_image(image_folder / name, (2, 3, 1))
        np.testing.assert_array_equal(decoded[..., 0], gray >> 8)
    ten = decode_image(image_folder / "ten.pgm", (2, 3, 1))[..., 0].astype(int)
    assert np.abs(ten - gray / 257).max() <= 1


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_gray_values_of_unknown_range_are_refused(
    image_folder: Path, kind: type[np.generic]
) -> None:
    path = image_folder / "cat" / "0.tif"
    Image.fromarray(np.eye(4, 6).astype(kind)).save(path)
    with pytest.raises(DataError, match=r"0\.tif: has gray values of 32 bits.*8 or 16"):
        decode_image(path, (4, 6, 1))


def test_folder_with_parts(tmp_path: Path, image_folder: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    image_folder.rename(root / "train")
    with pytest.raises(DataError, match=r"no test/"):
        load_split(str(root), "test")
    (root / "test" / "cat").mkdir(parents=True)
    Image.new("RGB", (6, 4)).save(root / "test" / "cat" / "0.png")
    assert len(load_split(str(root), "train")) == 10
    assert len(load_split(str(root), "test")) == 1


def test_empty_folders_are_refused(tmp_path: Path, image_folder: Path) -> None:
    with pytest.raises(DataError, match="no sub-folders"):
        load_split(str(tmp_path / "pets" / "cat"), "test")
    (image_folder / "owl").mkdir()
    with pytest.raises(DataError, match="owl: has no images"):
        load_split(str(image_folder), "test")


def test_a_class_whose_name_no_file_can_hold_is_refused(image_folder: Path) -> None:
    try:
        next(image_folder.iterdir()).rename(image_folder / "caf\udce9")  # Latin-1 on the disk
    except OSError as error:
        pytest.skip(f"this file system takes UTF-8 alone ({error})")
    with pytest.raises(DataError, match=r"'caf\\udce9' is not UTF-8.*; rename the folder"):
        load_split(str(image_folder), "train")


def test_an_image_that_does_not_decode_is_named(image_folder: Path) -> None:
    whole = (image_folder / "dog" / "3.png").read_bytes()
    for damaged in (b"", b"text", whole[: len(whole) // 2]):
        (image_folder / "dog" / "3.png").write_bytes(damaged)
        with pytest.raises(DataError, match=r"3\.png: does not decode"):
            everything(load_split(str(image_folder), "test"))
    (image_folder / "cat" / "0.png").write_bytes(b"text")
    with pytest.raises(DataError, match=r"0\.png: does not decode"):
        load_split(str(image_folder), "test")


def test_batches_cover_a_folder_in_order(image_folder: Path) -> None:
    split = load_split(str(image_folder), "test")
    order = np.random.default_rng(0).permutation(10)
    pieces = list(batches(split, 3, order))
    assert [len(labels) for _, labels in pieces] == [3, 3, 3, 1]
    np.testing.assert_array_equal(
        np.concatenate([images for images, _ in pieces]), everything(split)[order]
    )
    np.testing.assert_array_equal(
        np.concatenate([labels for _, labels in pieces]), split.labels[order]
    )


def test_a_folder_is_read_in_bounded_memory(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    (folder / "only").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(folder / "only" / "0.png")
    for number in range(1, 400):
        os.link(folder / "only" / "0.png", folder / "only" / f"{number}.png")
    split = load_split(str(folder), "test")
    batch_bytes = 8 * 64 * 64 * 3
    tracemalloc.start()
    for _ in batches(split, 8):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * batch_bytes < 400 * 64 * 64 * 3 / 4


def test_npz_parts_and_class_names(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        "x_train": generator.integers(0, 256, (6, 5, 4), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": generator.integers(0, 256, (2, 5, 4, 1), dtype=np.uint8),
        "y_test": np.array([0, 1]),
    }
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    assert load_split(str(path), "train").images.shape == (5, 4, 1)
    assert load_split(str(path), "test").class_names == ("0", "1", "2")
    np.savez(path, **arrays, class_names=np.array(["a", "b", "c"]))
    assert load_split(str(path), "test").class_names == ("a", "b", "c")
    np.savez(path, **arrays, class_names=np.array([b"a", b"b", "c\u00e9".encode()]))
    assert load_split(str(path), "test").class_names == ("a", "b", "c\u00e9")
    np.savez(path, **arrays, class_names=np.array([b"a", b"b", b"\xe9"]))
    with pytest.raises(DataError, match="class_names is no text"):
        load_split(str(path), "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": np.zeros((2, 5, 4), np.float32)}, "must be uint8"),
        ({"x_test": np.zeros((2, 5, 4, 2), np.uint8)}, "must be uint8"),
        ({"y_test": np.zeros((2, 1), np.int64)}, "must be integers"),
        ({"y_test": np.array([0.0, 1.0])}, "must be integers"),
        ({"y_test": np.array([0, -1])}, "labels of its test part"),
        ({"y_test": np.array([0])}, "2 images but 1 labels"),
        ({"x_test": np.array([{"a": 1}], dtype=object)}, "not a readable"),
        ({"x_test": np.zeros((0, 5, 4), np.uint8), "y_test": np.zeros(0, int)}, "is empty"),
    ],
)
def test_npz_of_another_form_is_refused(
    tmp_path: Path, change: dict[str, np.ndarray], message: str
) -> None:
    arrays = {"x_test": np.zeros((2, 5, 4), np.uint8), "y_test": np.array([0, 1])}
    np.savez(tmp_path / "set.npz", **(arrays | change))
    with pytest.raises(DataError, match=message):
        load_split(str(tmp_path / "set.npz"), "test")


def test_npz_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, x_test=np.zeros((2, 5, 4), np.uint8), y_test=np.array([0, 1]))
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:100], whole[:-30]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a readable"):
            load_split(str(path), "test")
    np.savez(path, y_test=np.array([0, 1]))
    with pytest.raises(DataError, match="has no x_test"):
        load_split(str(path), "test")


def test_unknown_data_is_refused() -> None:
    with pytest.raises(DataError, match="give digits, cifar10, a folder"):
        load_split("imagenet", "test")


@pytest.fixture
def small_cifar(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """CIFAR-10 shrunk to 4 images a batch, as (labels, pixels in planes) by batch name."""
    monkeypatch.setattr(cifar10, "PART_SIZES", {"train": 20, "test": 4})
    generator = np.random.default_rng(0)
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    return {
        name: (
            generator.integers(0, 10, 4).astype(np.uint8),
            generator.integers(0, 256, (4, 3072), dtype=np.uint8),
        )
        for name in names
    }


def check_small_cifar(root: Path, parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    split = load_split("cifar10", "train", data_dir=root)
    labels, planes = parts["data_batch_2"]
    np.testing.assert_array_equal(split.labels[4:8], labels)
    np.testing.assert_array_equal(
        everything(split)[4:8], planes.reshape(4, 3, 32, 32).transpose(0, 2, 3, 1)
    )
    assert len(load_split("cifar10", "test", data_dir=root)) == 4


def pack(root: Path, folder: str, archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(root / archive, "w:gz") as tar:
        tar.add(root / folder, folder)
    content = (root / archive).read_bytes()
    monkeypatch.setitem(
        cifar10.ARCHIVE_MD5, archive, md5(content, usedforsecurity=False).hexdigest()
    )
    for file in (root / folder).iterdir():
        file.unlink()
    (root / folder).rmdir()


def test_cifar10_binary_layout(
    tmp_path: Path, small_cifar: dict[str, tuple[np.ndarray, np.ndarray]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / cifar10.BINARY_FOLDER
    folder.mkdir()
    for name, (labels, planes) in small_cifar.items():
        np.concatenate([labels[:, None], planes], axis=1).tofile(folder / f"{name}.bin")
    check_small_cifar(tmp_path, small_cifar)
    check_small_cifar(folder, small_cifar)
    pack(tmp_path, cifar10.BINARY_FOLDER, cifar10.BINARY_ARCHIVE, monkeypatch)
    check_small_cifar(tmp_path, small_cifar)


def test_cifar10_python_layout_is_unpickled_only_with_the_right_md5(
    tmp_path: Path, small_cifar: dict[str, tuple[np.ndarray, np.ndarray]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / cifar10.PYTHON_FOLDER
    folder.mkdir()
    for name, (labels, planes) in small_cifar.items():
        content = pickle.dumps({b"labels": labels.tolist(), b"data": planes})
        (folder / name).write_bytes(content)
        monkeypatch.setitem(
            cifar10.PYTHON_MD5, name, md5(content, usedforsecurity=False).hexdigest()
        )
    check_small_cifar(tmp_path, small_cifar)

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    honest = (folder / "test_batch").read_bytes()
    (folder / "test_batch").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(DataError, match="MD5"):
        load_split("cifar10", "test", data_dir=tmp_path)
    assert not (tmp_path / "owned").exists()

    (folder / "test_batch").write_bytes(honest)
    pack(tmp_path, cifar10.PYTHON_FOLDER, cifar10.PYTHON_ARCHIVE, monkeypatch)
    check_small_cifar(tmp_path, small_cifar)
    archive = tmp_path / cifar10.PYTHON_ARCHIVE
    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(DataError, match="MD5"):
        load_split("cifar10", "test", data_dir=tmp_path)


def test_cifar10_that_is_cut_short_is_refused(
    tmp_path: Path, small_cifar: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    labels, planes = small_cifar["test_batch"]
    rows = np.concatenate([labels[:, None], planes], axis=1)
    for content, message in ((rows[:3].tobytes(), "3 images"), (rows.tobytes()[:-1], "records")):
        (tmp_path / "test_batch.bin").write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_split("cifar10", "test", data_dir=tmp_path)
    with pytest.raises(DataError, match=r"data_batch_1\.bin: cannot be read"):
        load_split("cifar10", "train", data_dir=tmp_path)


def test_missing_cifar10_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEKIT_DATA", raising=False)
    with pytest.raises(DataError, match="--download"):
        load_split("cifar10", "test")
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    with pytest.raises(DataError, match="no CIFAR-10 there"):
        load_split("cifar10", "test")


@pytest.mark.skipif("EDGEKIT_DATA" not in os.environ, reason="EDGEKIT_DATA is not set")
def test_real_cifar10_has_its_published_channel_means() -> None:
    split = load_split("cifar10", "train")
    assert isinstance(split.images, ArrayImages)
    means = split.images.array.reshape(-1, 3).mean(axis=0) / 255
    np.testing.assert_allclose(means, [0.49139968, 0.48215841, 0.44653091], atol=1e-6)
    np.testing.assert_array_equal(np.bincount(split.labels), [5000] * 10)


def test_a_view_reads_what_it_names() -> None:
    array = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1)
    split = Split("n", "train", ArrayImages(array), np.arange(8), tuple("abcdefgh"))
    view = split.take(np.array([6, 2])).take(np.array([1]))
    np.testing.assert_array_equal(everything(view).ravel(), [2])
    np.testing.assert_array_equal(view.labels, [2])
    assert [images.ravel().tolist() for images, _ in batches(view, 4)] == [[2]]


def test_a_broken_archive_member_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("other"))
    archive = tmp_path / cifar10.BINARY_ARCHIVE
    archive.write_bytes(content.getvalue())
    digest = md5(content.getvalue(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(cifar10.ARCHIVE_MD5, cifar10.BINARY_ARCHIVE, digest)
    with pytest.raises(DataError, match="has no cifar-10-batches-bin/test_batch"):
        load_split("cifar10", "test", data_dir=tmp_path)
