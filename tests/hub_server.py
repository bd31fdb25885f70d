"""A real HTTP server on the loopback that speaks the Hub's protocol and plays its faults."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

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
    for those of `head_faults`, or POST and PUT, for `write_faults`) whose path contains the key; the last one of a list
    stays when `sticky`. Tokens: who may write, by token; `private` repositories answer their owner alone. Files of
    other branches than main lie in `branches`, by repository and name.
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
    write_faults: dict[str, list[Fault]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    branches: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
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

    def tree(self, repo: str, revision: str) -> dict[str, bytes] | None:
        """Return the files of a revision, None where there is none of that name."""
        return self.repos.get(repo) if revision in ("main", COMMIT) else self.branches.get((repo, revision))

    def take_fault(self, method: str, path: str) -> Fault:
        table = {"HEAD": self.head_faults, "GET": self.faults}.get(method, self.write_faults)
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

    def do_POST(self) -> None:
        self._write()

    def do_PUT(self) -> None:
        self._write()

    def _write(self) -> None:
        """Take what uploads consist of: a repository, a branch, how each file is sent, large files, the commit."""
        path = urlsplit(self.path).path
        body = self._body()
        self.hub.requests.append(Request(self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        fault = self.hub.take_fault(self.command, path)
        if fault.status is not None:
            self._empty(fault.status, *fault.headers)
        elif path.startswith("/lfs/"):
            self._store(path.removeprefix("/lfs/"), body)
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif self._owner() is None:
            self._empty(401)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        else:
            repo, action, revision = self._split(path)
            if repo not in self.hub.repos:
                self._empty(404, ("X-Error-Code", "RepoNotFound"))
            elif repo.partition("/")[0] != self._owner():
                self._empty(403)
            elif action == "branch":
                self.hub.branches[repo, revision] = dict(self.hub.repos[repo])
                self._json({})
            elif self.hub.tree(repo, revision) is None:
                self._empty(404, ("X-Error-Code", "RevisionNotFound"))
            else:
                {"preupload": self._preupload, "commit": self._commit}[action](repo, revision, body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        blocks = []
        while size := int(self.rfile.readline(), 16):
            blocks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(blocks)

    def _split(self, path: str) -> tuple[str, str, str]:
        owner, name, action, revision = path.removeprefix("/api/models/").split("/", 3)
        return f"{owner}/{name}", action, unquote(revision)

    def _owner(self) -> str | None:
        """Return whose token came with the request."""
        return self.hub.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def _json(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _create(self, wanted: dict[str, str]) -> None:
        repo = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] != self._owner():
            self._empty(403)
            return
        answer = {"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo}
        if repo in self.hub.repos:
            self._json(answer, 409)
            return
        self.hub.repos[repo] = {}
        if wanted.get("visibility") == "private" or wanted.get("private"):
            self.hub.private.add(repo)
        self._json(answer)

    def _preupload(self, repo: str, revision: str, body: bytes) -> None:
        """Tell for each file whether it goes into the commit or into the store of large files."""
        files = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for f in json.loads(body)["files"]
        ]
        self._json({"files": files})

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = []
        for one in wanted["objects"]:
            known = one["oid"] in self.hub.stored
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}", "header": {}}}
            objects.append({"oid": one["oid"], "size": one["size"], **({} if known else {"actions": upload})})
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, oid: str, body: bytes) -> None:
        whole = hashlib.sha256(body).hexdigest() == oid
        if whole:
            self.hub.stored[oid] = body
        self._empty(200 if whole else 400)

    def _commit(self, repo: str, revision: str, body: bytes) -> None:
        files = self.hub.tree(repo, revision)
        assert files is not None
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
        url = f"{self.hub.url}/{repo}/commit/{COMMIT}"
        self._json({"success": True, "commitOid": COMMIT, "commitUrl": url})

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
        if repo not in self.hub.repos or self._hidden(repo):
            self._empty(404, ("X-Error-Code", "RepoNotFound"))
            return
        siblings = [{"rfilename": name} for name in self.hub.repos[repo]]
        self._file(json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode(), Fault())

    def _resolve(self, path: str) -> None:
        """Redirect to the content store, as the Hub does for large files, with its headers about the target."""
        repo, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        files = self.hub.repos.get(repo)
        if files is None or self._hidden(repo):
            self._empty(401, ("X-Error-Code", "RepoNotFound"))
        elif (files := self.hub.tree(repo, revision)) is None:
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

    def _hidden(self, repo: str) -> bool:
        return repo in self.hub.private and repo.partition("/")[0] != self._owner()

    def _blob(self, digest: str) -> bytes | None:
        trees = [*self.hub.repos.values(), *self.hub.branches.values()]
        contents = (c for files in trees for c in files.values())
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
