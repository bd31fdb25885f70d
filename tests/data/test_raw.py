"""Raw files of cameras: a DNG that is made here, tag by tag, developed at half of its size."""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from miil21k.data.images import load_image
from miil21k.data.inputs import expand
from miil21k.errors import ImageError

if TYPE_CHECKING:
    from pathlib import Path

WIDTH, HEIGHT = 128, 96
BYTE, ASCII, SHORT, LONG, RATIONAL, SIGNED = 1, 2, 3, 4, 5, 10
_SIZES = {BYTE: "B", ASCII: "B", SHORT: "H", LONG: "I", RATIONAL: "II", SIGNED: "ii"}


def dng(path: Path) -> Path:
    """Write a red picture as a camera would: red, green, green and blue pixels, 12 bits each."""
    pixels = np.full((HEIGHT, WIDTH), 300, "<u2")
    pixels[0::2, 0::2] = 3000
    one, zero = (10000, 10000), (0, 10000)
    tags: list[tuple[int, int, tuple[int, ...]]] = [
        *((254, LONG, (0,)), (256, LONG, (WIDTH,)), (257, LONG, (HEIGHT,)), (258, SHORT, (16,)), (259, SHORT, (1,))),
        *((262, SHORT, (32803,)), (271, ASCII, tuple(b"Test\0")), (272, ASCII, tuple(b"Camera\0")), (273, LONG, (0,))),
        *((274, SHORT, (1,)), (277, SHORT, (1,)), (278, LONG, (HEIGHT,)), (279, LONG, (pixels.nbytes,))),
        *(
            (33421, SHORT, (2, 2)),
            (33422, BYTE, (0, 1, 1, 2)),
            (50706, BYTE, (1, 4, 0, 0)),
            (50707, BYTE, (1, 1, 0, 0)),
        ),
        *((50708, ASCII, tuple(b"Test Camera\0")), (50714, SHORT, (0,)), (50717, LONG, (4095,))),
        (50721, SIGNED, one + zero * 3 + one + zero * 3 + one),
        *((50728, RATIONAL, one * 3), (50778, SHORT, (21,))),
    ]
    behind = 8 + 2 + 12 * len(tags) + 4
    values = [struct.pack(f"<{_SIZES[kind] * (len(v) // len(_SIZES[kind]))}", *v) for _, kind, v in tags]
    content = behind + sum(len(value) + len(value) % 2 for value in values if len(value) > 4)
    table, extra = b"", b""
    for (tag, kind, given), value in zip(tags, values, strict=True):
        field = value.ljust(4, b"\0") if tag != 273 else struct.pack("<I", content)
        if len(value) > 4:
            field = struct.pack("<I", behind + len(extra))
            extra += value + b"\0" * (len(value) % 2)
        table += struct.pack("<HHI", tag, kind, len(given) // len(_SIZES[kind])) + field
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    path.write_bytes(head + table + bytes(4) + extra + pixels.tobytes())
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Any:
    pytest.importorskip("rawpy", reason="the extra 'raw' is not installed")
    return dng(tmp_path / "a.dng")


def test_a_raw_file_is_developed_at_half_of_its_size(photo: Path) -> None:
    picture = np.asarray(load_image(photo))
    assert picture.shape == (HEIGHT // 2, WIDTH // 2, 3)
    assert picture[20, 20, 0] == 255
    assert picture[20, 20, 1:].max() < 100
    assert [image.name for image in expand([str(photo.parent)])] == [str(photo)]
    assert np.array_equal(load_image(photo.read_bytes(), name="from a server.DNG"), picture)


def test_its_guards(photo: Path) -> None:
    with pytest.raises(ImageError, match="128 x 96 pixels, more than the limit of 5,000"):
        load_image(photo, max_pixels=5000)
    photo.write_bytes(photo.read_bytes()[:60])
    with pytest.raises(ImageError, match="is damaged, or of a camera that LibRaw does not know"):
        load_image(photo)


def test_without_the_extra_the_error_says_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(ImageError, match=r"a\.dng' needs the package 'rawpy'.*pip install 'miil21k\[raw\]'"):
        load_image(dng(tmp_path / "a.dng"))
