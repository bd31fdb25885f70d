"""What a picture's file says about itself: digest, size, when and where it was taken, and how it looks from afar."""

from __future__ import annotations

import hashlib
import math
import re
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import ExifTags

from miil21k.data.opening import open_image
from miil21k.environment import need
from miil21k.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from miil21k.data.images import Picture

__all__ = ["ImageFacts", "facts_of", "file_facts"]

_JPEG, _EXIF = b"\xff\xd8\xff", b"Exif\0\0"
_OFFSET = re.compile(r"[+-]\d{2}:\d{2}")


class ImageFacts(NamedTuple):
    """What is known about one picture without a network.

    sha256: hex digest of its bytes. num_bytes: of the file. width, height: upright, in pixels. phash: the 64 bits of
    its perceptual hash; near pictures differ in few. captured: when it was taken, ISO 8601, with the offset from UTC
    where the file has it. latitude, longitude: where, in degrees, north and east positive. None where the file does
    not say.
    """

    sha256: str
    num_bytes: int
    width: int
    height: int
    phash: int
    captured: str | None = None
    latitude: float | None = None
    longitude: float | None = None


def facts_of(content: bytes | None, picture: Picture, *, max_pixels: int) -> ImageFacts:
    """Return the facts of a picture that was decoded from `content`.

    content: None for a page or a frame, which has no bytes of its own: its digest is that of its pixels.
    Raises MissingExtra without the package of perceptual hashes (extra `find`).
    """
    hashes = need("imagehash", "find", "A perceptual hash", package="ImageHash")
    bits = hashes.phash(picture.image).hash.flatten()
    phash = int("".join("1" if bit else "0" for bit in bits.tolist()), 2)
    width, height = picture.size
    if content is None:
        pixels = picture.image.tobytes()
        return ImageFacts(hashlib.sha256(pixels).hexdigest(), len(pixels), width, height, phash)
    captured, place = file_facts(content, max_pixels=max_pixels)
    return ImageFacts(hashlib.sha256(content).hexdigest(), len(content), width, height, phash, captured, *place)


def file_facts(content: bytes, *, max_pixels: int) -> tuple[str | None, tuple[float | None, float | None]]:
    """Return when and where a picture was taken, as its EXIF says; None for what it does not say, or says wrongly."""
    if content.startswith(_JPEG) and _EXIF not in content:  # most pictures of the web: not worth opening again
        return None, (None, None)
    try:
        with open_image(content, max_pixels=max_pixels) as image:
            exif = image.getexif()
            return _captured(exif), _place(exif)
    except (ImageError, OSError, ValueError, SyntaxError, TypeError):  # damaged EXIF is no fault of the picture
        return None, (None, None)


def _captured(exif: Image.Exif) -> str | None:
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    for time, offset in (
        (inner.get(ExifTags.Base.DateTimeOriginal), inner.get(ExifTags.Base.OffsetTimeOriginal)),
        (inner.get(ExifTags.Base.DateTimeDigitized), inner.get(ExifTags.Base.OffsetTimeDigitized)),
        (exif.get(ExifTags.Base.DateTime), inner.get(ExifTags.Base.OffsetTime)),
    ):
        with suppress(ValueError):
            taken = datetime.strptime(str(time).strip(" \0"), "%Y:%m:%d %H:%M:%S").isoformat()
            zone = str(offset).strip(" \0")
            return taken + zone if _OFFSET.fullmatch(zone) else taken
    return None


def _place(exif: Image.Exif) -> tuple[float | None, float | None]:
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    latitude = _degrees(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef), "S", 90)
    longitude = _degrees(gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef), "W", 180)
    return (None, None) if latitude is None or longitude is None else (latitude, longitude)


def _degrees(parts: Any, side: Any, negative: str, most: float) -> float | None:
    """Return degrees of degrees, minutes and seconds; None for what is no such angle."""
    try:
        values: Sequence[float] = [float(part) for part in parts]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if len(values) != 3 or not all(math.isfinite(value) and value >= 0 for value in values):
        return None
    angle = values[0] + values[1] / 60 + values[2] / 3600
    if angle > most:
        return None
    return round(-angle if str(side).strip(" \0").upper() == negative else angle, 7)
