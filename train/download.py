"""Fetching named data sets through torchvision, when asked to."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.runtime.data.cifar10 import holds_cifar10
from edgekit.runtime.errors import DataError, MissingExtraError
from edgekit.train.vision import torchvision

try:
    from filelock import FileLock, Timeout
except ModuleNotFoundError as missing:
    raise MissingExtraError("filelock", "train") from missing

DEFAULT_DIR = Path("data")

_LOGGER = logging.getLogger(__name__)


def download(data: str, data_dir: Path | None) -> Path | None:
    """Fetch a named data set's archive, MD5-checked, unless it is there already.

    Of processes that ask for it at once, one fetches it and the others wait.

    Args:
        data: A named data set; one that comes without a download, a folder or an .npz is left
            alone.
        data_dir: Where it goes; the environment's EDGEKIT_DATA, else `data/`, by default.

    Returns:
        Where named data sets live from now on.

    Raises:
        DataError: it cannot be fetched.
    """
    if data != "cifar10":
        return data_dir
    folder = data_dir or Path(os.environ.get("EDGEKIT_DATA") or DEFAULT_DIR)
    source = torchvision.datasets.CIFAR10
    archive = folder / source.filename
    if holds_cifar10(folder) or _is_whole(archive, source.tgz_md5):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / f".{data}.lock"):
            torchvision.datasets.utils.download_url(
                source.url, str(folder), source.filename, source.tgz_md5
            )
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"cifar10: {source.url} cannot be fetched into {folder} ({error}); get "
            f"{source.filename} another way, put it there and leave out --download"
        ) from error
    return folder


def _is_whole(archive: Path, md5: str) -> bool:
    whole: bool = torchvision.datasets.utils.check_integrity(str(archive), md5)
    return whole


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock; who has to wait for it says so."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _LOGGER.warning("another process is fetching the data set; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
