"""Turn what a user names (files, folders, globs, shards, URLs, `-`, `@list.txt`) into one lazy, ordered stream."""

# Names are strings and not Paths: a row must carry the name as the user spelled it, and Path rewrites `./a//b`.

from __future__ import annotations

import glob
import json
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

from miil21k.data.images import ImageInput
from miil21k.data.tar_inputs import Shard, expand_braces, has_braces, is_shard
from miil21k.data.web import fetch_image, is_url
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    Unit: TypeAlias = ImageInput | Shard

__all__ = [
    "Unfolded",
    "expand",
    "expand_units",
    "image_extensions",
    "require_images",
]

# Formats whose Pillow plugin only recognises the file, or needs another program to draw it.
_UNDRAWN = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@cache
def image_extensions() -> frozenset[str]:
    """Return the lower-case file extensions, with their dot, that Pillow can read as pictures."""
    from PIL import Image

    known = Image.registered_extensions()  # loads every plugin
    return frozenset(ext for ext, kind in known.items() if kind in Image.OPEN and kind not in _UNDRAWN)


def require_images(names: Iterable[str], *, recursive: bool = False) -> None:
    """Check the names before any work is done; returns nothing.

    Raises UsageError for no names at all, a folder without images, a glob that matches none, or a list or an index
    of shards that cannot be read. A file that does not exist is no usage error: it gets its row.
    """
    names = list(names)
    if not names:
        raise UsageError("No inputs: give files, folders, globs, URLs, '-' or '@list.txt'.")
    if sum(name in ("-", "@-") for name in names) > 1:
        raise UsageError("Standard input can be read only once: give '-' or '@-' a single time.")
    for name in names:
        if _is_index(name):
            _indexed(name)
        elif name in ("-", "@-") or is_url(name) or os.path.isfile(name):
            continue
        elif name.startswith("@"):
            _require_list(name[1:])
        elif os.path.isdir(name):
            _require_folder(name, recursive)
        else:
            _require_matches(name)


def _require_matches(pattern: str) -> None:
    for name in expand_braces(pattern):
        if glob.has_magic(name) and next(_glob(name), None) is None:
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


def expand(names: Iterable[str], *, recursive: bool = False, offline: bool = False) -> Unfolded:
    """Return one `ImageInput` per image, in the order of `names`, as late as possible; arguments as `expand_units`."""
    return Unfolded(expand_units(names, recursive=recursive, offline=offline))


def expand_units(names: Iterable[str], *, recursive: bool = False, offline: bool = False) -> Iterator[Unit]:
    """Yield an `ImageInput` per image and a `Shard` per tar file, in the order of `names`, as late as possible.

    A name is a file, a folder (its files with an image extension and its tar files, hidden ones left out; with
    `recursive` those of its subfolders too), a glob (`**` included), a tar shard, a pattern of shards with braces
    (`a-{000..012}.tar`), the `index.json` of shards that `miil21k prepare` wrote, an http or https URL, `-` (one
    encoded image on standard input), `@list.txt` or `@-` (one such name per line, UTF-8; empty lines are skipped, and
    lines that begin with `# ` unless such a file exists). A folder gives its entries in bytewise order of their names,
    a subfolder at its own place among them; only the names of the folder at hand are held in memory.
    No file, shard or URL is opened here. offline: a URL becomes an error row without any connection.
    """
    for name in names:
        if name == "-":
            yield ImageInput(name, sys.stdin.buffer.read())
        elif name.startswith("@") and not os.path.isfile(name):
            yield from _listed(name[1:], recursive, offline)
        else:
            yield from _named(name, recursive, offline)


class Unfolded:
    """Every image of a stream of units, one by one; a batch begins with each shard and behind it."""

    def __init__(self, units: Iterator[Unit]) -> None:
        self._units = units
        self._shard: Shard | None = None
        self._taken = 0
        self._images = self._unfold()

    def __iter__(self) -> Iterator[ImageInput]:
        return self

    def __next__(self) -> ImageInput:
        return next(self._images)

    def _unfold(self) -> Iterator[ImageInput]:
        for unit in self._units:
            if isinstance(unit, Shard):
                self._shard, self._taken = unit, unit.skip
                for image in unit.images(image_extensions()):
                    self._taken += 1
                    yield image
            else:
                behind, self._shard = self._shard, None
                yield unit if behind is None else replace(unit, new_batch=True)

    def rest(self, again: list[ImageInput]) -> Iterator[Unit]:
        """Yield the units that follow. again: the last images, of one shard or of none, to be given once more."""
        if self._shard is not None:
            yield self._shard._replace(skip=self._taken - len(again))
        else:
            yield from again
        yield from self._units


def _named(name: str, recursive: bool, offline: bool) -> Iterator[Unit]:
    if is_url(name):
        yield ImageInput(name, partial(fetch_image, name, offline=offline))
    elif os.path.isdir(name):
        yield from map(_unit, _walk(name, recursive))
    elif os.path.lexists(name):
        yield from map(_unit, _indexed(name) if _is_index(name) else [name])
    elif has_braces(name):
        for part in expand_braces(name):
            yield from _named(part, recursive, offline)
    elif glob.has_magic(name):
        yield from map(_unit, _glob(name))
    else:
        yield ImageInput(name, name)


def _unit(path: str) -> Unit:
    return Shard(path, os.path.abspath(path)) if is_shard(path) else ImageInput(path, path)


def _is_index(name: str) -> bool:
    return name.lower().endswith(".json") and os.path.isfile(name)


def _indexed(path: str) -> list[str]:
    """Return the paths of the shards that the index of a prepared data set names, in its order."""
    try:
        with open(path, "rb") as file:
            names = [shard["name"] for shard in json.load(file)["shards"]]
        return [os.path.join(os.path.dirname(path), name) for name in names]
    except OSError as error:
        raise UsageError(f"The index '{path}' cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"'{path}' is no index of shards (miil21k prepare writes one beside its shards).") from None


def _listed(path: str, recursive: bool, offline: bool) -> Iterator[Unit]:
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
    wanted = None if exact and not glob.has_magic(exact) else {*image_extensions(), ".tar"}
    for path in sorted(glob.iglob(pattern, recursive=True), key=os.fsencode):
        if (wanted is None or os.path.splitext(path)[1].lower() in wanted) and not os.path.isdir(path):
            yield path


def _walk(folder: str, recursive: bool, above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Yield the image files and shards of `folder`; `above` holds the folders on the way, against loops of links."""
    extensions = {*image_extensions(), ".tar"}
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
