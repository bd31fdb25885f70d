"""Images in tar shards as inputs: named `SHARD.tar/MEMBER`, read where they lie, in the order of the shard.

Nothing is unpacked, so a member called `../x.jpg` is a name and no path. Headers are read as they are needed, pixels
by whoever takes the image.
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from miil21k.data.cloud import is_remote, open_remote, read_range
from miil21k.data.images import ImageInput, failing
from miil21k.errors import ImageError, UsageError
from miil21k.records import read_json
from miil21k.suffixes import is_image_name

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator
    from typing import IO

__all__ = ["Members", "Shard", "expand_braces", "has_braces", "indexed_shards", "is_index", "is_shard", "read_member"]

MAX_MEMBER = 2**30  # bytes; far above any image, and a damaged size field must not cost all memory
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


def is_shard(name: str) -> bool:
    """Return whether `name` is a file, or an address, that ends in `.tar`."""
    return name.lower().endswith(".tar") and (is_remote(name) or os.path.isfile(name))


def has_braces(name: str) -> bool:
    """Return whether `expand_braces` makes something else of `name`."""
    return _BRACES.search(name) is not None


def expand_braces(name: str) -> Iterator[str]:
    """Yield the names that `a-{000..012}.tar` and `{train,val}.tar` stand for, in the order in which a shell has them.

    Numbers are padded with zeros to the longer of the two; a name without braces is itself.
    """
    found = _BRACES.search(name)
    if found is None:
        yield name
        return
    first, last, words = found.groups()
    if words is not None:
        parts = iter(words.split(","))
    else:
        low, high = int(first), int(last)
        width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
        step = 1 if high >= low else -1
        parts = (f"{number:0{width}d}" for number in range(low, high + step, step))
    for part in parts:
        yield from expand_braces(f"{name[: found.start()]}{part}{name[found.end() :]}")


def is_index(name: str) -> bool:
    """Return whether `name` is a file that ends in `.json`."""
    return name.lower().endswith(".json") and os.path.isfile(name)


def indexed_shards(path: str) -> list[str]:
    """Return the paths of the shards that the index of a prepared data set names, in its order.

    Raises UsageError when it cannot be read, or is none.
    """
    try:
        names = [shard["name"] for shard in read_json(path)["shards"]]
        return [os.path.join(os.path.dirname(path), name) for name in names]
    except OSError as error:
        raise UsageError(f"The index '{path}' cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"'{path}' is no index of shards (miil21k prepare writes one beside its shards).") from None


class Shard(NamedTuple):
    """A tar file of images. name: as it was spelled. path: where it lies. skip: how many images to leave out first."""

    name: str
    path: str
    skip: int = 0

    def images(self) -> Iterator[ImageInput]:
        """Yield the members whose name ends as pictures do; hidden ones are left out.

        A link or a sparse file under such a name becomes an input that fails. A shard that cannot be read, breaks off,
        is damaged or holds no image gives one more input, named after the shard itself, that fails and says so.
        """
        for number, image in enumerate(self._all()):
            if number >= self.skip:
                yield ImageInput(image.name, image.source, new_batch=number == self.skip)

    def _all(self) -> Iterator[ImageInput]:
        count, fault = 0, ""
        try:
            with open_remote(self.path) if is_remote(self.path) else open(self.path, "rb") as file:
                members = Members(file)
                for info in members:
                    if is_image_name(info.name):
                        count += 1
                        yield self._image(info)
                fault = members.fault
        except OSError as error:
            fault = f"cannot be read: {error.strerror or error}"
        except ImageError as error:  # an object store
            yield ImageInput(self.name, failing(str(error)))
            return
        if fault and count:
            fault += f" after {count:,} image{'' if count == 1 else 's'}"
        if fault or not count:
            yield ImageInput(self.name, failing(f"'{self.name}' {fault or 'holds no images'}."))

    def _image(self, info: tarfile.TarInfo) -> ImageInput:
        name = f"{self.name}/{info.name}"
        if not info.isreg() or info.issparse():
            return ImageInput(name, failing(f"'{name}' is a link or no plain file: pack the image itself."))
        if info.size > MAX_MEMBER:
            return ImageInput(name, failing(f"'{name}' has {info.size:,} bytes, more than any image."))
        return ImageInput(name, partial(_read, self.path, info.offset_data, info.size, name))


class Members:
    """The members of an open tar file; `fault` says at the end why it is not whole, empty when it is."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.fault = ""

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        import tarfile

        file = self._file
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if not size:
            self.fault = "is empty (0 bytes)"
            return
        at = 0
        try:
            with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
                while (info := archive.next()) is not None:
                    at = archive.offset
                    archive.members.clear()  # type: ignore[attr-defined] # tarfile keeps them all, we need each once
                    if info.offset_data + (info.size if info.isreg() else 0) > size:
                        self.fault = f"is cut off in '{info.name}'"
                        return
                    if not info.isdir():
                        yield info
        except tarfile.TarError as error:
            cut = at and ("unexpected end" in str(error) or "truncated" in str(error))
            whole = "is damaged" if at else "is no plain tar file (shards are not compressed)"
            self.fault = "is cut off" if cut else whole
            return
        # tarfile takes a damaged header, and the end of the file, for the end of the archive.
        file.seek(at)
        mark = file.read(tarfile.BLOCKSIZE)
        if len(mark) < tarfile.BLOCKSIZE:
            self.fault = "is cut off (it has no end mark)"
        elif mark.strip(b"\0"):
            self.fault = "is damaged"


def read_member(file: IO[bytes], info: tarfile.TarInfo) -> bytes:
    """Return what a small member of an open tar file holds, at most 1 MiB of it; the file is then where it was."""
    at = file.tell()
    file.seek(info.offset_data)
    content = file.read(min(info.size, 1 << 20))
    file.seek(at)
    return content


def _read(path: str, offset: int, size: int, name: str) -> bytes:
    if is_remote(path):
        data = read_range(path, offset, size)
    else:
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            data = file.read(size)
    if len(data) < size:
        raise ImageError(f"'{name}' was cut off after {len(data):,} of {size:,} bytes.")
    return data
