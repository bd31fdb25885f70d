"""`miil21k gallery`: the pictures of an index as a page that works from a file, or from any web server.

    site/index.html, gallery.css, gallery.js    the page
    site/data/collection.js                     names, answers and the tree; one line per file: GALLERY.data(NAME, JSON)
    site/data/words.js                          what each noun means, read when something is searched
    site/data/masses-N.js, near-N.js            probabilities and nearest pictures of `CHUNK` pictures each
    site/thumbs/EDGE/ab/abcd....jpg             by the digest of the picture, so that each is made once

The data are scripts, since a page that was opened from a file may load scripts and pictures, and nothing else.
"""

from __future__ import annotations

import io
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from miil21k.data.images import load_picture
from miil21k.data.opening import read_file
from miil21k.data.shard_members import ShardMembers
from miil21k.data.threads import in_order
from miil21k.data.web import fetch_image, is_url
from miil21k.environment import available_cpus
from miil21k.errors import ImageError, UsageError
from miil21k.files import replace_file, sweep
from miil21k.find.gallery_data import Links, data_files, thumb_keys
from miil21k.options import check, described, option
from miil21k.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miil21k.find.store import Index
    from miil21k.predict.run import BarOf

__all__ = ["PAGE_FILES", "Built", "GalleryOptions", "Thumbnails", "build_gallery", "page_file"]

PAGE_FILES = {"index.html": "gallery.html", "gallery.css": "gallery.css", "gallery.js": "gallery.js"}
_QUALITY = 80


@described
@dataclass(frozen=True)
class GalleryOptions:
    """How a gallery is made."""

    output: str = option("site", "the folder of the page", flags="-o --output", metavar="DIR")
    links: Links = option(
        "file",
        "how originals are linked: file (where they lie now), relative (to the page, so that both may be moved or "
        "served together), or none",
        choices=("file", "relative", "none"),
    )
    edge: int = option(256, "longer side of a thumbnail in pixels", metavar="PIXELS", least=32, most=2048)
    workers: int | None = option(None, "threads that make thumbnails (default: one per core)", metavar="N", least=1)
    offline: bool = option(False, "make no thumbnails of pictures that lie on the web")

    def __post_init__(self) -> None:
        check(self)


class Built(NamedTuple):
    """pictures: of the page. made: thumbnails that are new. failed: one sentence for each that could not be made."""

    pictures: int
    made: int
    failed: list[str]


def build_gallery(index: Index, options: GalleryOptions, *, bar: BarOf | None = None) -> Built:
    """Write the page of `index` into `options.output`, or bring it up to date; thumbnails are made once.

    After a kill the same call goes on. bar: shows how many thumbnails are made.
    Raises UsageError for a folder that holds something else, OSError where it cannot be written.
    """
    site = Path(options.output)
    if site.exists() and not (site / "data" / "collection.js").exists() and not _is_ours(site):
        raise UsageError(f"'{printable(site)}' holds something else than a gallery: give another folder.")
    site.mkdir(parents=True, exist_ok=True)
    for name in PAGE_FILES:
        replace_file(site / name, page_file(name))
    thumbnails = Thumbnails(index, site, options.edge, options.offline)
    made, failed = 0, list[str]()
    with nullcontext(None) if bar is None else bar(None, 0) as shown:
        for error in thumbnails.make(options.workers or available_cpus()):
            made += error is None
            failed += [error] if error is not None else []
            if shown is not None:
                shown.advance()
    thumbnails.remove_others()
    sweep(site / "data")
    files = data_files(index, options.edge, options.links, site)
    for name, content in files.items():
        replace_file(site / "data" / name, content(), parents=True)
    for stale in (site / "data").glob("*.js"):
        if stale.name not in files:
            stale.unlink()
    return Built(len(index), made, failed)


def page_file(name: str) -> bytes:
    """Return a file of the page, a key of `PAGE_FILES`."""
    return resources.files("miil21k.find").joinpath(PAGE_FILES[name]).read_bytes()


def _is_ours(site: Path) -> bool:
    """Return whether a folder is empty, or what a run left that was killed before it had written its data."""
    if not site.is_dir():
        return False
    return {path.name for path in site.iterdir() if not path.name.startswith(".")} <= {*PAGE_FILES, "thumbs", "data"}


class Thumbnails:
    """The thumbnails of an index below `site`, JPEGs of at most `edge` pixels. offline: none of the web."""

    def __init__(self, index: Index, site: Path, edge: int, offline: bool) -> None:
        self._folder = site / "thumbs" / f"{edge}"
        self._edge, self._offline = edge, offline
        self._names = index.names
        self._keys = thumb_keys(index)
        self._answered = index.answered
        containers = index.columns("container")["container"].to_pylist()
        self._in_shard = [container is not None for container in containers]
        self._members: ShardMembers | None = None
        if any(self._in_shard):
            self._members = ShardMembers(self._names, Path("/"))

    def path(self, number: int) -> Path:
        """Return where the thumbnail of a picture lies."""
        key = self._keys[number]
        return self._folder / key[:2] / f"{key}.jpg"

    def make(self, workers: int) -> Iterator[str | None]:
        """Make those that are missing; yields for each None, or one sentence that says why it cannot be."""
        seen: set[str] = set()
        missing = []
        for number, key in enumerate(self._keys):
            if self._answered[number] and key not in seen and not self.path(number).exists():
                missing.append(number)
            seen.add(key)
        for folder in {self.path(number).parent for number in missing}:
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
        yield from in_order(self.make_one, missing, workers, "miil21k-thumbs")

    def make_one(self, number: int) -> str | None:
        """Make the thumbnail of a picture; returns one sentence that says why it cannot be, None when it is made."""
        try:
            replace_file(self.path(number), self._encoded(number), parents=True)
        except (ImageError, OSError) as error:
            return str(error)
        return None

    def content(self, number: int) -> bytes:
        """Return the thumbnail of a picture, made and kept where it is not there yet.

        Raises ImageError. Where it cannot be kept, it is made again the next time.
        """
        path = self.path(number)
        if not path.exists():
            content = self._encoded(number)
            with suppress(OSError):
                replace_file(path, content, parents=True)
            return content
        return path.read_bytes()

    def _encoded(self, number: int) -> bytes:
        image = load_picture(self._source(number), name=self._names[number], reduce_to=self._edge).image
        image.thumbnail((self._edge, self._edge))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_QUALITY)
        return buffer.getvalue()

    def original(self, number: int) -> bytes:
        """Return the bytes of a picture as they lie in its file; raises ImageError, OSError."""
        source = self._source(number)
        return source if isinstance(source, bytes) else read_file(source)

    def _source(self, number: int) -> str | bytes:
        name = self._names[number]
        if self._in_shard[number]:
            assert self._members is not None
            return self._members.read(number)
        return fetch_image(name, offline=self._offline) if is_url(name) else name

    def remove_others(self) -> None:
        """Remove thumbnails of pictures that the index no longer holds, and of other sizes."""
        import shutil

        kept = {self.path(number) for number in range(len(self._keys))}
        for folder in self._folder.parent.glob("[0-9]*"):
            if folder != self._folder:
                shutil.rmtree(folder)
        for path in self._folder.glob("??/*.jpg"):
            if path not in kept:
                path.unlink()
