"""A raw file as a camera writes it: a DNG, made tag by tag."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

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
