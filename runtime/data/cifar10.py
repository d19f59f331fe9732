"""CIFAR-10 from its official archives: binary or python layout, packed or unpacked."""

from __future__ import annotations

import hashlib
import io
import pickle  # only for files whose MD5 is the published one
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.data.source import ArrayImages, Split
from edgekit.runtime.errors import DataError

CLASS_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
IMAGE_BYTES = 3 * 32 * 32
PART_SIZES = {"train": 50_000, "test": 10_000}

BINARY_FOLDER, PYTHON_FOLDER = "cifar-10-batches-bin", "cifar-10-batches-py"
BINARY_ARCHIVE, PYTHON_ARCHIVE = "cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"
# Published on the data set's page; the python batches' sums are those that torchvision checks.
ARCHIVE_MD5 = {
    BINARY_ARCHIVE: "c32a1d4ab5d03f1284b67883e8d87530",
    PYTHON_ARCHIVE: "c58f30108f718f92721af3b95e74349a",
}
PYTHON_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}

ReadFile = Callable[[str], bytes]


def load_cifar10(part: str, data_dir: Path | None) -> Split:
    """Load a part of CIFAR-10: uint8 [50000 or 10000, 32, 32, 3].

    Args:
        part: "train" or "test".
        data_dir: The folder that holds the data set's folder or archive, or that folder itself.

    Raises:
        DataError: the data set is not there, or a file of it is damaged.
    """
    if data_dir is None:
        raise DataError(
            "cifar10: say where it lives with --data-dir or EDGEKIT_DATA, or give --download"
        )
    batches = [f"data_batch_{n}" for n in range(1, 6)] if part == "train" else ["test_batch"]
    decode, read = _find(data_dir)
    labels, images = map(np.concatenate, zip(*_parts(batches, decode, read), strict=True))
    if len(labels) != PART_SIZES[part]:
        raise DataError(
            f"{data_dir}: CIFAR-10's {part} part has {len(labels)} images instead of "
            f"{PART_SIZES[part]}; unpack the archive again"
        )
    return Split("cifar10", part, ArrayImages(images), labels, CLASS_NAMES)


def holds_cifar10(data_dir: Path) -> bool:
    """Whether a folder has the data set, other than in the archive that `--download` fetches."""
    files = ("test_batch.bin", "test_batch")
    folders = (data_dir / BINARY_FOLDER, data_dir / PYTHON_FOLDER, data_dir)
    unpacked = any((folder / name).is_file() for folder in folders for name in files)
    return unpacked or (data_dir / BINARY_ARCHIVE).is_file()


def _parts(
    batches: Iterable[str], decode: Decode, read: ReadFile
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Labels and images [10000, 32, 32, 3] of each file, one file's planes in memory at a time."""
    for name in batches:
        labels, pixels = decode(name, read)
        planes = pixels.reshape(-1, 3, 32, 32)
        yield labels.astype(np.int64), np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


Decode = Callable[[str, ReadFile], tuple[NDArray[np.uint8], NDArray[np.uint8]]]


def _find(data_dir: Path) -> tuple[Decode, ReadFile]:
    """The layout that is there: its decoder, and what reads a file of it by name."""
    for folder in (data_dir / BINARY_FOLDER, data_dir):
        if (folder / "test_batch.bin").is_file():
            return _decode_binary, _reader(folder)
    for folder in (data_dir / PYTHON_FOLDER, data_dir):
        if (folder / "test_batch").is_file():
            return _decode_python, _reader(folder)
    if (data_dir / BINARY_ARCHIVE).is_file():
        return _decode_binary, _archive_reader(data_dir / BINARY_ARCHIVE, BINARY_FOLDER)
    if (data_dir / PYTHON_ARCHIVE).is_file():
        return _decode_python, _archive_reader(data_dir / PYTHON_ARCHIVE, PYTHON_FOLDER)
    raise DataError(
        f"{data_dir}: no CIFAR-10 there (looked for {BINARY_FOLDER}, {PYTHON_FOLDER} and the "
        ".tar.gz archives); correct --data-dir or EDGEKIT_DATA, or give --download"
    )


def _reader(folder: Path) -> ReadFile:
    def read(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            raise DataError(
                f"{folder / name}: cannot be read ({error.strerror}); unpack the archive again"
            ) from error

    return read


def _archive_reader(archive: Path, folder: str) -> ReadFile:
    """Reads members in place; nothing is extracted to disk."""
    packed = archive.read_bytes()
    _check_md5(packed, ARCHIVE_MD5[archive.name], archive)

    def read(name: str) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as tar:
            member = next((m for m in tar if m.isfile() and m.name == f"{folder}/{name}"), None)
            content = member and tar.extractfile(member)
            if not content:
                raise DataError(f"{archive}: has no {folder}/{name}; download it again")
            return content.read()

    return read


def _decode_binary(name: str, read: ReadFile) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rows = np.frombuffer(read(f"{name}.bin"), np.uint8)
    if rows.size == 0 or rows.size % (1 + IMAGE_BYTES):
        raise DataError(f"{name}.bin: {rows.size} bytes are not whole records; unpack it again")
    records = rows.reshape(-1, 1 + IMAGE_BYTES)
    return records[:, 0], records[:, 1:]


def _decode_python(name: str, read: ReadFile) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    pickled = read(name)
    _check_md5(pickled, PYTHON_MD5[name], name)
    batch = pickle.loads(pickled, encoding="bytes")  # noqa: S301 - its MD5 was checked
    return np.asarray(batch[b"labels"], np.uint8), batch[b"data"]


def _check_md5(content: bytes, expected: str, what: object) -> None:
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if actual != expected:
        raise DataError(
            f"{what}: MD5 is {actual} where CIFAR-10's is {expected}; download it again"
        )
