"""Every odd kind of image becomes upright RGB with the right values, or an ImageError that names it."""

from __future__ import annotations

import importlib
import io
import os
import re
import socket
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miil21k.data import images
from miil21k.data.images import load_image, load_picture, upright_size
from miil21k.data.opening import open_image, read_file
from miil21k.errors import ImageError
from miil21k.suffixes import FORMATS, image_suffixes

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


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (struct.error("unpack_from requires a buffer of at least 4 bytes"), "it is cut off, or its header says what"),
        (IndexError("index out of range"), "it is cut off, or its header says what"),
        (ValueError(b"Token too long: \x1b[31m"), r"Token too long: \\x1b\[31m\."),
        (OSError("Expected to read 8 bytes but only got 3."), r"only got 3\.$"),
    ],
)
def test_what_a_plugin_stumbles_over_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def stumble(_image: Image.Image) -> None:
        raise error

    content = encoded(Image.new("RGB", (8, 8)), "PNG")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", stumble)
    with pytest.raises(ImageError, match=words) as raised:
        load_picture(content, name="a.png")
    assert "unpack_from" not in str(raised.value)


@pytest.mark.parametrize("content", [b"x", b"\xff", b"II*\0", b"\0\0\1\0", b"RIFF"])
def test_a_file_of_a_few_bytes_is_no_image(content: bytes) -> None:
    with pytest.raises(ImageError, match=r"^'a\.jpg' is not an image in a format that can be read\.$"):
        load_picture(content, name="a.jpg")


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
    reduced = load_picture(data, reduce_to=512).image
    assert reduced.size == (902, 600)  # 1/4 would leave 300
    assert load_picture(data, reduce_to=1201).image.size == big.size
    small = [
        np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR), np.float64)
        for image in (reduced, load_image(data))
    ]
    psnr = 10 * np.log10(255**2 / np.mean((small[0] - small[1]) ** 2))
    assert psnr > 40


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(("wide", "high"), [(203, 155), (1001, 1003)])
def test_a_reduced_picture_has_the_geometry_of_the_original(orientation: int, wide: int, high: int) -> None:
    ramp = np.linspace(0, 255, wide)[None, :, None] * [1, 0, 0] + np.linspace(0, 255, high)[:, None, None] * [0, 1, 0]
    upright = Image.fromarray(ramp.astype(np.uint8))
    turn = STORED[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(stored, "JPEG", quality=100, subsampling=0, exif=exif)
    picture = load_picture(data, reduce_to=30)
    assert picture.size == (wide, high)
    assert picture.image.width in (-(-wide // 4), -(-wide // 8))
    assert picture.box is not None
    left, upper, right, lower = picture.box
    k = 4 if wide < 500 else 8
    assert (right - left, lower - upper) == (wide / k, high / k)
    assert min(left, upper, picture.image.width - right, picture.image.height - lower) >= 0
    small = np.asarray(picture.image.resize((20, 20), Image.Resampling.BILINEAR, picture.box)).astype(int)
    wanted = np.asarray(upright.resize((20, 20), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(small - wanted).max() <= 2
    with open_image(data) as opened:
        assert upright_size(opened) == (wide, high)


def big_endian(values: np.ndarray, orientation: int = 1) -> bytes:
    """A TIFF in the byte order of Motorola, as ImageJ and scanners write it."""
    high, wide = values.shape
    entries = [(256, 4, wide), (257, 4, high), (258, 3, 16 << 16), (259, 3, 1 << 16), (262, 3, 1 << 16), (273, 4, 134)]
    entries += [(274, 3, orientation << 16), (277, 3, 1 << 16), (278, 4, high), (279, 4, values.size * 2)]
    head = b"MM\0*" + struct.pack(">IH", 8, len(entries))
    return (
        head
        + b"".join(struct.pack(">HHII", tag, kind, 1, value) for tag, kind, value in entries)
        + bytes(4)
        + (values.astype(">u2").tobytes())
    )


def test_big_endian_sixteen_bit_grey_is_read_as_the_other_order_is() -> None:
    values = np.array([[0, 257, 32896, 65535], [1, 2, 3, 4]], np.uint16)
    data = big_endian(values)
    with Image.open(io.BytesIO(data)) as stored:
        assert stored.mode == "I;16B"
    assert np.asarray(load_image(data))[0, :, 0].tolist() == [0, 1, 128, 255]
    assert np.asarray(load_image(values.astype(">u2")))[0, :, 0].tolist() == [0, 1, 128, 255]
    assert np.asarray(load_image(big_endian(values, 3)))[1, :, 0].tolist() == [255, 128, 1, 0]


def png(width: int, height: int) -> bytes:
    """A grey PNG of a bit per pixel, whose pixels would decode to nothing but zeros."""
    rows = zlib.compress(bytes(height * (1 + (width + 7) // 8)) if width * height < 10**7 else b"", 1)
    parts = [(b"IHDR", struct.pack(">2I5B", width, height, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def icon(picture: bytes, edge: int = 0) -> bytes:
    return struct.pack("<HHH4BHHII", 0, 1, 1, edge, edge, 0, 0, 1, 32, len(picture), 22) + picture


def mac_icon(picture: bytes) -> bytes:
    block = b"ic10" + struct.pack(">I", 8 + len(picture)) + picture
    return b"icns" + struct.pack(">I", 8 + len(block)) + block


def gif(width: int, height: int) -> bytes:
    """A screen of 1 x 1 with a first frame of `width` x `height`, behind a comment."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + b"!\xfe\x02hi\0"
    return head + b"," + struct.pack("<4HB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00;"


def tiled(edge: int) -> bytes:
    """A TIFF of 16 x 16 pixels in one tile of `edge` x `edge`."""
    entries = [(256, 3, 16), (257, 3, 16), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    entries += [(322, 4, edge), (323, 4, edge), (324, 4, 8 + 2 + 10 * 12 + 4), (325, 4, 8)]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries) + bytes(12)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (icon(png(30_000, 30_000)), "30000 x 30000"),
        (icon(struct.pack("<IiiHH", 40, 30_000, 60_000, 1, 32) + bytes(24)), "30000 x 30000"),
        (mac_icon(png(30_000, 30_000)), "30000 x 30000"),
        (gif(60_000, 60_000), "60000 x 60000"),
        (tiled(1 << 15), "32768 x 32768"),
    ],
    ids=["ico", "ico-bmp", "icns", "gif", "tiff"],
)
def test_a_bomb_inside_of_a_small_picture_is_refused_before_it_is_decoded(data: bytes, size: str) -> None:
    with pytest.raises(ImageError, match=f"{size} pixels, more than the limit of 178,956,970") as caught:
        load_image(data)
    assert caught.value.reason == "too_large"


def test_small_icons_are_read() -> None:
    assert load_image(icon(png(8, 8), 8)).size == (8, 8)
    assert load_image(encoded(Image.new("RGB", (16, 16), "red"), "ICO")).size == (16, 16)
    assert load_image(encoded(Image.new("RGB", (16, 16), "red"), "ICO", bitmap_format="bmp")).size == (16, 16)
    assert load_image(encoded(Image.new("RGB", (16, 16), "red"), "ICNS")).size[0] >= 16
    assert load_image(encoded(Image.new("P", (16, 9)), "GIF")).size == (16, 9)
    with pytest.raises(ImageError, match="limit of 60"):
        load_image(icon(png(8, 8), 8), max_pixels=60)


def test_the_guard_of_other_threads_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = encoded(corners().resize((100, 100)), "PNG")
    seen = set()
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(load_image, data) for _ in range(200)]
        while not all(future.done() for future in running):
            seen.add(Image.MAX_IMAGE_PIXELS)
    assert {future.result().size for future in running} == {(100, 100)}
    assert seen <= {1000}
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_only_regular_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, loop = tmp_path / "pipe.jpg", tmp_path / "loop.jpg"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the name of a socket is short
        server.bind("socket.jpg")
        for name, reason in {
            str(pipe): "is a named pipe",
            str(loop): "Too many levels",
            "socket.jpg": "is a socket",
            "/dev/zero": "is a device",
            "a\0b.jpg": "null",
            str(tmp_path): "Is a directory",
        }.items():
            with pytest.raises(ImageError, match=reason):
                load_image(name)
            with pytest.raises(ImageError, match=reason):
                read_file(name)


def test_no_format_is_read_that_starts_another_program() -> None:
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n9 9 scale\nshowpage\n"
    with pytest.raises(ImageError, match="not an image in a format that can be read"):
        load_image(page, name="x.eps")
    assert ".eps" not in image_suffixes()
    assert not {"EPS", "WMF", "FITS", "BLP", "IPTC", "MPEG"} & FORMATS.keys()


def test_heic_is_read_where_the_extra_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif", reason="the extra 'heic' is not installed")
    file = io.BytesIO()
    heif.from_pillow(load_image(CAT)).save(file, quality=90)
    read = np.asarray(load_image(file.getvalue())).astype(int)
    assert read.shape == (300, 451, 3)
    assert np.abs(read - np.asarray(load_image(CAT))).mean() < 5
    with pytest.raises(ImageError, match="limit of 1,000"):
        load_image(file.getvalue(), max_pixels=1000)
    monkeypatch.setattr("miil21k.data.opening.reads_heif", lambda: False)
    with pytest.raises(ImageError, match=r"pip install 'miil21k\[heic\]'"):
        load_image(file.getvalue(), name="x.HEIC")


@pytest.mark.skipif(sys.platform != "linux", reason="limits its own memory")
def test_an_image_for_which_there_is_no_memory_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "big.png"
    Image.new("1", (13_000, 13_000)).save(path)
    code = (
        "import resource, sys\nfrom miil21k.data.images import load_image\nfrom miil21k.errors import ImageError\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + 300_000_000\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size, size))\n"
        "try:\n    load_image(sys.argv[1])\nexcept ImageError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"'{path}' needs more memory than there is.\n"


def test_every_format_names_its_suffixes_and_a_plugin_that_reads() -> None:
    for name, form in FORMATS.items():
        plugin = importlib.import_module(f"PIL.{form.plugin}ImagePlugin")
        assert plugin
        assert name in Image.OPEN
        assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in form.suffixes)


def test_nothing_else_in_the_package_opens_pixels() -> None:
    package = Path(images.__file__).parents[1]
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"\bImage\.open\(|MAX_IMAGE_PIXELS", path.read_text(encoding="utf-8"))
    }
    # A client that is copied beside a served model, and the line of its README: they run without this package.
    assert found <= {"export/triton/files/client_full.py", "export/triton/repository.py"}


@pytest.mark.parametrize("length", range(17))
def test_a_few_bytes_are_no_image_whatever_the_plugins_make_of_them(length: int) -> None:
    for start in (b"x", b"\0\0\1\0", b"GIF89a", b"icns", b"\x89PNG", b"II*\0", b"RIFF", b"8BPS"):
        with pytest.raises(ImageError, match=r"not an image|damaged|empty|Cannot read|no pixels"):
            load_image((start + bytes(16))[:length])
