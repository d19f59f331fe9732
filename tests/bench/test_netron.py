"""Netron's real server, over loopback."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.bench.netron import serve
from edgekit.runtime.errors import InputError, ModelFileError

SERVE = """
import sys
from pathlib import Path
from edgekit.bench.netron import serve
serve(Path(sys.argv[1]), port=0, browse=False, ready=lambda url: print(url, flush=True))
print("ended", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no SIGINT there")
def test_the_page_and_the_model_are_served_until_ctrl_c(
    classifier_file: Callable[..., Path],
) -> None:
    path = classifier_file()
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        url = server.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url, timeout=10) as page:
            assert "Netron" in page.read().decode()
        with urllib.request.urlopen(f"{url}/data/{path.name}", timeout=10) as model:
            assert model.read() == path.read_bytes()
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0
        assert server.stdout.read() == "ended\n"
        assert "Traceback" not in server.stderr.read()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=2)


def test_a_port_in_use_says_so(classifier_file: Callable[..., Path]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} cannot be used .*--port"):
            serve(classifier_file(), port=port, browse=False)


def test_a_port_that_is_none_is_refused(classifier_file: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="0 to 65535"):
        serve(classifier_file(), port=70000, browse=False)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        serve(tmp_path / "absent.onnx", browse=False)
