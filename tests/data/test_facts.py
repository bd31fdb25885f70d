"""What a picture's file says about itself: digest, size, time, place, and the hash that near pictures share."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from miil21k.data.facts import facts_of, file_facts
from miil21k.data.images import load_picture

pytest.importorskip("imagehash", reason="the extra 'find' is not installed")
LIMIT = 10**8


def picture(exif: Image.Exif | None = None, *, quality: int = 90, mirrored: bool = False) -> bytes:
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).resize((200, 150), Image.Resampling.BICUBIC)
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, **({} if exif is None else {"exif": exif}))
    return file.getvalue()


def photographed(*, time: str = "2024:05:31 14:07:09", offset: str | None = None, latitude=(48.0, 8.0, 13.8)):
    exif = Image.Exif()
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    inner[ExifTags.Base.DateTimeOriginal] = time
    if offset is not None:
        inner[ExifTags.Base.OffsetTimeOriginal] = offset
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLatitude] = "S", latitude
    gps[ExifTags.GPS.GPSLongitudeRef], gps[ExifTags.GPS.GPSLongitude] = "E", (11.0, 34.0, 31.2)
    return exif


def facts(content: bytes):
    return facts_of(content, load_picture(content), max_pixels=LIMIT)


def test_facts_are_those_of_the_file() -> None:
    content = picture(photographed(offset="+02:00"))

    found = facts(content)

    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert (found.num_bytes, found.width, found.height) == (len(content), 200, 150)
    assert found.captured == "2024-05-31T14:07:09+02:00"
    assert found.latitude == pytest.approx(-48.1371667, abs=1e-6)
    assert found.longitude == pytest.approx(11.5753333, abs=1e-6)


def test_a_picture_that_says_nothing_has_neither_time_nor_place() -> None:
    assert file_facts(picture(), max_pixels=LIMIT) == (None, (None, None))


@pytest.mark.parametrize(
    "exif",
    [
        photographed(time="0000:00:00 00:00:00", latitude=(91.0, 0.0, 0.0)),
        photographed(time="\0\0", latitude=(48.0, 8.0)),
    ],
)
def test_what_cannot_be_is_not_known(exif: Image.Exif) -> None:
    assert file_facts(picture(exif), max_pixels=LIMIT) == (None, (None, None))


def test_a_hash_tells_near_pictures_from_others() -> None:
    first, again, other = facts(picture()), facts(picture(quality=40)), facts(picture(mirrored=True))

    assert first.sha256 != again.sha256
    assert bin(first.phash ^ again.phash).count("1") <= 4
    assert bin(first.phash ^ other.phash).count("1") >= 16
