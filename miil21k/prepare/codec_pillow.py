"""One encoded image in, one encoded image out, or the reason why not. The Pillow codec, which reads everything."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from miil21k.data.images import load_picture, upright_size
from miil21k.data.opening import open_image
from miil21k.errors import ImageError
from miil21k.prepare.geometry import LONGEST_SIDE, target_dimensions
from miil21k.suffixes import suffix_of

if TYPE_CHECKING:
    from miil21k.data.images import Picture
    from miil21k.prepare.options import PrepareOptions

__all__ = ["Converted", "PillowConverter"]


class Converted(NamedTuple):
    """outcome: `resized`, `copied`, or why it failed. width, height: of the source. suffix: of its real format.

    data: the bytes to write, None for a failure.
    """

    outcome: str
    width: int = 0
    height: int = 0
    suffix: str = ""
    data: bytes | None = None


class PillowConverter:
    """Decodes, resizes and encodes with Pillow; 8-bit RGB JPEG with 4:2:0 chroma comes out."""

    def __init__(self, options: PrepareOptions) -> None:
        self._options = options

    def convert(self, data: bytes, name: str = "") -> Converted:
        """Return the prepared image, or why there is none; what is copied is decoded too, so that none is broken.

        name: of its file, by which a raw one of a camera is told.
        """
        if not data:
            return Converted("empty")
        try:
            limit = self._options.max_pixels
            with open_image(data, name=name, max_pixels=limit) as opened:
                width, height = upright_size(opened)
                kind = opened.format or "img"
                source = opened if kind == "RAW" else data  # which is not developed twice
            # Copies are only checked: at 1/8 every byte of a JPEG is parsed all the same.
            target = target_dimensions(width, height, self._options)
            if target is not None and max(target) > LONGEST_SIDE:  # a line of one pixel, say, whose short side grows
                return Converted("too_large", width, height)
            reduced = self._options.resize == "antialiased" or target is None
            reduce_to = min(target or (1, 1)) if reduced else None
            picture = load_picture(source, name=name, max_pixels=limit, reduce_to=reduce_to)
        except ImageError as error:
            return Converted(error.reason)
        except MemoryError:
            return Converted("too_large")
        if target is None:
            suffix = suffix_of(name) if kind == "RAW" else _SUFFIXES.get(kind, f".{kind.lower()}")
            return Converted("copied", width, height, suffix, data)
        out = io.BytesIO()
        resized = self._resize(picture, target)
        resized.save(out, "JPEG", quality=self._options.quality, subsampling="4:2:0")
        return Converted("resized", width, height, ".jpg", out.getvalue())

    def _resize(self, picture: Picture, target: tuple[int, int]) -> Image.Image:
        """Return the picture, decoded at 1/k of its size, at `target` size."""
        if self._options.resize == "published":
            across, down = picture.size[0] / target[0], picture.size[1] / target[1]
            grid = (across, 0.0, 0.0, 0.0, down, 0.0)
            return picture.image.transform(target, Image.Transform.AFFINE, grid, Image.Resampling.BILINEAR)
        return picture.image.resize(target, Image.Resampling.BILINEAR, picture.box)


_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2"}
