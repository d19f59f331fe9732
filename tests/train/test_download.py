from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest

from edgekit.runtime.errors import DataError
from edgekit.train.download import download


def test_what_needs_no_download_is_left_alone(tmp_path: Path) -> None:
    assert download("digits", None) is None
    assert download("some/folder", tmp_path) == tmp_path


def test_a_server_out_of_reach_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(DataError, match="put it there and leave out --download"):
        download("cifar10", tmp_path)
