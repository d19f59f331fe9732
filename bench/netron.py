"""Models in Netron, on this machine only, until Ctrl-C.

Netron's own server runs on a port that the system chooses; `netron_front` stands before it on the
port that the user asked for. Annotated models stay in memory: no copy is written, and external data
is read from where it lies.
"""

from __future__ import annotations

import logging
import threading
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netron

from edgekit.bench.annotate import annotate
from edgekit.bench.graph_diff import Change, GraphDiff, NodeChange
from edgekit.bench.measured import Measured, read_measured
from edgekit.bench.netron_front import HOST, Front, Pane
from edgekit.bench.shapes import Shape
from edgekit.runtime.errors import InputError

LARGEST_PORT = 65535
SIDES = ("before", "after")
_POLL_S = 0.2

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Serving:
    """How pages are served.

    Attributes:
        port: Port on 127.0.0.1; 0 takes any free one.
        browse: Open the page in a browser.
        ready: Called with the page's address once it can be fetched.
    """

    port: int = 8080
    browse: bool = True
    ready: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= LARGEST_PORT:
            raise InputError(f"port {self.port} must be 0 to {LARGEST_PORT}")


def show_model(
    path: Path,
    input_shapes: Mapping[str, Shape] | None = None,
    *,
    results: Path | None = None,
    serving: Serving | None = None,
) -> None:
    """Show a model with edgekit's figures in Netron; return when the user presses Ctrl-C.

    Args:
        path: An ONNX file.
        input_shapes: Shapes of inputs by name, for axes that are open in the file.
        results: A file of `edgekit bench --format json` with what was measured on it.
        serving: Where to serve the page.

    Raises:
        ModelFileError: the file is missing or damaged, or its shapes cannot be inferred.
        InputError: the port is in use, or the results cannot be used.
    """
    pane = Pane("model", annotate(path, input_shapes, measured=_measured(results, path)))
    _serve([pane], None, serving or Serving())


def show_comparison(
    paths: tuple[Path, Path],
    diff: GraphDiff,
    input_shapes: Mapping[str, Shape] | None = None,
    *,
    results: Path | None = None,
    serving: Serving | None = None,
) -> None:
    """Show two versions of a model side by side, changed nodes coloured, until Ctrl-C.

    Args:
        paths: The older ONNX file and the newer one.
        diff: What became of each node between them.
        input_shapes: Shapes of inputs by name, for axes that are open in the files.
        results: A file of `edgekit bench --format json` with what was measured on both.
        serving: Where to serve the page.

    Raises:
        ModelFileError: a file is missing or damaged, or its shapes cannot be inferred.
        InputError: the port is in use, or the results cannot be used.
    """
    panes = []
    for name, path, nodes in zip(SIDES, paths, (diff.before(), diff.after()), strict=True):
        measured = _measured(results, path)
        model = annotate(path, input_shapes, measured=measured, notes=_notes(nodes), packed=True)
        panes.append(Pane(name, model, _colours(nodes)))
    titles = {name: str(path) for name, path in zip(SIDES, paths, strict=True)}
    _serve(panes, {**titles, **diff.to_json()}, serving or Serving())


def _measured(results: Path | None, path: Path) -> Measured | None:
    return None if results is None else read_measured(results, path)


def _colours(nodes: Mapping[str, NodeChange]) -> dict[str, str]:
    return {n: node.change.value for n, node in nodes.items() if node.change is not Change.SAME}


def _notes(nodes: Mapping[str, NodeChange]) -> dict[str, dict[str, str]]:
    return {
        name: {"change": "; ".join([node.change.value, *node.reasons])}
        for name, node in nodes.items()
        if node.change is not Change.SAME
    }


def _serve(panes: Sequence[Pane], comparison: Mapping[str, Any] | None, serving: Serving) -> None:
    with ExitStack() as servers:
        netron_port = servers.enter_context(_netron_server())
        try:
            front = servers.enter_context(Front(serving.port, netron_port, panes, comparison))
        except OSError as error:
            raise InputError(
                f"port {serving.port} cannot be used ({error.strerror}): choose another with "
                "--port, 0 for any free one"
            ) from error
        thread = threading.Thread(target=front.serve_forever, args=(_POLL_S,), daemon=True)
        thread.start()
        try:
            _announce(front.url, serving)
            while thread.is_alive():
                thread.join(_POLL_S)  # without a limit, Windows would not see Ctrl-C
        except KeyboardInterrupt:
            pass
        finally:
            front.shutdown()


def _announce(url: str, serving: Serving) -> None:
    if serving.ready is not None:
        serving.ready(url)
    if serving.browse and not webbrowser.open(url):
        _log.warning("no browser could be opened: open %s yourself", url)


@contextmanager
def _netron_server() -> Iterator[int]:
    """Netron's own server, without a model; yields its port."""
    logging.getLogger("netron").setLevel(logging.WARNING)
    try:
        address = netron.serve(None, address=(HOST, 0))
    except OSError as error:
        raise InputError(f"no free port for Netron's server ({error.strerror})") from error
    try:
        yield address[1]
    finally:
        netron.stop(address)
