"""Netron's own server, on this machine only, until Ctrl-C."""

from __future__ import annotations

import logging
import socket
import webbrowser
from collections.abc import Callable
from pathlib import Path

import netron

from edgekit.runtime.errors import InputError, ModelFileError

HOST = "127.0.0.1"
LARGEST_PORT = 65535

_log = logging.getLogger(__name__)


def serve(
    path: Path,
    *,
    port: int = 8080,
    browse: bool = True,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Show a model in Netron; return when the user presses Ctrl-C.

    Args:
        path: The model file.
        port: Port on 127.0.0.1; 0 takes any free one.
        browse: Open the page in a browser.
        ready: Called with the page's address once it can be fetched.

    Raises:
        ModelFileError: the file does not exist.
        InputError: the port is in use, or is none.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file; check the path")
    _check_port(port)
    logging.getLogger("netron").setLevel(logging.WARNING)
    try:
        address = netron.start(str(path), address=(HOST, port), browse=False)
    except OSError as error:  # taken between the check and the start
        raise InputError(
            f"port {port} cannot be used ({error.strerror}): choose another"
        ) from error
    url = f"http://{address[0]}:{address[1]}"
    try:
        if ready is not None:
            ready(url)
        if browse and not webbrowser.open(url):
            _log.warning("no browser could be opened: open %s yourself", url)
        netron.wait()  # returns after Ctrl-C
    except KeyboardInterrupt:
        pass
    finally:
        netron.stop(address)


def _check_port(port: int) -> None:
    if not 0 <= port <= LARGEST_PORT:
        raise InputError(f"port {port} must be 0 to {LARGEST_PORT}")
    if port == 0:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used ({error.strerror}): choose another with --port, "
                "0 for any free one"
            ) from error
