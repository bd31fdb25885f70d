"""The fast codec: libjpeg-turbo and a vectorised resize on the same memory, without a copy in between.

Three quarters of the time of a photograph go into entropy decoding. What can be saved is the rest: nothing large is
allocated per image, large JPEGs are decoded at 1/2, 1/4 or 1/8, and pixels have four bytes, which vector code likes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import simplejpeg
from PIL import Image

from miil21k.prepare.codec_pillow import Converted, PillowConverter
from miil21k.prepare.geometry import LONGEST_SIDE, decode_fraction, target_dimensions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.prepare.options import PrepareOptions

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")

__all__ = ["AntialiasedResizer", "PublishedResizer", "SimplejpegConverter"]

_FIRST_BYTES = 1 << 22  # of the buffer; it grows to the largest image met
_EXIF = b"Exif\x00\x00"
_XMP, _XMP_TURN = b"http://ns.adobe.com/xap/1.0/\x00", b"tiff:Orientation"
_REMEMBERED = 256
_SEGMENT = struct.Struct(">BBH")
_APP1, _START_OF_SCAN, _FILL = 0xE1, 0xDA, 0xFF


class _Resizer(Protocol):
    colours: str  # how simplejpeg calls the order of the channels
    channels: int

    def resize(self, pixels: NDArray[np.uint8], target: tuple[int, int], box: tuple[float, float]) -> NDArray[np.uint8]:
        """Return uint8 [height, width, channels] from uint8 [rows, columns, channels]; see the classes."""


class AntialiasedResizer:
    """The triangle filter over all pixels that count, by `cykooz-resizer`."""

    colours, channels = "RGBX", 4

    def __init__(self) -> None:
        import cykooz_resizer

        self._library: Any = cykooz_resizer
        self._resizer: Any = cykooz_resizer.Resizer()
        self._filter = cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.bilinear)
        self._resized = np.empty((0, 0, 4), np.uint8)
        self._target = _four_channels(self._resized)
        self._sources: dict[tuple[int, int, int], Image.Image] = {}
        self._options: dict[tuple[float, float], Any] = {}

    def resize(self, pixels: NDArray[np.uint8], target: tuple[int, int], box: tuple[float, float]) -> NDArray[np.uint8]:
        """Return uint8 [height, width, 4], which the next call overwrites, from uint8 [rows, columns, 4].

        target: (width, height). box: how much of `pixels` counts, (across, down), from the first row and column.
        """
        if self._target.size != target:
            self._resized = np.empty((target[1], target[0], 4), np.uint8)
            self._target = _four_channels(self._resized)
        options = self._options.get(box)
        if options is None:
            crop = self._library.CropBox(0.0, 0.0, *box)
            options = _remember(self._options, box, self._library.ResizeOptions(self._filter, crop_box=crop))
        place = (pixels.__array_interface__["data"][0], *pixels.shape[:2])
        source = self._sources.get(place)
        if source is None:
            source = _remember(self._sources, place, _four_channels(pixels))
        self._resizer.resize_pil(source, self._target, options)
        return self._resized


class PublishedResizer:
    """Bilinear between the four nearest pixels, by OpenCV, as the published script does it."""

    colours, channels = "BGR", 3

    def __init__(self) -> None:
        import cv2

        self._cv2: Any = cv2
        self._resized = np.empty((0, 0, 3), np.uint8)
        cv2.setNumThreads(1)  # the other cores have workers of their own

    def resize(self, pixels: NDArray[np.uint8], target: tuple[int, int], _: tuple[float, float]) -> NDArray[np.uint8]:
        """Return uint8 [height, width, 3], which the next call overwrites; target: (width, height)."""
        if self._resized.shape[:2] != target[::-1]:
            self._resized = np.empty((target[1], target[0], 3), np.uint8)
        self._cv2.resize(pixels, target, self._resized, interpolation=self._cv2.INTER_LINEAR)
        return self._resized


def _four_channels(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return a Pillow image on the memory of `pixels`, which stands for four channels without a meaning.

    Pillow maps memory for modes of four bytes only, and the resizer takes the fourth of all but CMYK for an alpha.
    """
    return Image.frombuffer("CMYK", pixels.shape[1::-1], pixels, "raw", "CMYK", 0, 1)


def _remember(known: dict[KeyT, ValueT], key: KeyT, value: ValueT) -> ValueT:
    """Put `value` into `known`, which is emptied before it grows large; sizes repeat in a data set."""
    if len(known) >= _REMEMBERED:
        known.clear()
    known[key] = value
    return value


class SimplejpegConverter:
    """Converts plain JPEGs itself; all else (other formats, CMYK, a stored orientation, damage) goes to Pillow."""

    def __init__(self, options: PrepareOptions) -> None:
        self._options = options
        self._pillow = PillowConverter(options)
        self._buffer = np.empty(_FIRST_BYTES, np.uint8)
        self._antialiased = options.resize == "antialiased"
        self._resizer: _Resizer = AntialiasedResizer() if self._antialiased else PublishedResizer()

    def convert(self, data: bytes, name: str = "") -> Converted:
        """Return the prepared image, or why there is none; name as for `PillowConverter`."""
        try:
            height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            return self._pillow.convert(data, name)
        target = target_dimensions(width, height, self._options)
        plain = space in ("YCbCr", "Gray") and not _may_be_turned(data)
        if target is None or not plain or max(target) > LONGEST_SIDE or width * height > self._options.max_pixels:
            return self._pillow.convert(data, name)
        try:
            resized = self.resized(data, (width, height), target)
        except (ValueError, MemoryError):  # libjpeg complains: Pillow says whether it can be read all the same
            return self._pillow.convert(data, name)
        encoded = simplejpeg.encode_jpeg(resized, self._options.quality, self._resizer.colours, "420")
        return Converted("resized", width, height, ".jpg", encoded)

    def resized(self, data: bytes, full: tuple[int, int], target: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the pixels that will be encoded: uint8 [height, width, 4 (RGBX) or 3 (BGR)].

        full, target: (width, height) before and after. Raises ValueError for damage.
        """
        k = decode_fraction(*full, target) if self._antialiased else 1
        rows, columns, channels = -(-full[1] // k), -(-full[0] // k), self._resizer.channels
        if self._buffer.size < rows * columns * channels:
            self._buffer = np.empty(rows * columns * channels, np.uint8)
        # Halved chroma of an image that shrinks is not interpolated: the encoder halves it again, and the
        # antialiasing filter blurs more than that changes.
        shrinks = full[0] > target[0] and full[1] > target[1]
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, self._resizer.colours, fastupsample=shrinks, min_height=rows, min_width=columns, buffer=self._buffer
        )
        # 375 rows at 1/2 are stored as 188, of which 187.5 count.
        return self._resizer.resize(pixels, target, (full[0] / k, full[1] / k))


def _may_be_turned(data: bytes) -> bool:
    """Say whether the JPEG has an EXIF block, an orientation in XMP, or segments that only Pillow can follow.

    Walks from segment to segment, as searching the bytes takes longer.
    """
    at, last = 2, len(data) - _SEGMENT.size
    while at <= last:
        fill, marker, length = _SEGMENT.unpack_from(data, at)
        if fill != _FILL:
            return True  # Pillow skips what stands between segments
        if marker == _START_OF_SCAN:
            return False
        if marker == _FILL:  # any number of fill bytes may stand before a marker
            at += 1
            continue
        if marker == _APP1 and (
            data.startswith(_EXIF, at + 4)
            or (data.startswith(_XMP, at + 4) and data.find(_XMP_TURN, at, at + 2 + length) >= 0)
        ):
            return True
        at += 2 + length
    return True
