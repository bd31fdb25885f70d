"""The gallery of an index, live at `/gallery/`: the page of `miil21k gallery`, whose corrections are saved at once."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from miil21k.errors import ImageError, UsageError
from miil21k.find.corrections import CorrectionFile
from miil21k.find.gallery import PAGE_FILES, Thumbnails, page_file
from miil21k.find.gallery_data import data_files
from miil21k.find.store import Index
from miil21k.hierarchy.concepts import concepts_of
from miil21k.records import StrictJsonError, parse
from miil21k.suffixes import suffix_of

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["LiveGallery"]

EDGE = 256  # pixels of a thumbnail
MOST_BYTES = 1 << 16  # of one correction
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Content-Security-Policy": _POLICY}
_ORIGINAL = {**_SAFE, "Content-Security-Policy": "default-src 'none'; sandbox"}
_FOREVER = {**_SAFE, "Cache-Control": "private, max-age=31536000, immutable"}  # named by its digest
_KINDS = {"index.html": "text/html", "gallery.css": "text/css", "gallery.js": "text/javascript"}
# What browsers show; anything else is downloaded.
_PICTURES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".bmp": "image/bmp",
}


class LiveGallery:
    """The routes of the gallery of the index at `path`, a folder. Thumbnails are kept in `<path>.gallery`,
    corrections in `<path>.corrections.jsonl`."""

    def __init__(self, path: str) -> None:
        if "://" in path:
            raise UsageError(f"'{path}' is no folder: corrections are saved beside an index, so it has to be one.")
        self._index = Index.open(path)
        self._files = data_files(self._index, EDGE, "none")
        self._content = lru_cache(maxsize=None)(self._made)
        beside = path.rstrip("/")
        self._thumbnails = Thumbnails(self._index, Path(f"{beside}.gallery"), EDGE, offline=False)
        self._number_of_thumb = {self._thumbnails.path(n).stem: n for n in reversed(range(len(self._index)))}
        self._corrections = CorrectionFile(
            Path(f"{beside}.corrections.jsonl"), concepts_of(self._index.about.space), frozenset(self._index.names)
        )
        self._one = threading.Lock()  # data are made by one thread at a time

    def routes(self) -> list[Route]:
        """Return what answers below `/gallery`."""
        return [
            Route("/gallery", self._to_page),
            Route("/gallery/", self._page),
            Route("/gallery/corrections", self._saved),
            Route("/gallery/corrections", self._correct, methods=["POST"]),
            Route("/gallery/data/{name}", self._data),
            Route(f"/gallery/thumbs/{EDGE}/{{start}}/{{name}}", self._thumb),
            Route("/gallery/originals/{number:int}", self._original),
            Route("/gallery/{name}", self._page),
        ]

    async def _to_page(self, _request: Request) -> Response:
        return RedirectResponse("gallery/")  # relative: a proxy may have another host and path

    async def _page(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in PAGE_FILES:
            return _none()
        return Response(page_file(name), media_type=_KINDS[name], headers=_SAFE)

    async def _data(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._files:
            return _none()
        content = await asyncio.to_thread(self._content, name)
        return Response(content, media_type="text/javascript", headers={**_SAFE, "Content-Encoding": "gzip"})

    def _made(self, name: str) -> bytes:
        with self._one:
            return gzip.compress(self._files[name]().encode(), compresslevel=5, mtime=0)

    async def _thumb(self, request: Request) -> Response:
        number = self._number_of_thumb.get(request.path_params["name"].removesuffix(".jpg"))
        if number is None:
            return _none()
        try:
            content = await asyncio.to_thread(self._thumbnails.content, number)
        except (ImageError, OSError):
            return _none()
        return Response(content, media_type="image/jpeg", headers=_FOREVER)

    async def _original(self, request: Request) -> Response:
        number = request.path_params["number"]
        if number >= len(self._index):
            return _none()
        try:
            content = await asyncio.to_thread(self._thumbnails.original, number)
        except (ImageError, OSError) as error:
            return _error(404, str(error))
        kind = _PICTURES.get(suffix_of(self._index.names[number]), "application/octet-stream")
        return Response(content, media_type=kind, headers=_ORIGINAL)

    async def _saved(self, _request: Request) -> Response:
        try:
            rows = await asyncio.to_thread(self._corrections.read)
        except (UsageError, OSError) as error:
            return _error(500, str(error))
        return Response(json.dumps(rows), media_type="application/json", headers=_SAFE)

    async def _correct(self, request: Request) -> Response:
        """Save one correction. Only JSON: another site's page cannot send that without being asked first."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _error(415, "A correction is sent as application/json.")
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                return _error(413, f"A correction has at most {MOST_BYTES:,} bytes.")
        try:
            await asyncio.to_thread(self._corrections.save, parse(body))
        except (StrictJsonError, UsageError) as error:
            return _error(400, str(error))
        except OSError as error:
            return _error(500, f"'{self._corrections.path}' cannot be written: {error.strerror or error}.")
        return Response(status_code=204, headers=_SAFE)


def _none() -> Response:
    return _error(404, "There is no such thing in the gallery.")


def _error(status: int, sentence: str) -> Response:
    return Response(json.dumps({"error": sentence}), status, _SAFE, "application/json")
