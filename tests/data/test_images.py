"""Every odd kind of image becomes upright RGB with the right values, or an ImageError that names it."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miil21k.data.images import load_image
from miil21k.errors import ImageError

CAT = Path(__file__).parents[2] / "examples" / "images" / "cat.jpg"


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def corners() -> Image.Image:
    """A 16 x 8 picture whose four quarters are red, green, blue and white."""
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:4, :8], pixels[:4, 8:], pixels[4:, :8], pixels[4:, 8:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), 255
    return Image.fromarray(pixels)


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


# The stored picture is turned so that undoing the orientation gives `corners()` back (EXIF 2.32, tag 274).
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_all_eight_orientations_come_out_upright(orientation: int, kind: str) -> None:
    turn = STORED[orientation]
    stored = corners() if turn is None else corners().transpose(turn)
    exif = Image.Exif()
    exif[274] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    data = encoded(stored, kind, exif=exif, **options)
    upright = np.asarray(load_image(data)).astype(int)
    assert np.abs(upright - np.asarray(corners())).max() <= 3
    untouched = load_image(data, exif=False)
    assert untouched.size == (corners().size if kind == "TIFF" else stored.size)  # Pillow turns a TIFF by itself


def test_a_damaged_exif_block_costs_the_orientation_and_not_the_picture() -> None:
    data = encoded(corners(), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken")
    assert np.array_equal(np.asarray(load_image(data)), np.asarray(corners()))


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    image = load_image(encoded(Image.fromarray(values), "PNG"))
    assert np.asarray(image)[0].tolist() == [[0] * 3, [1] * 3, [128] * 3, [255] * 3]
    assert np.asarray(load_image(encoded(Image.fromarray(values), "TIFF")))[0, :, 1].tolist() == [0, 1, 128, 255]
    assert np.asarray(load_image(values))[0, :, 2].tolist() == [0, 1, 128, 255]


def test_sixteen_bit_colour_keeps_its_high_bytes() -> None:
    rows = b"".join(b"\0" + struct.pack(">3H", 0xFF00, 0x8000, 0x0100) * 2 for _ in range(2))
    parts = [(b"IHDR", struct.pack(">2I5B", 2, 2, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    assert pixel(load_image(data), 1, 1) == (255, 128, 1)


def test_cmyk_and_lab_become_the_colours_they_mean() -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = pixel(load_image(encoded(cmyk, "JPEG", quality=95)), 4, 4)
    assert red[0] > 250
    assert max(red[1:]) < 8
    lab = Image.new("LAB", (4, 4), (255, 128, 128))  # L* = 100, a* = b* = 0
    assert min(pixel(load_image(encoded(lab, "TIFF")), 1, 1)) >= 252


def test_a_palette_with_transparency_lies_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    loaded = load_image(encoded(image, "PNG", transparency=0))
    assert [pixel(loaded, x, 0) for x in (0, 1)] == [(255, 255, 255), (40, 50, 60)]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (100, 0, 0, 255), (100, 0, 0)),
        ("RGBA", (100, 0, 0, 0), (255, 255, 255)),
        ("LA", (0, 51), (204, 204, 204)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_grey_bilevel_and_alpha_become_rgb(mode: str, colour: int | tuple[int, ...], expected: tuple[int, ...]) -> None:
    loaded = load_image(encoded(Image.new(mode, (3, 2), colour), "PNG"))
    assert (loaded.mode, loaded.size) == ("RGB", (3, 2))
    assert pixel(loaded, 2, 1) == expected


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert pixel(load_image(data), 3, 3) == (255, 0, 0)


def test_one_pixel_is_an_image() -> None:
    assert pixel(load_image(encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG")), 0, 0) == (9, 8, 7)


def test_every_source_gives_the_same_pixels() -> None:
    data = CAT.read_bytes()
    expected = np.asarray(load_image(CAT))
    assert expected.shape == (300, 451, 3)
    for source in (str(CAT), data, io.BytesIO(data), Image.open(CAT), expected, expected / 255):
        assert np.array_equal(np.asarray(load_image(source)), expected)


def test_arrays_may_be_grey_boolean_or_have_alpha() -> None:
    assert pixel(load_image(np.full((2, 3), 7, np.uint8)), 2, 1) == (7, 7, 7)
    assert pixel(load_image(np.ones((2, 3, 1), bool)), 0, 0) == (255, 255, 255)
    assert pixel(load_image(np.zeros((2, 3, 4), np.uint8)), 0, 0) == (255, 255, 255)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"shape \[3, 8, 8\]"),
        (np.zeros((0, 8, 3), np.uint8), "shape"),
        (np.full((2, 2, 3), 200.0), "floats in"),
        (np.full((2, 2, 3), np.nan), "floats in"),
        (np.full((2, 2, 3), -1, np.int64), "int64"),
    ],
)
def test_an_array_without_a_defined_white_is_refused(array: np.ndarray, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        load_image(array)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_an_error_and_never_grey(tmp_path: Path, kind: str, part: float) -> None:
    data = encoded(load_image(CAT), kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ImageError, match=r"cut\.") as caught:
        load_image(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_progressive_jpeg_is_an_error() -> None:
    data = encoded(load_image(CAT), "JPEG", progressive=True)
    with pytest.raises(ImageError, match="damaged"):
        load_image(data[: len(data) // 2])


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("these are notes")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    for path, reason in (
        (text, "not an image"),
        (empty, "0 bytes"),
        (tmp_path / "no.jpg", "No such file"),
        (tmp_path, "Is a"),
    ):
        with pytest.raises(ImageError, match=reason) as caught:
            load_image(path)
        assert path.name in str(caught.value)
    with pytest.raises(ImageError, match="0 bytes"):
        load_image(b"")
    with pytest.raises(ImageError, match=r"'upload' is not an image"):
        load_image(b"no image", name="upload")


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    rows = zlib.compress(b"\0" * 100)
    head = b"IHDR" + struct.pack(">2I5B", 20_000, 20_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    data += struct.pack(">I", len(rows)) + b"IDAT" + rows + struct.pack(">I", zlib.crc32(b"IDAT" + rows))
    with pytest.raises(ImageError, match=r"20000 x 20000 pixels, more than the limit of 178,956,970"):
        load_image(data)
    with pytest.raises(ImageError, match="damaged"):  # allowed, so it is decoded, and found to be cut off
        load_image(data, max_pixels=400_000_000)
    assert limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match="limit of 100"):
        load_image(CAT, max_pixels=100)
    with pytest.raises(ImageError, match="limit of 100"):
        load_image(np.zeros((20, 20), np.uint8), max_pixels=100)


def test_reduced_decoding_stays_above_the_wanted_edge_and_near_the_full_picture() -> None:
    big = load_image(CAT).resize((1804, 1200), Image.Resampling.BICUBIC)
    data = encoded(big, "JPEG", quality=95)
    reduced = load_image(data, reduce_to=512)
    assert reduced.size == (902, 600)  # 1/4 would leave 300
    assert load_image(data, reduce_to=1201).size == big.size
    small = [
        np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR), np.float64)
        for image in (reduced, load_image(data))
    ]
    psnr = 10 * np.log10(255**2 / np.mean((small[0] - small[1]) ** 2))
    assert psnr > 40
