"""Open any picture under one guard, or say why not.

Nothing else in the package opens pixels. The guard: regular files only, the formats of `miil21k.suffixes` alone, and
a limit of pixels that holds before anything is decoded, for every format and in every thread: Pillow's own limit is a
global of the process, and is left alone.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import stat
import struct
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from miil21k.data.cloud import is_remote, local_path, open_remote
from miil21k.data.limits import check_size
from miil21k.data.options import MAX_PIXELS
from miil21k.data.parts import split_part
from miil21k.data.pdf import draw_page
from miil21k.data.raw import develop, is_raw
from miil21k.data.video import HEAD, container_of, read_frame
from miil21k.errors import ImageError
from miil21k.suffixes import FORMATS, HEIF_SUFFIXES, RAW_SUFFIXES, reads_heif, suffix_of
from miil21k.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from miil21k.data.limits import Size
    from miil21k.data.parts import Part

__all__ = ["name_of", "open_file", "open_image", "read_file", "reason_of"]

MAX_FILE = 2**30  # bytes that are read into memory; far above any image of the allowed size


@contextmanager
def open_image(
    source: str | Path | bytes | bytearray | memoryview | IO[bytes],
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    part: Part | None = None,
) -> Iterator[Image.Image]:
    """Yield the picture with its header read and its size checked; of most formats nothing is decoded yet.

    source, name, max_pixels and the errors are those of `load_image`. part: which page or frame; without one, that
    which the name of a file says (`report.pdf#page=3`), and the first of a file that holds several. Where a picture
    lies inside of another file (ICO, ICNS), or a frame may be larger than its screen (GIF), the inner sizes are checked
    as well.
    """
    name = name_of(source) if name is None else name
    if part is None and isinstance(source, (str, Path)):
        source, part = split_part(str(source))
    with _file(source, name) as file:
        yield _identified(file, name, max_pixels, part)


def read_file(path: str | Path, name: str | None = None) -> bytes:
    """Return the bytes of a regular file of at most 1 GiB; raises ImageError that calls it by `name`, or its path."""
    name = str(path) if name is None else name
    with open_file(path, name) as file:
        content = file.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise ImageError(f"'{name}' has more than {MAX_FILE:,} bytes.", "too_large")
    return content


def _file(source: str | Path | bytes | bytearray | memoryview | IO[bytes], name: str) -> AbstractContextManager[Any]:
    """Return the source as an open file; one that was given open stays so."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not len(source):
            raise ImageError(f"'{name}' is empty (0 bytes).", "empty")
        return nullcontext(io.BytesIO(source))
    if isinstance(source, (str, Path)):
        return open_file(source, name)
    if not hasattr(source, "read"):
        raise ImageError(
            f"'{name}' is a {type(source).__name__}: give a path, encoded bytes, a Pillow image or a NumPy array."
        )
    try:
        source.seek(0)
    except (AttributeError, OSError):  # a pipe, or an answer from the web
        content = source.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise ImageError(f"'{name}' has more than {MAX_FILE:,} bytes.", "too_large") from None
        return _file(content, name)
    return nullcontext(source)


_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_file(path: str | Path, name: str) -> IO[bytes]:
    """Return a regular file, or what lies at an address that fsspec knows, open; raises ImageError with its `name`.

    A pipe that nobody writes to would be waited for until the end of days.
    """
    if is_remote(str(path)):
        if (local := local_path(str(path))) is None:
            return open_remote(str(path))
        path = local
    try:
        status = os.stat(path)  # noqa: PTH116 - raises for what Path.is_file hides
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
            raise ImageError(f"'{name}' is {kind}, and only regular files are read.")
        if not status.st_size:
            raise ImageError(f"'{name}' is empty (0 bytes).", "empty")
        # Should it have become a pipe meanwhile, opening it does not wait either.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        return os.fdopen(os.open(path, flags | getattr(os, "O_CLOEXEC", 0)), "rb")
    except OSError as error:
        raise ImageError(f"Cannot read '{name}': {error.strerror or error}.") from None
    except ValueError as error:  # a name with a zero byte
        raise ImageError(f"Cannot read '{name}': {error}.") from None


def _identified(file: IO[bytes], name: str, max_pixels: int, part: Part | None) -> Image.Image:
    """Return the image of the first format that takes `file`, all sizes checked."""
    head = file.read(HEAD)
    prefix = head[:16]
    if prefix.startswith(b"%PDF-"):
        return draw_page(file, name, _page_of(part, name), max_pixels)
    if suffix_of(name) in RAW_SUFFIXES and is_raw(head):
        return develop(file, name, max_pixels)
    if container_of(head) is not None:
        return read_frame(file, name, _time_of(part, name), max_pixels)
    image = _by_pillow(file, prefix, name, max_pixels)
    if image.format == "TIFF":
        _turn_to(image, _page_of(part, name), name, max_pixels)
    elif part is not None:
        raise ImageError(f"'{name}' is one picture: it has no pages and no frames that can be named.")
    return image


def _by_pillow(file: IO[bytes], prefix: bytes, name: str, max_pixels: int) -> Image.Image:
    try:
        for format_name in _known():
            factory, accepts = Image.OPEN[format_name]
            try:
                accepted = accepts is None or accepts(prefix)
                if not accepted or isinstance(accepted, str):  # a text says what Pillow was built without
                    continue
                for size in _INNER[format_name](file) if format_name in _INNER else ():
                    check_size(size, name, max_pixels)
                file.seek(0)
                image: Image.Image = factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # as Pillow: not this format after all
                continue
            check_size(image.size, name, max_pixels)
            return image
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"'{name}' holds a picture of more pixels than Pillow's limit.", "too_large") from None
    except OSError as error:
        raise ImageError(f"Cannot read '{name}': {reason_of(error)}.", "damaged") from None
    except Exception as error:  # plugins raise whatever their parser stumbles over
        raise ImageError(f"'{name}' is damaged: {reason_of(error)}.", "damaged") from None
    if suffix_of(name) in HEIF_SUFFIXES and not reads_heif():
        raise ImageError(f"'{name}' is in a format that needs an extra: pip install 'miil21k[heic]'.", "not_an_image")
    raise ImageError(f"'{name}' is not an image in a format that can be read.", "not_an_image")


def _known() -> Iterator[str]:
    """Yield the formats in the order of the table, each plugin imported when it is reached, and HEIF at the end."""
    for name, form in FORMATS.items():
        if name not in Image.OPEN:
            try:
                importlib.import_module(f"PIL.{form.plugin}ImagePlugin")
            except ImportError:  # a Pillow without AVIF
                continue
        if name in Image.OPEN:
            yield name
    if reads_heif():
        if "HEIF" not in Image.OPEN:
            importlib.import_module("pillow_heif").register_heif_opener()
        yield "HEIF"


def _ico_sizes(file: IO[bytes]) -> Iterator[Size]:
    """Yield the sizes of the pictures in an icon, which Pillow decodes while it opens the file."""
    file.seek(4)
    (count,) = struct.unpack("<H", file.read(2))
    offsets = [struct.unpack("<12xI", file.read(16))[0] for _ in range(count)]
    for offset in offsets:
        file.seek(offset)
        head = file.read(24)
        if head.startswith(_PNG):
            yield struct.unpack(">II", head[16:24])
        elif len(head) == 24:
            old = head[:4] == b"\x0c\0\0\0"  # the header of OS/2
            width, height = struct.unpack("<HH", head[4:8]) if old else struct.unpack("<ii", head[4:12])
            yield abs(width), abs(height) // 2  # colours and mask, one above the other


def _icns_sizes(file: IO[bytes]) -> Iterator[Size]:
    """Yield the sizes of the PNG and JPEG 2000 pictures in an icon of macOS; the others are small by their type."""
    file.seek(4)
    (end,) = struct.unpack(">I", file.read(4))
    at = 8
    while at + 8 <= end:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        (length,) = struct.unpack(">4xI", head)
        start = file.read(24)
        if start.startswith(_PNG):
            yield struct.unpack(">II", start[16:24])
        elif start.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP")):
            file.seek(at + 8)
            plugin = importlib.import_module("PIL.Jpeg2KImagePlugin")
            yield plugin.Jpeg2KImageFile(io.BytesIO(file.read(min(length, MAX_FILE)))).size
        at += max(length, 8)


def _gif_sizes(file: IO[bytes]) -> Iterator[Size]:
    """Yield the sizes of screen and first frame; a frame that is larger makes Pillow allocate it while opening."""
    file.seek(6)
    width, height, flags = struct.unpack("<HHB2x", file.read(7))
    yield width, height
    if flags & 0x80:
        file.seek(3 << ((flags & 7) + 1), io.SEEK_CUR)
    while (mark := file.read(1)) == b"!":
        file.seek(1, io.SEEK_CUR)
        while (length := file.read(1)) not in (b"", b"\0"):
            file.seek(length[0], io.SEEK_CUR)
    if mark == b"," and len(place := file.read(8)) == 8:
        left, top, wide, high = struct.unpack("<4H", place)
        yield left + wide, top + high


_PNG = b"\x89PNG\r\n\x1a\n"
_INNER: dict[str, Callable[[IO[bytes]], Iterator[Size]]] = {
    "ICO": _ico_sizes,
    "ICNS": _icns_sizes,
    "GIF": _gif_sizes,
}


def _page_of(part: Part | None, name: str) -> int:
    """Return the page that `part` means, the first without one; raises ImageError for a moment."""
    if part is not None and part.page is None:
        raise ImageError(f"'{name}' has pages and no frames: name one by #page=NUMBER.")
    return 1 if part is None or part.page is None else part.page


def _time_of(part: Part | None, name: str) -> float:
    """Return the moment that `part` means, the beginning without one; raises ImageError for a page."""
    if part is not None and part.time is None:
        raise ImageError(f"'{name}' has frames and no pages: name one by #t=SECONDS.")
    return 0.0 if part is None or part.time is None else part.time


def _turn_to(image: Image.Image, page: int, name: str, max_pixels: int) -> None:
    """Go to a page of a TIFF, and check its size, and that of its tiles."""
    try:
        image.seek(page - 1)
    except EOFError:
        raise ImageError(f"'{name}' has fewer than {page} pages.") from None
    except Exception as error:  # the plugin raises whatever its parser stumbles over
        raise ImageError(f"'{name}' is damaged: {reason_of(error)}.", "damaged") from None
    check_size(image.size, name, max_pixels)
    _check_tiles(image, name, max_pixels)


def _check_tiles(image: Image.Image, name: str, max_pixels: int) -> None:
    """Refuse a TIFF whose tiles, which are decoded whole, are larger than the picture may be."""
    tags = getattr(image, "tag_v2", {})
    width, height = tags.get(322, 0), tags.get(323, 0)
    if isinstance(width, int) and isinstance(height, int) and width * height:
        check_size((width, height), name, max_pixels)


def reason_of(error: Exception) -> str:
    """Return in words why a plugin gave up: its own, or what it means that its code stumbled."""
    if not isinstance(error, (OSError, SyntaxError, ValueError)) or isinstance(error, UnicodeError):
        return "it is cut off, or its header says what the rest does not hold"  # struct.error, IndexError, ...
    text = getattr(error, "strerror", None) or (error.args[0] if error.args else "nothing says why")
    words = text.decode("latin-1") if isinstance(text, bytes) else str(text)
    return printable(words).rstrip(".")


def name_of(source: Any) -> str:
    """Return how messages call what is read: a path, or the kind of it."""
    if isinstance(source, (str, Path)):
        return str(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"{len(source)} bytes"
    if isinstance(source, np.ndarray):
        return f"array {list(source.shape)}"
    return str(getattr(source, "filename", None) or getattr(source, "name", None) or type(source).__name__)
