"""What a picture needs before it is decoded: a size that is allowed, and the library that reads its format."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from miil21k.environment import need
from miil21k.errors import ImageError, Miil21kError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["Size", "check_size", "reader"]

Size: TypeAlias = "tuple[int, int]"


def check_size(size: Size, name: str, max_pixels: int) -> None:
    """Raise ImageError for a picture of `size`, (width, height), that has too many pixels, or none."""
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"'{name}' has {width} x {height} pixels, more than the limit of {max_pixels:,}; "
            "raise max_pixels to read it.",
            "too_large",
        )
    if not width * height:
        raise ImageError(f"'{name}' has no pixels ({width} x {height}).", "damaged")


def reader(module: str, extra: str, name: str) -> ModuleType:
    """Return the library of the extra `extra` that reads the file `name`; raises ImageError where it is missing."""
    try:
        return need(module, extra, f"'{name}'")
    except Miil21kError as error:
        raise ImageError(str(error), "not_an_image") from None
