"""The live gallery: what it shows, what it saves, and what it keeps to itself."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("lancedb", reason="the extra 'find' is not installed")

import uvicorn
from gallery_browser import ACT, BROWSER, EXPECTED, acting, odd_birds, seen_by_browser
from pictures import made_up
from PIL import Image
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from miil21k.errors import UsageError
from miil21k.find.gallery import page_file
from miil21k.find.labels import Correction, read_corrections
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.load import load_label_space
from miil21k.serve.gallery import MOST_BYTES, LiveGallery
from miil21k.serve.options import ServeOptions

CONCEPTS = concepts_of(load_label_space("in1k"))
ANIMAL, BIRD = ("n00015388", "animal"), ("n01503061", "bird")
JSON = "application/json"


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Two pictures, one of whose names is no UTF-8, and a file that is none."""
    files = [tmp_path / name for name in ("bird.jpg", "od\udcffd.png", "text.html")]
    Image.new("RGB", (500, 300), (9, 120, 90)).save(files[0])
    Image.new("RGB", (50, 30), (90, 120, 9)).save(str(tmp_path / "one.png"))
    (tmp_path / "one.png").rename(files[1])
    files[2].write_text("<script>alert(1)</script>")
    shares = [np.array([0.9], np.float16)] * 3
    classes = [[0]] * 3
    made_up(tmp_path / "p.index", files, [[ANIMAL, BIRD], [], []], classes=classes, probabilities=shares)
    return tmp_path / "p.index"


@pytest.fixture
def app(index: Path) -> Starlette:
    return Starlette(routes=LiveGallery(str(index)).routes())


def ask(app: Starlette, path: str, body: bytes | None = None, kind: str = JSON) -> Reply:
    scope = {
        "type": "http",
        "method": "GET" if body is None else "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", kind.encode())],
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body or b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Reply(sent[0]["status"], headers, b"".join(part.get("body", b"") for part in sent[1:]))


def correct(app: Starlette, **correction: Any) -> Reply:
    return ask(app, "/gallery/corrections", json.dumps(correction).encode())


def test_the_page_has_its_files_and_may_run_nothing_else(app: Starlette) -> None:
    assert ask(app, "/gallery").headers["location"] == "gallery/"
    page = ask(app, "/gallery/")
    assert b'<script src="gallery.js">' in page.body
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert ask(app, "/gallery/gallery.js").headers["content-type"].startswith("text/javascript")
    data = ask(app, "/gallery/data/collection.js")
    content = json.loads(gzip.decompress(data.body).decode().partition(",")[2].removesuffix(");\n"))
    assert content["live"]
    assert content["links"] == ["originals/0", "originals/1", "originals/2"]
    assert b"GALLERY.data" in gzip.decompress(ask(app, "/gallery/data/masses-0.js").body)


def test_thumbnails_are_made_when_they_are_looked_at_and_kept(app: Starlette, index: Path) -> None:
    data = gzip.decompress(ask(app, "/gallery/data/collection.js").body).decode()
    keys = json.loads(data.partition(",")[2].removesuffix(");\n"))["thumbs"]
    kept = Path(f"{index}.gallery")
    assert not kept.exists()
    path = f"/gallery/thumbs/256/{keys[0][:2]}/{keys[0]}.jpg"
    first = ask(app, path)
    assert (first.status, first.headers["content-type"]) == (200, "image/jpeg")
    assert ask(app, path).body == first.body == next(kept.rglob("*.jpg")).read_bytes()
    assert ask(app, f"/gallery/thumbs/256/{keys[2][:2]}/{keys[2]}.jpg").status == 404  # no picture


def test_originals_are_pictures_of_the_index_and_never_pages(app: Starlette, tmp_path: Path) -> None:
    original = ask(app, "/gallery/originals/1")
    assert (original.status, original.headers["content-type"]) == (200, "image/png")
    assert original.body.startswith(b"\x89PNG")
    text = ask(app, "/gallery/originals/2")
    assert text.headers["content-type"] == "application/octet-stream"
    assert text.headers["content-security-policy"] == "default-src 'none'; sandbox"
    (tmp_path / "bird.jpg").unlink()
    assert ask(app, "/gallery/originals/0").status == 404


@pytest.mark.parametrize(
    "path", ["originals/3", "data/x.js", "thumbs/256/ab/../../p.jpg", "thumbs/256/ab/abc.jpg", "page.html"]
)
def test_what_is_not_there_is_404(app: Starlette, path: str) -> None:
    assert ask(app, f"/gallery/{path}").status == 404


def test_corrections_are_saved_changed_and_taken_back(app: Starlette, index: Path, tmp_path: Path) -> None:
    bird, odd = str(tmp_path / "bird.jpg"), str(tmp_path / "od\udcffd.png")
    assert json.loads(ask(app, "/gallery/corrections").body) == {}
    assert correct(app, path=bird, label="n01503061", verdict="right", answer="n01503061").status == 204
    assert correct(app, path=bird, label="", verdict="wrong").status == 204
    assert correct(app, path=odd, label="n01514668", verdict="is").status == 204
    saved = json.loads(ask(app, "/gallery/corrections").body)
    assert [(path, row["verdict"], row["name"]) for path, row in saved.items()] == [
        (bird, "wrong", ""),
        (odd, "is", "cock"),
    ]
    file = Path(f"{index}.corrections.jsonl")
    assert read_corrections(file, CONCEPTS) == {
        bird: Correction(bird, "", "wrong"),
        odd: Correction(odd, "n01514668", "is"),
    }
    assert correct(app, path=bird, verdict="undo").status == 204
    again = Starlette(routes=LiveGallery(str(index)).routes())  # after a restart
    assert list(json.loads(ask(again, "/gallery/corrections").body)) == [odd]


@pytest.mark.parametrize(
    ("body", "kind", "status", "sentence"),
    [
        (b"{}", "text/plain", 415, "application/json"),
        (b"{", JSON, 400, ""),
        (b"[]", JSON, 400, "is an object"),
        (b'{"path": 3}', JSON, 400, "which are text"),
        (b'{"path": "/etc/passwd", "verdict": "wrong"}', JSON, 400, "'/etc/passwd' is no picture of the index"),
        (b"x" * (MOST_BYTES + 1), JSON, 413, "at most 65,536 bytes"),
    ],
)
def test_what_is_no_correction_is_refused(app: Starlette, body: bytes, kind: str, status: int, sentence: str) -> None:
    reply = ask(app, "/gallery/corrections", body, kind)
    assert reply.status == status
    assert sentence in json.loads(reply.body)["error"]


def test_a_correction_names_a_concept_and_a_verdict(app: Starlette, index: Path, tmp_path: Path) -> None:
    bird = str(tmp_path / "bird.jpg")
    assert b"is no concept" in correct(app, path=bird, label="bird", verdict="is").body
    assert b"is no verdict" in correct(app, path=bird, label="", verdict="maybe").body
    Path(f"{index}.corrections.jsonl").write_text("{")
    assert ask(app, "/gallery/corrections").status == 500
    assert b"is damaged" in correct(app, path=bird, verdict="undo").body


def test_an_index_elsewhere_and_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        LiveGallery("s3://bucket/p.index")
    with pytest.raises(UsageError, match="without --api-keys"):
        ServeOptions(index="p.index", api_keys=tmp_path / "keys")


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
def test_a_browser_saves_corrections_on_the_server(tmp_path: Path) -> None:
    """The same acts as on the page in files, and no script but its own may run."""
    odd = odd_birds(tmp_path)

    async def acted(_request: Any) -> Response:
        return HTMLResponse(acting(page_file("index.html")), headers={"Content-Security-Policy": "script-src 'self'"})

    async def act(_request: Any) -> Response:
        return Response(ACT, media_type="text/javascript")

    routes = [Route("/gallery/act.html", acted), Route("/gallery/act.js", act), *LiveGallery(odd.path).routes()]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="error", lifespan="off"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/gallery/act.html"
        assert seen_by_browser(url, tmp_path / "profile") == EXPECTED
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
    saved = read_corrections(Path(f"{odd.path}.corrections.jsonl"), CONCEPTS)
    assert {path: one.label for path, one in saved.items()} == {odd.names[0]: "n01514668", odd.names[3]: "n01531178"}
