"""Files that fsspec reaches (extra `cloud`): `s3://`, `gs://`, `hf://`, `memory://`, `zip://a.jpg::s3://b/photos.zip`.

Addresses of the web are not among them: `miil21k.data.web` fetches these, under its own limits.
"""

from __future__ import annotations

import io
import re
from typing import IO, TYPE_CHECKING, Any

from miil21k.data.web import is_url
from miil21k.environment import need
from miil21k.errors import ImageError
from miil21k.suffixes import JUNK_FOLDERS, document_suffixes, image_suffixes, suffix_of
from miil21k.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from miil21k.suffixes import PassedOver

__all__ = [
    "is_address",
    "is_remote",
    "local_path",
    "open_remote",
    "put_remote",
    "read_range",
    "remote_exists",
    "remote_names",
    "told",
    "write_remote",
]

MAX_WHOLE = 256 * 2**20  # bytes of a picture, which is read at once; what holds pages or frames is read in ranges
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::[A-Za-z][A-Za-z0-9+.-]+)*://")
_MAGIC = re.compile(r"[*?\[]")


def is_address(name: str) -> bool:
    """Return whether `name` begins with a scheme, as addresses of the web and of object stores do."""
    return _SCHEME.match(name) is not None


def is_remote(name: str) -> bool:
    """Return whether `name` is an address that fsspec opens."""
    return is_address(name) and not is_url(name)


def local_path(name: str) -> str | None:
    """Return the path that an address of this machine (`file:///photos/a.jpg`) means; None for any other."""
    scheme, _, path = name.partition("://")
    return path if scheme.lower() in ("file", "local") else None


def open_remote(name: str) -> IO[bytes]:
    """Return the file at the address `name`, open and seekable; raises ImageError that says what happened."""

    def opened() -> IO[bytes]:
        fs, path = _filesystem(name)
        if suffix_of(path) in {*document_suffixes(), ".tar"}:
            return fs.open(path, "rb")  # type: ignore[no-any-return]
        size = fs.info(path).get("size")
        if size is not None and size > MAX_WHOLE:
            raise ImageError(f"'{name}' has {size:,} bytes, more than any image.", "too_large")
        return io.BytesIO(fs.cat_file(path))

    file: IO[bytes] = told(name, opened)
    return file


def read_range(name: str, start: int, size: int) -> bytes:
    """Return `size` bytes from `start` on of the file at `name`, fewer at its end; raises ImageError."""

    def read() -> bytes:
        fs, path = _filesystem(name)
        return bytes(fs.cat_file(path, start=start, end=start + size))

    content: bytes = told(name, read)
    return content


def remote_exists(name: str) -> bool:
    """Return whether something is at the address `name`; raises ImageError when the store cannot be asked."""

    def asked() -> bool:
        fs, path = _filesystem(name)
        return bool(fs.exists(path))

    found: bool = told(name, asked)
    return found


def put_remote(file: Path, name: str) -> None:
    """Copy a file of this machine to the address `name`, over what is there; raises ImageError."""

    def put() -> None:
        fs, path = _filesystem(name)
        fs.put_file(str(file), path)

    told(name, put, what="written")


def write_remote(name: str, content: bytes) -> None:
    """Write a file to the address `name`, over what is there; raises ImageError."""

    def written() -> None:
        fs, path = _filesystem(name)
        fs.pipe_file(path, content)

    told(name, written, what="written")


def remote_names(name: str, recursive: bool, passed: PassedOver) -> list[str]:
    """Return the files that an address means: itself, what a pattern matches, or what lies in a folder.

    In bytewise order of the parts of their paths; hidden files are left out, and what is no picture is counted in
    `passed`. An address with the suffix of a picture, a document or a shard is a file, and nothing is asked for it.
    Raises ImageError when the store cannot be asked.
    """
    wanted = {*image_suffixes(), *document_suffixes(), ".tar"}
    head, mark, rest = name.partition("::") if not _chained_first(name) else (name, "", "")
    if suffix_of(head) in wanted and not _MAGIC.search(head):
        return [name]

    def listed() -> list[str] | None:
        fs, path = _filesystem(name)
        if _MAGIC.search(path):
            scheme = head.partition("://")[0]
            return [f"{scheme}://{found.lstrip('/')}" for found in fs.glob(path)]
        if not fs.isdir(path):
            return None
        found = fs.find(path) if recursive else [each["name"] for each in fs.ls(path) if each["type"] == "file"]
        root = path.rstrip("/")
        return [head.rstrip("/") + "/" + each[len(root) :].lstrip("/") for each in found]

    found = told(name, listed)
    if found is None:
        return [name]
    kept = []
    for each in sorted(found, key=lambda each: [part.encode("utf-8", "surrogateescape") for part in each.split("/")]):
        parts = each[len(head) :].split("/")
        if parts[-1].startswith(".") or JUNK_FOLDERS.intersection(parts):
            continue
        if suffix_of(each) in wanted:
            kept.append(each + mark + rest)
        else:
            passed.add(each)
    return kept


def _chained_first(name: str) -> bool:
    """Return whether a chain begins with a scheme alone, as `filecache::s3://b/a.jpg` does."""
    first, mark, _ = name.partition("::")
    return bool(mark) and "://" not in first


def _filesystem(name: str) -> tuple[Any, str]:
    fsspec = need("fsspec.core", "cloud", f"'{name}'")
    fs, path = fsspec.url_to_fs(name)
    return fs, path


def told(name: str, ask: Callable[[], Any], *, what: str = "read") -> Any:
    """Return what `ask` does; what the libraries of a store raise becomes an ImageError that names `name`."""
    try:
        return ask()
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"There is no '{name}'.") from None
    except ImportError as error:  # of the library of one store, or of fsspec
        raise ImageError(f"'{name}' cannot be {what}: {_words(error)}: pip install 'miil21k[cloud]'.") from None
    except Exception as error:  # every store has errors of its own
        raise ImageError(f"'{name}' cannot be {what}: {_words(error)}.") from None


def _words(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(str(text).splitlines()[0]).rstrip(".")
