"""Sizes before and after, and which fraction of a JPEG is worth decoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miil21k.prepare.options import PrepareOptions

__all__ = ["LONGEST_SIDE", "decode_fraction", "target_dimensions"]

LONGEST_SIDE = 65_500  # pixels, of a JPEG


def target_dimensions(width: int, height: int, options: PrepareOptions) -> tuple[int, int] | None:
    """Return (width, height) after resizing, None when the file is copied as it is.

    Source: the published `resize.py`: copied when the longer side is below the size, else squashed to size x size,
    or scaled until the short side has the size (which enlarges a long thin image). The long side is rounded down.
    """
    size = options.target_size
    if options.mode == "keep" or max(width, height) < size:
        return None
    if options.mode == "squish":
        return size, size
    short = min(width, height)
    return max(size, width * size // short), max(size, height * size // short)


def decode_fraction(width: int, height: int, target: tuple[int, int]) -> int:
    """Return k so that a JPEG decoded at 1/k still has no side below `target`; k is 1, 2, 4 or 8.

    Other fractions (n/8) decode more slowly than the next larger power of two: libjpeg-turbo has no vector code for
    them (see benchmarks/prepare.py).
    """
    return max(k for k in (1, 2, 4, 8) if k == 1 or (width >= k * target[0] and height >= k * target[1]))
