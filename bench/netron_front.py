"""What stands before Netron's server: its page for one model or for two, with edgekit's figures.

| path | answer |
|---|---|
| `/` | one model: on to its page; two: the page that shows both |
| `/NAME/` | Netron's page for the model NAME, with our script and style added |
| `/NAME/edgekit.json` | the model's figures and changes, for that script |
| `/NAME/data/FILE` | the model, or one of its external data files; no other |
| `/NAME/...` | anything else of Netron's, from its server |
| `/edgekit/FILE` | our own scripts and styles |

Netron's server runs without a model: it can hold but one, and would let out every file below it.

Netron's page would ask an outside service where the user is and report what it is used for. Every
answer here carries a policy that confines the page to this address; the page is told that it is no
packaged release, which is how Netron itself turns its reports and its reminder to update off.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from edgekit.bench.annotate import AnnotatedModel

HOST = "127.0.0.1"
TIMEOUT_S = 60
POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "style-src 'self' 'unsafe-inline'",
        "frame-ancestors 'self'",
        "form-action 'none'",
    )
)
_PAGES = files("edgekit.bench") / "netron_pages"
_BINARY = "application/octet-stream"
_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
}
_ADDED = '<link rel="stylesheet" href="edgekit.css"><script src="edgekit.js" defer></script></head>'
# Netron asks no consent, and no outside service where the user is, where this cookie is set.
_COOKIE = "consent=1; SameSite=Strict; Path="


@dataclass(frozen=True)
class Pane:
    """One model's page.

    Attributes:
        name: The first part of its path.
        model: The model with its figures.
        changes: What became of a node, by node name.
    """

    name: str
    model: AnnotatedModel
    changes: Mapping[str, str] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """The model's name in the page's requests; Netron goes by how it ends."""
        name = self.model.path.name
        return name if name.lower().endswith(".onnx") else f"{name}.onnx"

    def to_json(self) -> dict[str, Any]:
        """What the script on the page reads."""
        return {"attachment": self.model.attachment, "changes": self.changes}

    def external(self, name: str) -> Path | None:
        """The file of external data with that path below the model's folder; None for any other."""
        folder = self.model.path.parent
        parts = (part for part in self.model.files[1:] if part == folder / name)
        return next(parts, None)


class Front(ThreadingHTTPServer):
    """The server that the browser talks to.

    Args:
        port: Port on 127.0.0.1; 0 takes any free one.
        netron_port: Where Netron's server listens.
        panes: One model's page, or two.
        comparison: What the page with two panes shows beside them; None for one pane.

    Raises:
        OSError: the port cannot be used.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        port: int,
        netron_port: int,
        panes: Sequence[Pane],
        comparison: Mapping[str, Any] | None = None,
    ) -> None:
        self.netron_port = netron_port
        self.panes = {pane.name: pane for pane in panes}
        self.comparison = comparison
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        """The address to open."""
        return f"http://{HOST}:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: the browser has gone, or Netron's server is being stopped."""


class _Handler(BaseHTTPRequestHandler):
    server: Front

    def do_GET(self) -> None:
        hosts = (f"{HOST}:{self.server.server_port}", f"localhost:{self.server.server_port}")
        if (
            self.headers.get("Host") not in hosts
        ):  # a page elsewhere, under a name made to point here
            self._refuse(HTTPStatus.FORBIDDEN)
            return
        path = unquote(urlsplit(self.path).path)
        first, _, rest = path.removeprefix("/").partition("/")
        if path == "/":
            self._start()
        elif first == "edgekit":
            self._own(rest)
        elif first in self.server.panes:
            self._pane(self.server.panes[first], rest)
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Keep standard error for what concerns the user."""

    def _start(self) -> None:
        if self.server.comparison is not None:
            self._own("compare.html")
            return
        self._begin(HTTPStatus.FOUND, {"Location": f"/{next(iter(self.server.panes))}/"})

    def _own(self, name: str) -> None:
        if name == "compare.json" and self.server.comparison is not None:
            self._send(json.dumps(self.server.comparison).encode(), _TYPES["json"])
        elif re.fullmatch(r"[a-z]+\.(css|html|js)", name) and (_PAGES / name).is_file():
            self._send((_PAGES / name).read_bytes(), _TYPES[name.rpartition(".")[2]])
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def _pane(self, pane: Pane, rest: str) -> None:
        if rest == "edgekit.json":
            self._send(json.dumps(pane.to_json()).encode(), _TYPES["json"])
        elif rest in ("edgekit.css", "edgekit.js"):
            self._own(rest)
        elif rest.startswith("data/"):
            self._data(pane, rest.removeprefix("data/"))
        else:
            self._netron(pane, rest)

    def _data(self, pane: Pane, name: str) -> None:
        if name == pane.file_name:
            self._send(pane.model.content, _BINARY)
            return
        path = pane.external(name)
        if path is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._begin(HTTPStatus.OK, {"Content-Type": _BINARY, "Content-Length": str(size)})
            if self.command != "HEAD":
                shutil.copyfileobj(file, self.wfile)

    def _netron(self, pane: Pane, rest: str) -> None:
        """Hand on an answer of Netron's own server, its page with our additions."""
        connection = http.client.HTTPConnection(HOST, self.server.netron_port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", f"/{quote(rest)}")
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status != HTTPStatus.OK:
            self._refuse(HTTPStatus.NOT_FOUND)
        elif rest in ("", "index.html"):
            cookie = {"Set-Cookie": f"{_COOKIE}/{pane.name}/"}
            self._send(_adapted(content.decode(), pane).encode(), _TYPES["html"], cookie)
        else:
            self._send(content, answer.headers.get("Content-Type", _BINARY))

    def _send(self, content: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        length = {"Content-Type": kind, "Content-Length": str(len(content))}
        self._begin(HTTPStatus.OK, {**length, **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status: HTTPStatus) -> None:
        self._begin(status, {"Content-Length": "0"})

    def _begin(self, status: HTTPStatus, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        fixed = {
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        for name, value in (fixed | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()


def _adapted(page: str, pane: Pane) -> str:
    """Netron's page for a model, with our script and style, and without its reports."""
    name = escape(pane.model.path.name)
    metas = (
        '<meta name="version" content="0.0.0">'
        f'<meta name="file" content="/data/{escape(quote(pane.file_name))}">'
        f'<meta name="name" content="{name}"><meta name="identifier" content="{name}">'
    )
    page = re.sub(r'<meta name="version" content="[^"]*">', lambda _: metas, page)
    page = re.sub(r'<meta name="date" content="[^"]*">', "", page)
    return page.replace("</head>", _ADDED, 1)
