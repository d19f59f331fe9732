"""Netron's real server, over loopback."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest

from edgekit.bench.annotate import annotate
from edgekit.bench.netron import Serving, show_model
from edgekit.runtime.errors import InputError, ModelFileError

SERVE = """
import sys
from pathlib import Path
from edgekit.bench.graph_diff import diff_graphs
from edgekit.bench.netron import Serving, show_comparison, show_model
from edgekit.export.graph import load_graph
serving = Serving(0, browse=False, ready=lambda url: print(url, flush=True))
paths = tuple(map(Path, sys.argv[1:]))
if len(paths) == 1:
    show_model(paths[0], serving=serving)
else:
    show_comparison(paths, diff_graphs(*map(load_graph, paths)), serving=serving)
print("ended", flush=True)
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no SIGINT there")


@contextmanager
def served(*paths: Path) -> Iterator[str]:
    """Serve models until the block ends, then press Ctrl-C and see that all has ended well."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, *map(str, paths)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            url = server.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), server.stderr.read()
            yield url
        except BaseException:
            server.kill()
            raise
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0
        assert server.stdout.read() == "ended\n"
        assert server.stderr.read() == ""
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=2)


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        content: bytes = answer.read()
        return content


def status(url: str, path: str, host: str | None = None) -> int:
    """Status of a request whose path and host are sent as they are."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.putrequest("GET", path, skip_host=host is not None)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    code = connection.getresponse().status
    connection.close()
    return code


def test_the_page_and_the_annotated_model_are_served_until_ctrl_c(
    classifier_file: Callable[..., Path],
) -> None:
    path = classifier_file("a model.onnx")
    before = {part: part.read_bytes() for part in path.parent.iterdir()}
    with served(path) as url:
        page = fetch(url).decode()
        assert "Netron" in page
        assert '<meta name="file" content="/data/a%20model.onnx">' in page
        assert fetch(f"{url}/model/data/a%20model.onnx") == annotate(path).content
        figures = json.loads(fetch(f"{url}/model/edgekit.json"))
        assert figures["attachment"] == annotate(path).attachment
        assert b"view.View" in fetch(f"{url}/model/view.js")
    assert {part: part.read_bytes() for part in path.parent.iterdir()} == before


def test_the_page_may_reach_nothing_outside(classifier_file: Callable[..., Path]) -> None:
    with (
        served(classifier_file()) as url,
        urllib.request.urlopen(f"{url}/model/", timeout=10) as answer,
    ):
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
        page = answer.read().decode()
    assert '<meta name="version" content="0.0.0">' in page  # what turns Netron's reports off
    assert '<meta name="date"' not in page  # and its reminder to update


def test_no_other_file_and_no_other_host_is_served(
    classifier_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(
        onnx.load(classifier_file()),
        path,
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
    )
    (tmp_path / "secret.txt").write_text("secret")
    with served(path) as url:
        assert fetch(f"{url}/model/data/m.data") == (tmp_path / "m.data").read_bytes()
        for wrong in (
            "/model/data/secret.txt",
            "/model/data/../secret.txt",
            "/model/data/%2e%2e/secret.txt",
            "/model/../data/m.onnx",
            "/model/server.py",
            "/edgekit/../annotate.py",
            "/edgekit/compare.json",
            "/other/",
        ):
            assert status(url, wrong) == 404, wrong
        assert status(url, "/model/", host="evil.example:80") == 403
        assert status(url, "/model/") == 200


def test_two_models_are_served_on_one_page(classifier_file: Callable[..., Path]) -> None:
    before, after = classifier_file("before.onnx"), classifier_file("after.onnx", zeros=9)
    with served(before, after) as url:
        assert "<iframe" in fetch(url).decode()
        for name, path in (("before", before), ("after", after)):
            assert path.name in fetch(f"{url}/{name}/").decode()
            proto = onnx.load_from_string(fetch(f"{url}/{name}/data/{path.name}"))
            assert proto.graph.initializer[0].raw_data == (
                onnx.load(path).graph.initializer[0].raw_data
            )
            assert json.loads(fetch(f"{url}/{name}/edgekit.json"))["changes"] == {"conv": "changed"}
        diff = json.loads(fetch(f"{url}/edgekit/compare.json"))
        assert diff["before"] == str(before)
        assert diff["counts"]["changed"] == 1


def test_a_port_in_use_says_so(classifier_file: Callable[..., Path]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} cannot be used .*--port"):
            show_model(classifier_file(), serving=Serving(port, browse=False))


def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="0 to 65535"):
        Serving(70000)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        show_model(tmp_path / "absent.onnx")
