"""Open any picture under one guard, and read it into upright RGB, or say why not.

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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from PIL import ExifTags, Image

from miil21k.data.options import MAX_PIXELS
from miil21k.errors import ImageError
from miil21k.suffixes import FORMATS, HEIF_SUFFIXES, reads_heif, suffix_of
from miil21k.text import brief, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

__all__ = [
    "ImageInput",
    "ImageSource",
    "Picture",
    "failing",
    "load_image",
    "load_picture",
    "open_image",
    "read_file",
    "upright_size",
]

MAX_FILE = 2**30  # bytes that are read into memory; far above any image of the allowed size
ImageSource: TypeAlias = "str | Path | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[Any]"
Size: TypeAlias = "tuple[int, int]"
Box: TypeAlias = "tuple[float, float, float, float]"


@dataclass(frozen=True, eq=False)
class ImageInput:
    """An image with the name its row carries.

    source: what `load_image` takes, or a function without arguments that returns it (a download, say); it is called
    in a worker thread, and an OSError or Miil21kError that it raises becomes the row's error.
    new_batch: no batch holds both this image and the one before it, so that the answers for a shard, down to the last
    digit, do not depend on what else is predicted.
    """

    name: str
    source: ImageSource | Callable[[], ImageSource]
    new_batch: bool = False

    __repr__ = brief


class Picture(NamedTuple):
    """An upright RGB image that may have been decoded at 1/2, 1/4 or 1/8.

    size: (width, height) of the original, upright. box: the part of `image`, (left, upper, right, lower) in its
    pixels, that the original fills: 3,002 columns at 1/4 are 750.5, stored as 751; None for all of it.
    """

    image: Image.Image
    size: Size
    box: Box | None = None


@contextmanager
def open_image(
    source: str | Path | bytes | bytearray | memoryview | IO[bytes],
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Image.Image]:
    """Yield the picture with its header read and its size checked; nothing is decoded yet.

    source, name, max_pixels and the errors are those of `load_image`. Where a picture lies inside of another file
    (ICO, ICNS), or a frame may be larger than its screen (GIF), the inner sizes are checked as well.
    """
    name = _name(source) if name is None else name
    with _file(source, name) as file:
        yield _identified(file, name, max_pixels)


def load_image(
    source: ImageSource,
    *,
    name: str | None = None,
    exif: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Return the image as upright 8-bit RGB.

    source: a path, encoded bytes, a binary file, a Pillow image, or an array [H, W], [H, W, 1], [H, W, 3] or
    [H, W, 4] of uint8, uint16 (scaled by 1/257), bool, or floats in [0, 1] (times 255).
    name: how messages call it; the path, or its kind, when left out. exif: apply the stored orientation (Pillow
    always applies that of a TIFF).
    max_pixels: a larger image is refused before anything is decoded.

    Transparency is composited on white. 16-bit grey is scaled to 8 bits, CMYK, LAB and palettes are converted by
    Pillow, the first frame stands for an animation.
    Raises ImageError, naming the source and the reason: not found, no regular file, not an image, cut off or damaged,
    empty, too large.
    """
    return load_picture(source, name=name, exif=exif, max_pixels=max_pixels).image


def load_picture(
    source: ImageSource,
    *,
    name: str | None = None,
    exif: bool = True,
    max_pixels: int = MAX_PIXELS,
    reduce_to: int | None = None,
) -> Picture:
    """Return the image as `load_image` does, with the geometry of the original.

    reduce_to: let a JPEG be decoded at 1/2, 1/4 or 1/8 as long as neither side becomes smaller than this; other
    formats ignore it. Decoding in the DCT domain is a box filter, so this is not exact; docs/predict.md says how far
    it goes. None decodes in full.
    """
    name = _name(source) if name is None else name
    try:
        if isinstance(source, np.ndarray):
            image = _from_array(source, name)
            _check_size(image.size, name, max_pixels)
            return Picture(_to_rgb(image), image.size)
        if isinstance(source, Image.Image):
            _check_size(source.size, name, max_pixels)
            return _decoded(source, name, exif, None)  # a reduced decode would change the caller's image
        with open_image(source, name=name, max_pixels=max_pixels) as image:
            return _decoded(image, name, exif, reduce_to)
    except OSError as error:  # the file itself; what is wrong inside it was named below
        raise ImageError(f"Cannot read '{name}': {error.strerror or error}.") from None
    except MemoryError:
        raise ImageError(f"'{name}' needs more memory than there is.", "too_large") from None


def failing(message: str) -> Callable[[], ImageSource]:
    """Return the source of an input that is known to fail: it raises an ImageError."""
    return partial(_fail, message)


def _fail(message: str) -> ImageSource:
    raise ImageError(message)


def read_file(path: str | Path, name: str | None = None) -> bytes:
    """Return the bytes of a regular file of at most 1 GiB; raises ImageError that calls it by `name`, or its path."""
    name = str(path) if name is None else name
    with _regular(path, name) as file:
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
        return _regular(source, name)
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


def _regular(path: str | Path, name: str) -> IO[bytes]:
    """Open a regular file. A pipe that nobody writes to would be waited for until the end of days."""
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


def _identified(file: IO[bytes], name: str, max_pixels: int) -> Image.Image:
    """Return the image of the first format that takes `file`, all sizes checked."""
    prefix = file.read(16)
    try:
        for format_name in _known():
            factory, accepts = Image.OPEN[format_name]
            try:
                accepted = accepts is None or accepts(prefix)
                if not accepted or isinstance(accepted, str):  # a text says what Pillow was built without
                    continue
                for size in _INNER[format_name](file) if format_name in _INNER else ():
                    _check_size(size, name, max_pixels)
                file.seek(0)
                image: Image.Image = factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # as Pillow: not this format after all
                continue
            _check_size(image.size, name, max_pixels)
            if format_name == "TIFF":
                _check_tiles(image, name, max_pixels)
            return image
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"'{name}' holds a picture of more pixels than Pillow's limit.", "too_large") from None
    except OSError as error:
        raise ImageError(f"Cannot read '{name}': {_reason(error)}.", "damaged") from None
    except Exception as error:  # plugins raise whatever their parser stumbles over
        raise ImageError(f"'{name}' is damaged: {_reason(error)}.", "damaged") from None
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


def _check_tiles(image: Image.Image, name: str, max_pixels: int) -> None:
    """Refuse a TIFF whose tiles, which are decoded whole, are larger than the picture may be."""
    tags = getattr(image, "tag_v2", {})
    width, height = tags.get(322, 0), tags.get(323, 0)
    if isinstance(width, int) and isinstance(height, int) and width * height:
        _check_size((width, height), name, max_pixels)


def _reason(error: Exception) -> str:
    """Return in words why a plugin gave up: its own, or what it means that its code stumbled."""
    if not isinstance(error, (OSError, SyntaxError, ValueError)) or isinstance(error, UnicodeError):
        return "it is cut off, or its header says what the rest does not hold"  # struct.error, IndexError, ...
    text = getattr(error, "strerror", None) or (error.args[0] if error.args else "nothing says why")
    words = text.decode("latin-1") if isinstance(text, bytes) else str(text)
    return printable(words).rstrip(".")


def _decoded(image: Image.Image, name: str, exif: bool, reduce_to: int | None) -> Picture:
    size = image.size
    box = None
    try:
        if reduce_to is not None and image.format in ("JPEG", "MPO"):  # others offer a thumbnail, or nothing
            drafted = image.draft(None, (reduce_to, reduce_to))  # None leaves the mode alone
            box = None if drafted is None else drafted[1]
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # plugins raise whatever their decoder stumbles over
        raise ImageError(f"'{name}' is damaged: {_reason(error)}.", "damaged") from None
    turn = _TURNS.get(_orientation(image)) if exif else None
    try:
        upright = _to_rgb(image if turn is None else image.transpose(turn))
    except ValueError as error:
        raise ImageError(
            f"'{name}' has pixels of mode {image.mode} that cannot be shown: {error}.", "damaged"
        ) from None
    if box is None or image.size == size:
        return Picture(upright, upright.size)
    if turn is not None and _MOVES[turn][0]:
        size = size[1], size[0]
    return Picture(upright, size, _turned(box, image.size, turn))


def _turned(box: Box, size: Size, turn: Image.Transpose | None) -> Box:
    """Return where `box`, which begins in the upper left corner of an image of `size`, lies after the turn."""
    _, _, right, lower = box
    left, upper = 0.0, 0.0
    if turn is None:
        return box
    swaps, mirrors_x, mirrors_y = _MOVES[turn]
    if swaps:
        right, lower, size = lower, right, (size[1], size[0])
    if mirrors_x:
        left, right = size[0] - right, float(size[0])
    if mirrors_y:
        upper, lower = size[1] - lower, float(size[1])
    return left, upper, right, lower


# Whether rows become columns, and whether left and right, or up and down, change places after that.
_MOVES = {
    Image.Transpose.FLIP_LEFT_RIGHT: (False, True, False),
    Image.Transpose.ROTATE_180: (False, True, True),
    Image.Transpose.FLIP_TOP_BOTTOM: (False, False, True),
    Image.Transpose.TRANSPOSE: (True, False, False),
    Image.Transpose.ROTATE_270: (True, True, False),
    Image.Transpose.TRANSVERSE: (True, True, True),
    Image.Transpose.ROTATE_90: (True, False, True),
}


def _check_size(size: Size, name: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"'{name}' has {width} x {height} pixels, more than the limit of {max_pixels:,}; "
            "raise max_pixels to read it.",
            "too_large",
        )
    if not width * height:
        raise ImageError(f"'{name}' has no pixels ({width} x {height}).", "damaged")


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright_size(image: Image.Image) -> Size:
    """Return (width, height) of an image that is not decoded yet, with its stored orientation applied."""
    turn = None if image.format == "TIFF" else _TURNS.get(_orientation(image))
    return image.size if turn is None or not _MOVES[turn][0] else (image.height, image.width)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) when there is none or the EXIF block is damaged."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a damaged EXIF block costs the orientation, not the picture
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return `image` as RGB; raises ValueError for pixels without a defined range."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return _gray(_eight_bits(np.asarray(image)))
    if image.mode == "LAB":
        from PIL import ImageCms

        srgb = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        return srgb if srgb is not None else image
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema() == (255, 255):
        return layer.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _gray(values: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(values).convert("RGB")


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return uint8 of the same shape; raises ValueError for a dtype or range without a defined white."""
    kind = values.dtype.newbyteorder("=")  # 16-bit grey is stored in either order
    if kind == np.uint8:
        return values.astype(np.uint8, copy=False)
    if kind == np.bool_:
        return np.where(values, 255, 0).astype(np.uint8)
    low, high = values.min(), values.max()
    if kind == np.uint16 or (kind == np.int32 and low >= 0 and high <= 65535):
        return np.asarray((values.astype(np.uint32) + 128) // 257, np.uint8)
    if kind.kind == "f" and low >= 0 and high <= 1:  # false for NaN
        return np.asarray(np.rint(values * 255), np.uint8)
    raise ValueError(f"{kind} from {low} to {high}; scale it to uint8, uint16 or floats in [0, 1]")


def _from_array(values: NDArray[Any], name: str) -> Image.Image:
    shape = list(values.shape)
    if values.ndim not in (2, 3) or (values.ndim == 3 and shape[2] not in (1, 3, 4)) or not values.size:
        raise ImageError(f"'{name}' has the shape {shape}; an image is [H, W], [H, W, 1], [H, W, 3] or [H, W, 4].")
    try:
        pixels = _eight_bits(values[:, :, 0] if shape[2:] == [1] else values)
    except ValueError as error:
        raise ImageError(f"'{name}' holds {error}.") from None
    return Image.fromarray(np.ascontiguousarray(pixels))


def _name(source: ImageSource) -> str:
    if isinstance(source, (str, Path)):
        return str(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"{len(source)} bytes"
    if isinstance(source, np.ndarray):
        return f"array {list(source.shape)}"
    return str(getattr(source, "filename", None) or getattr(source, "name", None) or type(source).__name__)
