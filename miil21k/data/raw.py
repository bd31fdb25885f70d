"""Raw files of cameras as pictures, by LibRaw (package rawpy, extra `raw`): developed at half of their size.

A raw file holds one colour per pixel; two by two of them make a pixel here, which needs no interpolation. The preview
that a camera stores is not used: it may be tiny, and lie on its side.
"""

from __future__ import annotations

from typing import IO

from PIL import Image

from miil21k.data.limits import check_size, reader
from miil21k.errors import ImageError

__all__ = ["develop", "is_raw"]

_STARTS = (b"II", b"MM", b"FUJIFILMCCD-RAW", b"\0\0\0\x18ftypcrx ")  # TIFF and what is near it, Fujifilm, Canon's CR3


def is_raw(head: bytes) -> bool:
    """Return whether a file that begins with `head` may be a raw one; its name must say so as well."""
    return head.startswith(_STARTS)


def develop(file: IO[bytes], name: str, max_pixels: int) -> Image.Image:
    """Return the picture, upright, with the camera's white balance, at half of its width and height.

    The size of the whole is checked before. Raises ImageError for what LibRaw cannot read.
    """
    rawpy = reader("rawpy", "raw", name)
    file.seek(0)
    try:
        with rawpy.imread(file) as raw:
            check_size((raw.sizes.width, raw.sizes.height), name, max_pixels)
            pixels = raw.postprocess(half_size=True, use_camera_wb=True)
    except rawpy.LibRawError as error:
        words = error.args[0] if error.args else "LibRaw does not say why"
        reason = words.decode("latin-1") if isinstance(words, bytes) else str(words)
        fault = f"is damaged, or of a camera that LibRaw does not know: {reason}"
        raise ImageError(f"'{name}' {fault}.", "damaged") from None
    picture = Image.fromarray(pixels)
    picture.format = "RAW"
    return picture
