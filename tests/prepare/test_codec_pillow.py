"""Odd images, and how near the resized ones come to the exact answer, for both codecs."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from raw_archives import animation, photo, turned
from reference_resize import antialiased, bilinear

from miil21k.prepare.codec_pillow import Converted
from miil21k.prepare.codecs import open_converter, with_codec
from miil21k.prepare.options import PrepareOptions

CODECS = [
    "pillow",
    pytest.param(
        "simplejpeg", marks=pytest.mark.skipif(with_codec(PrepareOptions()).codec == "pillow", reason="extra")
    ),
]
pytestmark = pytest.mark.parametrize("codec", CODECS)
OPTIONS = PrepareOptions(max_pixels=10**7, quality=100)


def convert(data: bytes, codec: str, **changes: object) -> Converted:
    return open_converter(replace(OPTIONS, codec=codec, **changes)).convert(data)  # type: ignore[arg-type]


def pixels(data: bytes | None) -> np.ndarray:
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def psnr(found: np.ndarray, exact: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((found - exact) ** 2)))


@pytest.mark.parametrize("size", [(500, 375), (451, 449), (641, 483), (1200, 901), (225, 3000)])
def test_resizing_is_within_38_db_of_the_exact_filter_even_after_jpeg(codec: str, size: tuple[int, int]) -> None:
    source = photo(*size, seed=1)
    found = pixels(convert(source, codec).data)
    assert found.shape == (224, 224, 3)
    assert psnr(found, antialiased(pixels(source), 224, 224)) > 38
    assert psnr(found, bilinear(pixels(source), 224, 224)) < 38 or size[0] * size[1] < 300_000


@pytest.mark.parametrize("size", [(500, 375), (1201, 900), (100, 256)])
def test_the_published_resize_samples_four_neighbours(codec: str, size: tuple[int, int]) -> None:
    source = photo(*size, seed=2)
    exact = bilinear(pixels(source), 224, 224)
    found = pixels(convert(source, codec, resize="published").data)
    lossless = io.BytesIO()  # what the JPEG encoder alone does to the exact answer
    Image.fromarray(np.rint(exact).astype(np.uint8)).save(lossless, "JPEG", quality=100, subsampling="4:2:0")
    assert psnr(found, pixels(lossless.getvalue()).astype(float)) > 42


@pytest.mark.parametrize(("subsampling", "bound"), [("4:4:4", np.inf), ("4:2:0", 45)])
def test_the_published_resize_is_that_of_opencv(codec: str, subsampling: str, bound: float) -> None:
    cv2 = pytest.importorskip("cv2")
    source = io.BytesIO()
    Image.fromarray(pixels(photo(500, 375, seed=4))).save(source, "JPEG", quality=95, subsampling=subsampling)
    decoded = cv2.imdecode(np.frombuffer(source.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    expected = cv2.resize(decoded, (224, 224), interpolation=cv2.INTER_LINEAR)
    found = convert(source.getvalue(), codec, resize="published").data or b""
    if codec == "simplejpeg" and np.isinf(bound):  # the same pixels, so what is encoded is the same
        import simplejpeg

        assert found == simplejpeg.encode_jpeg(expected, OPTIONS.quality, "BGR", "420")
    else:
        encoded = io.BytesIO()
        Image.fromarray(expected[:, :, ::-1]).save(encoded, "JPEG", quality=OPTIONS.quality, subsampling="4:2:0")
        assert psnr(pixels(found), pixels(encoded.getvalue()).astype(float)) > min(bound, 45)


def test_short_edge_keeps_the_aspect(codec: str) -> None:
    found = convert(photo(500, 375), codec, mode="short-edge")
    assert pixels(found.data).shape == (256, 341, 3)
    assert (found.outcome, found.width, found.height) == ("resized", 500, 375)


def test_small_images_and_mode_keep_copy_the_bytes(codec: str) -> None:
    for data, changes in ((photo(200, 150), {}), (photo(500, 375), {"mode": "keep"})):
        assert convert(data, codec, **changes) == Converted("copied", *Image.open(io.BytesIO(data)).size, ".jpg", data)
    assert convert(photo(200, 150, fmt="PNG"), codec).suffix == ".png"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>gone</html>" * 50, "not_an_image"),
        (photo()[:-2000], "damaged"),
        (photo(200, 150)[:-500], "damaged"),  # one that would be copied
        (photo()[:300], "damaged"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "damaged"),
        (photo(fmt="PNG")[:-2000], "damaged"),
    ],
)
def test_what_cannot_be_decoded_fails_with_a_reason(codec: str, data: bytes, reason: str) -> None:
    found = convert(data, codec)
    assert found.data is None
    assert found.outcome in ({reason, "not_an_image"} if len(data) < 500 and data else {reason})


def test_an_image_over_the_limit_is_refused_before_it_is_decoded(codec: str) -> None:
    assert convert(photo(600, 500), codec, max_pixels=299_999) == Converted("too_large")
    assert convert(photo(600, 500), codec, max_pixels=300_000).outcome == "resized"


def test_the_limit_is_the_one_that_was_given_and_not_that_of_pillow(
    codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    for data in (photo(600, 500), photo(600, 500, fmt="PNG"), photo(600, 500, mode="CMYK")):
        assert convert(data, codec, max_pixels=300_000).outcome == "resized"
        assert convert(data, codec, max_pixels=299_999).outcome == "too_large"


@pytest.mark.parametrize("fmt", ["JPEG", "PNG"])
def test_a_line_that_would_grow_beyond_a_jpeg_fails_alone(codec: str, fmt: str) -> None:
    assert convert(photo(2, 600, fmt=fmt), codec, mode="short-edge").outcome == "too_large"
    assert convert(photo(3, 600, fmt=fmt), codec, mode="short-edge").outcome == "resized"


def test_an_icon_with_a_bomb_inside_is_refused_before_it_is_decoded(codec: str) -> None:
    inside = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(inside, "PNG")
    bomb = b"\0\0\1\0\1\0\0\0\0\0\1\0\1\0" + len(inside.getvalue()).to_bytes(4, "little") + (22).to_bytes(4, "little")
    assert convert(bomb + inside.getvalue(), codec).outcome == "too_large"


def test_other_formats_and_modes_become_rgb_jpeg(codec: str) -> None:
    for data in (photo(fmt="PNG"), photo(mode="CMYK"), photo(mode="L"), photo(fmt="BMP")):
        found = convert(data, codec)
        with Image.open(io.BytesIO(found.data or b"")) as image:
            assert (found.outcome, image.format, image.mode, image.size) == ("resized", "JPEG", "RGB", (224, 224))
    assert pixels(convert(animation(), codec).data)[100, 100].tolist() == pytest.approx([255, 0, 0], abs=3)


def test_a_stored_orientation_is_applied(codec: str) -> None:
    found = convert(turned(), codec, mode="short-edge", size=224)
    upright = pixels(found.data)
    assert (found.width, found.height) == (400, 300)
    assert upright.shape == (224, 298, 3)
    assert upright[:100].mean() > 250
    assert upright[125:].mean() < 5


@pytest.mark.parametrize("place", ["xmp", "xmp after junk", "exif after junk"])
def test_an_orientation_that_is_not_where_it_usually_is_turns_the_image_too(codec: str, place: str) -> None:
    data = turned()
    start = data.index(b"Exif") - 4
    exif = data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")]
    packet = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    xmp = b"\xff\xe1" + (len(packet) + 2).to_bytes(2, "big") + packet
    plain = data.replace(exif, b"")
    block = (b"junk" if place.endswith("junk") else b"") + (exif if place.startswith("exif") else xmp)
    first = 4 + int.from_bytes(plain[4:6], "big")  # where the first segment ends
    found = convert(plain[:first] + block + plain[first:], codec, mode="short-edge", size=224)
    assert (found.width, found.height) == (400, 300)
    assert pixels(found.data)[:100].mean() > 250


def test_xmp_without_an_orientation_is_left_to_the_codec(codec: str) -> None:
    packet = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>"
    xmp = b"\xff\xe1" + (len(packet) + 2).to_bytes(2, "big") + packet
    data = photo(500, 375)
    found = convert(data[:2] + xmp + data[2:], codec)
    assert found == convert(data, codec)


def test_the_same_image_gives_the_same_bytes(codec: str) -> None:
    converter = open_converter(replace(OPTIONS, codec=codec))  # type: ignore[arg-type]
    first = converter.convert(photo(500, 375))
    converter.convert(photo(1600, 1200))
    assert converter.convert(photo(500, 375)) == first
