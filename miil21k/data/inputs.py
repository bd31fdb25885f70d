"""Turn what a user names (files, folders, globs, URLs, `-`, `@list.txt`) into one lazy, ordered stream of images."""

# Names are strings and not Paths: a row must carry the name as the user spelled it, and Path rewrites `./a//b`.

from __future__ import annotations

import glob
import os
import sys
from contextlib import nullcontext
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from miil21k.data.images import ImageInput
from miil21k.errors import ImageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from urllib.request import OpenerDirector

__all__ = ["MAX_DOWNLOAD", "expand", "fetch_image", "image_extensions", "is_url", "require_images"]

MAX_DOWNLOAD = 64 * 2**20  # bytes: far above any photograph, far below the memory of a small machine
TIMEOUT = 20.0  # seconds without a byte
# Formats whose Pillow plugin only recognises the file, or needs another program to draw it.
_UNDRAWN = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@cache
def image_extensions() -> frozenset[str]:
    """Return the lower-case file extensions, with their dot, that Pillow can read as pictures."""
    from PIL import Image

    known = Image.registered_extensions()  # loads every plugin
    return frozenset(ext for ext, kind in known.items() if kind in Image.OPEN and kind not in _UNDRAWN)


def is_url(name: str) -> bool:
    """Return whether `name` is an http or https address."""
    return name.lower().startswith(("http://", "https://"))


def require_images(names: Iterable[str], *, recursive: bool = False) -> None:
    """Check the names before any work is done; returns nothing.

    Raises UsageError for no names at all, a folder without images, a glob that matches none, or a list that
    cannot be read. A file that does not exist is no usage error: it gets its row.
    """
    names = list(names)
    if not names:
        raise UsageError("No inputs: give files, folders, globs, URLs, '-' or '@list.txt'.")
    if sum(name in ("-", "@-") for name in names) > 1:
        raise UsageError("Standard input can be read only once: give '-' or '@-' a single time.")
    for name in names:
        if name in ("-", "@-") or is_url(name) or os.path.isfile(name):
            continue
        if name.startswith("@"):
            _require_list(name[1:])
        elif os.path.isdir(name):
            _require_folder(name, recursive)
        elif glob.has_magic(name) and next(_glob(name), None) is None:
            raise UsageError(f"No images match '{name}'.")


def _require_list(path: str) -> None:
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        raise UsageError(f"The list '{path}' cannot be read: {error.strerror}.") from None


def _require_folder(folder: str, recursive: bool) -> None:
    try:
        if next(_walk(folder, recursive), None) is not None:
            return
        deeper = not recursive and next(_walk(folder, True), None) is not None
    except OSError as error:
        raise UsageError(f"The folder '{folder}' cannot be read: {error.strerror}.") from None
    hint = "; its subfolders have some: add -r" if deeper else ""
    raise UsageError(f"No images in '{folder}'{hint}.")


def expand(names: Iterable[str], *, recursive: bool = False, offline: bool = False) -> Iterator[ImageInput]:
    """Yield one `ImageInput` per image, in the order of `names`, as late as possible.

    A name is a file, a folder (its files with an image extension, hidden ones left out; with `recursive` those of
    its subfolders too), a glob (`**` included), an http or https URL, `-` (one encoded image on standard input),
    `@list.txt` or `@-` (one such name per line, UTF-8; empty lines are skipped, and lines that begin with `# `
    unless such a file exists). A folder gives its entries in bytewise order of their names, a subfolder at its own
    place among them; only the names of the folder at hand are held in memory.
    A file or URL is not opened here. offline: a URL becomes an error row without any connection.
    """
    for name in names:
        if name == "-":
            yield ImageInput(name, sys.stdin.buffer.read())
        elif name.startswith("@") and not os.path.isfile(name):
            yield from _listed(name[1:], recursive, offline)
        else:
            yield from _named(name, recursive, offline)


def _named(name: str, recursive: bool, offline: bool) -> Iterator[ImageInput]:
    if is_url(name):
        yield ImageInput(name, lambda: fetch_image(name, offline=offline))
    elif os.path.isdir(name):
        for path in _walk(name, recursive):
            yield ImageInput(path, path)
    elif glob.has_magic(name) and not os.path.lexists(name):
        for path in _glob(name):
            yield ImageInput(path, path)
    else:
        yield ImageInput(name, name)


def _listed(path: str, recursive: bool, offline: bool) -> Iterator[ImageInput]:
    with nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as lines:
        for number, line in enumerate(lines):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
            name = text.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
            comment = name.startswith("# ") and not os.path.lexists(name)
            if name.strip() and not comment:
                yield from _named(name, recursive, offline)


def _glob(pattern: str) -> Iterator[str]:
    """Yield the image files that match, in bytewise order; what the pattern names outright needs no image extension."""
    exact = os.path.splitext(pattern)[1].lower()
    wanted = None if exact and not glob.has_magic(exact) else image_extensions()
    for path in sorted(glob.iglob(pattern, recursive=True), key=os.fsencode):
        if (wanted is None or os.path.splitext(path)[1].lower() in wanted) and not os.path.isdir(path):
            yield path


def _walk(folder: str, recursive: bool, above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Yield the image files of `folder`; `above` holds the folders on the way, against loops of links."""
    extensions = image_extensions()
    found: list[tuple[str, bool]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if recursive:
                    found.append((entry.name, True))
            elif os.path.splitext(entry.name)[1].lower() in extensions:
                found.append((entry.name, False))
    found.sort(key=lambda item: os.fsencode(item[0]))
    here = (*above, _identity(folder))
    for name, is_folder in found:
        path = os.path.join(folder, name)
        if not is_folder:
            yield path
        elif _identity(path) not in here:
            yield from _walk(path, True, here)


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def fetch_image(url: str, *, offline: bool = False, limit: int = MAX_DOWNLOAD, timeout: float = TIMEOUT) -> bytes:
    """Return the body of an http or https URL.

    limit: most bytes that are accepted. timeout: seconds to wait for the connection and for each read.
    Redirects are followed to http and https only. Raises ImageError, naming the URL and what happened.
    """
    if offline:
        raise ImageError(f"'{url}' was not fetched: the run is offline.")
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request

    from miil21k import __version__

    request = Request(url, headers={"User-Agent": f"miil21k/{__version__}"})  # noqa: S310 - the opener knows http only
    try:
        with _opener().open(request, timeout=timeout) as answer:
            body: bytes = answer.read(limit + 1)
            expected = answer.headers.get("Content-Length")
    except HTTPError as error:
        error.close()
        raise ImageError(f"'{url}' answered {error.code} {error.reason}.") from None
    except URLError as error:
        raise ImageError(f"'{url}' cannot be reached: {error.reason}.") from None
    except (OSError, HTTPException, ValueError) as error:
        raise ImageError(f"'{url}' cannot be fetched: {error or type(error).__name__}.") from None
    if len(body) > limit:
        raise ImageError(f"'{url}' is larger than the limit of {limit:,} bytes.")
    if expected is not None and len(body) < int(expected):
        raise ImageError(f"'{url}' was cut off after {len(body):,} of {int(expected):,} bytes.")
    return body


@cache
def _opener() -> OpenerDirector:
    from urllib import request
    from urllib.error import URLError

    class WebRedirects(request.HTTPRedirectHandler):
        """Refuses to be sent from the web to another scheme (`file:`, `ftp:`)."""

        def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
            if urlsplit(newurl).scheme not in ("http", "https"):
                fp.close()
                raise URLError(f"redirected to '{newurl}', which is not http or https")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        WebRedirects(),
        request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
