"""Turn what a user names (files, folders, globs, shards, URLs, `-`, `@list.txt`) into one lazy, ordered stream."""

# Names are strings and not Paths: a row must carry the name as the user spelled it, and Path rewrites `./a//b`.

from __future__ import annotations

import glob
import os
import sys
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from miil21k.data.cloud import is_remote, remote_names
from miil21k.data.documents import Document, is_document
from miil21k.data.folders import entries_of, identity_of
from miil21k.data.images import ImageInput, failing
from miil21k.data.options import FRAMES
from miil21k.data.parts import split_part
from miil21k.data.pipes import is_pipe, piped_images
from miil21k.data.tar_inputs import Shard, expand_braces, has_braces, indexed_shards, is_index, is_shard
from miil21k.data.web import fetch_image, is_url
from miil21k.errors import ImageError, UsageError
from miil21k.suffixes import TIFF_SUFFIXES, PassedOver, document_suffixes, image_suffixes, suffix_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    from miil21k.data.folders import Identity
    from miil21k.data.options import Frames

    Unit: TypeAlias = ImageInput | Shard
    AnyUnit: TypeAlias = ImageInput | Shard | Document

__all__ = [
    "Unfolded",
    "expand",
    "expand_units",
    "require_images",
]


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
        if is_index(name):
            indexed_shards(name)
        elif is_remote(name):
            _require_remote(name, recursive)
        elif (
            name in ("-", "@-")
            or is_url(name)
            or is_pipe(name)
            or os.path.isfile(name)
            or split_part(name)[1] is not None
        ):
            continue
        elif name.startswith("@"):
            _require_list(name[1:])
        elif os.path.isdir(name):
            _require_folder(name, recursive)
        else:
            _require_matches(name)


def _require_matches(pattern: str) -> None:
    for name in expand_braces(pattern):
        if glob.has_magic(name) and next(_glob(name, PassedOver()), None) is None:
            raise UsageError(f"No images match '{name}'.")


def _require_remote(name: str, recursive: bool) -> None:
    passed = PassedOver()
    with suppress(ImageError):  # its row will say what is wrong
        if not any(remote_names(part, recursive, passed) for part in expand_braces(name)):
            seen = passed.sentence()
            raise UsageError(f"No images at '{name}'." + (f" {seen}." if seen else ""))


def _require_list(path: str) -> None:
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        raise UsageError(f"The list '{path}' cannot be read: {error.strerror}.") from None


def _require_folder(folder: str, recursive: bool) -> None:
    passed = PassedOver()
    first = next(_walk(folder, recursive, passed), None)
    if isinstance(first, Failing) and first.name == folder:
        raise UsageError(f"The folder '{folder}' cannot be read: {first.reason}.")
    if first is not None:
        return
    deeper = not recursive and next(_walk(folder, True, PassedOver()), None) is not None
    hint = "; its subfolders have some: add -r" if deeper else ""
    seen = passed.sentence()
    raise UsageError(f"No images in '{folder}'{hint}." + (f" {seen}." if seen else ""))


def expand(
    names: Iterable[str], *, recursive: bool = False, offline: bool = False, frames: Frames = FRAMES
) -> Unfolded:
    """Return one `ImageInput` per image, in the order of `names`, as late as possible; arguments as `expand_units`."""
    passed = PassedOver()
    units = expand_units(names, recursive=recursive, offline=offline, frames=frames, passed=passed)
    return Unfolded(units, passed)


def expand_units(
    names: Iterable[str],
    *,
    recursive: bool = False,
    offline: bool = False,
    frames: Frames = FRAMES,
    passed: PassedOver | None = None,
) -> Iterator[AnyUnit]:
    """Yield what images are read from, in the order of `names`, as late as possible.

    That is an `ImageInput` per image, a `Shard` per tar file and a `Document` per file that may hold several.
    A name is a file, a page or frame of one (`scan.tif#page=2`), a folder (its files with an image extension, documents
    and videos where they can be read, and its tar files, hidden ones left out; with `recursive` those of its subfolders
    too), a glob (`**` included), a tar shard, a pattern of shards with braces (`a-{000..012}.tar`), the `index.json` of
    shards that `miil21k prepare` wrote, an http or https URL, an address that fsspec knows (`s3://...`, also a folder
    or a pattern), `pipe:COMMAND` (an image or a tar stream that a command writes; not in lists), `-` (one encoded image
    on standard input), `@list.txt` or `@-` (one such name per line, UTF-8; empty lines are skipped, and lines that
    begin with `# ` unless such a file exists).
    A folder gives its entries in bytewise order of their names,
    a subfolder at its own place among them; only the names of the folder at hand are held in memory. A folder that
    cannot be read becomes an input that fails.
    No file, shard or URL is opened here. offline: a URL becomes an error row without any connection. frames: of videos,
    as `Document` has it. passed: counts what was met in folders and by globs and is no picture.
    """
    how = _How(recursive, offline, frames, PassedOver() if passed is None else passed)
    for name in names:
        if name == "-":
            yield ImageInput(name, sys.stdin.buffer.read())
        elif name.startswith("@") and not os.path.isfile(name):
            yield from _listed(name[1:], how)
        elif is_pipe(name):
            yield from piped_images(name)
        else:
            yield from _named(name, how)


class _How(NamedTuple):
    recursive: bool
    offline: bool
    frames: Frames
    passed: PassedOver


class Unfolded:
    """Every image of a stream of units, one by one; a batch begins with each shard and behind it.

    passed: what was met so far and is no picture.
    """

    def __init__(self, units: Iterator[AnyUnit], passed: PassedOver | None = None) -> None:
        self.passed = PassedOver() if passed is None else passed
        self._units = _opened(units)
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
                for image in unit.images():
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


def _opened(units: Iterator[AnyUnit]) -> Iterator[Unit]:
    for unit in units:
        if isinstance(unit, Document):
            yield from unit.images()
        else:
            yield unit


def _named(name: str, how: _How) -> Iterator[AnyUnit]:
    if is_url(name):
        yield ImageInput(name, partial(fetch_image, name, offline=how.offline))
    elif is_remote(name):
        yield from _remote(name, how)
    elif is_pipe(name):
        yield ImageInput(name, failing(f"'{name}' was not run: a command is given directly, and not in a list."))
    elif os.path.isdir(name):
        yield from (_unit(found, how) for found in _walk(name, how.recursive, how.passed))
    elif os.path.lexists(name):
        yield from (_unit(found, how) for found in (indexed_shards(name) if is_index(name) else [name]))
    elif split_part(name)[1] is not None:
        yield ImageInput(name, name)
    elif has_braces(name):
        for part in expand_braces(name):
            yield from _named(part, how)
    elif glob.has_magic(name):
        yield from (_unit(found, how) for found in _glob(name, how.passed))
    else:
        yield ImageInput(name, name)


def _remote(name: str, how: _How) -> Iterator[AnyUnit]:
    if how.offline:
        yield ImageInput(name, failing(f"'{name}' was not fetched: the run is offline."))
        return
    for address in expand_braces(name):
        yield from _at(address, how)


def _at(address: str, how: _How) -> list[AnyUnit]:
    try:
        return [_unit(found, how) for found in remote_names(address, how.recursive, how.passed)]
    except ImageError as error:
        return [ImageInput(address, failing(str(error)))]


class Failing(NamedTuple):
    """A folder that cannot be read, and why."""

    name: str
    reason: str


def _unit(found: str | Failing, how: _How) -> AnyUnit:
    if isinstance(found, Failing):
        return ImageInput(found.name, failing(f"The folder '{found.name}' cannot be read: {found.reason}."))
    if is_shard(found):
        return Shard(found, found if is_remote(found) else os.path.abspath(found))
    if is_document(found) and not (is_remote(found) and suffix_of(found) in TIFF_SUFFIXES):
        return Document(found, found, how.frames)
    return ImageInput(found, found)  # a TIFF elsewhere is not fetched twice to count its pages


def _listed(path: str, how: _How) -> Iterator[AnyUnit]:
    with nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as lines:
        for number, line in enumerate(lines):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
            name = text.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
            comment = name.startswith("# ") and not os.path.lexists(name)
            if name.strip() and not comment:
                yield from _named(name, how)


def _glob(pattern: str, passed: PassedOver) -> Iterator[str]:
    """Yield the image files that match, in bytewise order; what the pattern names outright needs no image extension."""
    exact = suffix_of(pattern)
    wanted = None if exact and not glob.has_magic(exact) else {*image_suffixes(), *document_suffixes(), ".tar"}
    for path in sorted(glob.iglob(pattern, recursive=True), key=os.fsencode):
        if os.path.isdir(path):
            continue
        if wanted is None or suffix_of(path) in wanted:
            yield path
        else:
            passed.add(path)


def _walk(
    folder: str, recursive: bool, passed: PassedOver, above: tuple[Identity, ...] = ()
) -> Iterator[str | Failing]:
    """Yield the image files and shards of `folder`; `above` holds the folders on the way, against loops of links."""
    found = entries_of(folder, passed, folders=recursive, shards=True, documents=True)
    try:
        here = (*above, identity_of(folder))
    except OSError as error:
        found = found._replace(fault=error.strerror or str(error), names=[])
        here = above
    for name in found.names:
        path = os.path.join(folder, name)
        if name not in found.folders:
            yield path
        elif _is_new(path, here):
            yield from _walk(path, True, passed, here)
    if found.fault:
        yield Failing(folder, found.fault)


def _is_new(folder: str, above: tuple[Identity, ...]) -> bool:
    try:
        return identity_of(folder) not in above
    except OSError:  # it went away, which whoever reads it will say
        return True
