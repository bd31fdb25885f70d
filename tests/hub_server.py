"""A real HTTP server on the loopback that speaks the Hub's protocol and plays its faults."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from miil21k.zoo.manifest import find_weights
from miil21k.zoo.schema import Source

if TYPE_CHECKING:
    from types import TracebackType

    from miil21k.zoo.schema import Weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def row_with(*sources: Source) -> Weights:
    """Return a row of the manifest whose sources are replaced."""
    return find_weights("tresnet_m_21k")._replace(sources=sources)


def hub_source(repo: str = "timm/net", **fields: object) -> Source:
    """Return a source on the Hub: `model.safetensors` of `repo`."""
    return Source("hub", "hub", "model.safetensors", "safetensors", "timm", repo=repo)._replace(**fields)


def mirror_source(url: str, **fields: object) -> Source:
    """Return a source at a plain address, a safetensors file unless `fields` say otherwise."""
    source = Source("url", "official", url.rpartition("/")[2], "safetensors", "timm", url=url)
    return source._replace(**fields)


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    status: answer this code instead. cut_after: close the connection after that many bytes of the body.
    body: send these bytes instead, under the honest headers of their length. pause: seconds before each block of
    `block` bytes. silent: seconds before the answer begins. chunked: tell no length. extra: further headers, or other
    values of those that a file has.
    """

    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    cut_after: int | None = None
    body: bytes | None = None
    pause: float = 0.0
    block: int = 1 << 16
    silent: float = 0.0
    chunked: bool = False
    extra: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Request:
    """One request that came in; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class HubServer:
    """Use as a context manager; `url` is what HF_ENDPOINT is set to.

    ranges: whether Range is honoured. etags: whether files have an ETag, weak: one that
    promises no equal bytes. modified: the Last-Modified of every file. Faults are taken one per GET (or HEAD,
    for those of `head_faults`) whose path contains the key; the last one of a list stays when `sticky`.
    """

    ranges: bool = True
    etags: bool = True
    weak: bool = False
    modified: str | None = None
    sticky: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    head_faults: dict[str, list[Fault]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> HubServer:
        outer = self

        class Handler(_Handler):
            hub = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def publish(self, repo: str, file: str, content: bytes) -> None:
        """Put a file into a model repository (one commit, branch main)."""
        self.repos.setdefault(repo, {})[file] = content

    def mirror(self, path: str, content: bytes) -> str:
        """Put a file under a plain address; returns its URL."""
        self.files[path] = content
        return f"{self.url}{path}"

    def count(self, method: str, part: str = "") -> int:
        """Return how many requests of that method had `part` in their path."""
        return sum(r.method == method and part in r.path for r in self.requests)

    def take_fault(self, method: str, path: str) -> Fault:
        table = self.head_faults if method == "HEAD" else self.faults
        for part, queue in table.items():
            if part in path and queue:
                return queue[0] if self.sticky and len(queue) == 1 else queue.pop(0)
        return Fault()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Stay silent: the log is `requests`."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(Request(self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        fault = self.hub.take_fault(self.command, path)
        try:
            time.sleep(fault.silent)
            if fault.status is not None:
                self._empty(fault.status, *fault.headers)
            elif path.startswith("/api/models/"):
                self._info(path.removeprefix("/api/models/"))
            elif "/resolve/" in path:
                self._resolve(path[1:])
            elif path.startswith("/cdn/"):
                self._file(self._blob(path.removeprefix("/cdn/")), fault)
            else:
                self._file(self.hub.files.get(path), fault)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _empty(self, status: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _info(self, rest: str) -> None:
        repo = rest.partition("/revision/")[0].partition("/tree/")[0]
        if repo not in self.hub.repos:
            self._empty(404, ("X-Error-Code", "RepoNotFound"))
            return
        siblings = [{"rfilename": name} for name in self.hub.repos[repo]]
        self._file(json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode(), Fault())

    def _resolve(self, path: str) -> None:
        """Redirect to the content store, as the Hub does for large files, with its headers about the target."""
        repo, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        files = self.hub.repos.get(repo)
        if files is None:
            self._empty(401, ("X-Error-Code", "RepoNotFound"))
        elif revision not in ("main", COMMIT):
            self._empty(404, ("X-Error-Code", "RevisionNotFound"))
        elif name not in files:
            self._empty(404, ("X-Error-Code", "EntryNotFound"), ("X-Repo-Commit", COMMIT))
        else:
            digest = hashlib.sha256(files[name]).hexdigest()
            self._empty(
                302,
                # Another host than the Hub's: its client stops at such a redirect and reads these headers.
                ("Location", f"{self.hub.url.replace('127.0.0.1', 'localhost')}/cdn/{digest}"),
                ("X-Repo-Commit", COMMIT),
                ("X-Linked-Etag", f'"{digest}"'),
                ("X-Linked-Size", str(len(files[name]))),
            )

    def _blob(self, digest: str) -> bytes | None:
        contents = (c for files in self.hub.repos.values() for c in files.values())
        return next((c for c in contents if hashlib.sha256(c).hexdigest() == digest), None)

    def _file(self, content: bytes | None, fault: Fault) -> None:
        if content is None:
            self._empty(404)
            return
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        body = content if fault.body is None else fault.body
        start = self._start(etag)
        if start >= len(body) and start:
            self._empty(416, ("Content-Range", f"bytes */{len(body)}"))
            return
        self.send_response(206 if start else 200)
        for name, value in fault.extra:
            self.send_header(name, value)
        if start and not fault.extra:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if self.hub.etags:
            self.send_header("ETag", f"W/{etag}" if self.hub.weak else etag)
        if self.hub.modified is not None:
            self.send_header("Last-Modified", self.hub.modified)
        if fault.chunked:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if self.command == "GET":
            self._send(body[start:], fault)

    def _start(self, etag: str) -> int:
        """Return the first byte that was asked for; 0 where ranges are off or the file is another one by now."""
        wanted = self.headers.get("Range", "")
        fresh = self.headers.get("If-Range") in (None, etag, f"W/{etag}", self.hub.modified)
        return int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted and self.hub.ranges and fresh else 0

    def _send(self, body: bytes, fault: Fault) -> None:
        whole = body if fault.cut_after is None else body[: fault.cut_after]
        for at in range(0, len(whole), fault.block):
            time.sleep(fault.pause)
            self.wfile.write(whole[at : at + fault.block])
            self.wfile.flush()
        if fault.cut_after is not None or fault.chunked:
            self.close_connection = True
