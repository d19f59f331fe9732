"""Fetching named data sets, when asked to."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.error import URLError

from edgekit.runtime.errors import DataError
from edgekit.train.vision import torchvision


def download_cifar10(data_dir: Path | None) -> None:
    """Fetch CIFAR-10's archive with torchvision, MD5-checked, unless it is there.

    Raises:
        DataError: there is no folder to put it in, or it cannot be fetched.
    """
    folder = data_dir or Path(os.environ.get("EDGEKIT_DATA", ""))
    if folder == Path():
        raise DataError("cifar10: say where to put it with --data-dir or EDGEKIT_DATA")
    source = torchvision.datasets.CIFAR10
    try:
        torchvision.datasets.utils.download_url(
            source.url, str(folder), source.filename, source.tgz_md5
        )
    except (URLError, OSError, RuntimeError) as error:
        raise DataError(
            f"cifar10: cannot be downloaded from {source.url}: {error}; fetch it by hand into "
            f"{folder}"
        ) from error
