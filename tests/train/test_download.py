from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError

import pytest

from edgekit.runtime.errors import DataError
from edgekit.train.download import download
from edgekit.train.vision import torchvision


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


@pytest.mark.parametrize(
    "there",
    ["cifar-10-batches-bin/test_batch.bin", "test_batch", "cifar-10-binary.tar.gz"],
)
def test_what_is_there_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    monkeypatch.delattr("urllib.request.urlopen")
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).touch()
    before = sorted(tmp_path.rglob("*"))
    assert download("cifar10", tmp_path) == tmp_path
    assert sorted(tmp_path.rglob("*")) == before


def test_a_whole_archive_needs_no_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = torchvision.datasets.CIFAR10
    monkeypatch.delattr("urllib.request.urlopen")
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(b"whole").hexdigest())
    (tmp_path / source.filename).write_bytes(b"whole")
    assert download("cifar10", tmp_path) == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == [source.filename]


def test_of_two_that_ask_at_once_one_fetches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = bytes(range(256)) * 4096
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "images.tar.gz").write_bytes(archive)
    source = torchvision.datasets.CIFAR10
    monkeypatch.setattr(source, "filename", "images.tar.gz")
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(archive).hexdigest())
    with _served(tmp_path / "server") as (address, requests), ThreadPoolExecutor(2) as two:
        monkeypatch.setattr(source, "url", f"{address}/images.tar.gz")
        download("cifar10", tmp_path / "alone")
        of_one = len(requests)
        folders = list(two.map(partial(download, "cifar10"), [tmp_path / "data"] * 2))
    assert folders == [tmp_path / "data"] * 2
    assert (tmp_path / "data" / "images.tar.gz").read_bytes() == archive
    assert len(requests) == 2 * of_one


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A server's address, and what it was asked for so far."""
    requests: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            with suppress(ConnectionError):  # who asks for the address alone hangs up
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
