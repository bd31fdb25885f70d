"""One encoded image in, one encoded image out, or the reason why not. The Pillow codec, which reads everything."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, UnidentifiedImageError

from miil21k.data.images import load_image
from miil21k.prepare.geometry import target_dimensions

if TYPE_CHECKING:
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

    def convert(self, data: bytes) -> Converted:
        """Return the prepared image, or why there is none; what is copied is decoded too, so that none is broken."""
        if not data:
            return Converted("empty")
        try:
            width, height, suffix = _upright_size(data)
            # Copies are only checked: at 1/8 every byte of a JPEG is parsed all the same.
            target = target_dimensions(width, height, self._options)
            limit = self._options.max_pixels
            reduced = self._options.resize == "antialiased" or target is None
            reduce_to = min(target or (1, 1)) if reduced else None
            image = load_image(data, max_pixels=limit, reduce_to=reduce_to)
        except Exception as error:  # plugins raise whatever their parser stumbles over
            return Converted(_reason(data, self._options.max_pixels, error))
        if target is None:
            return Converted("copied", width, height, suffix, data)
        out = io.BytesIO()
        resized = self._resize(image, (width, height), target)
        resized.save(out, "JPEG", quality=self._options.quality, subsampling="4:2:0")
        return Converted("resized", width, height, ".jpg", out.getvalue())

    def _resize(self, image: Image.Image, full: tuple[int, int], target: tuple[int, int]) -> Image.Image:
        """Return `image`, decoded at 1/k of its `full` size, at `target` size."""
        if self._options.resize == "published":
            across, down = full[0] / target[0], full[1] / target[1]
            grid = (across, 0.0, 0.0, 0.0, down, 0.0)
            return image.transform(target, Image.Transform.AFFINE, grid, Image.Resampling.BILINEAR)
        k = max(1, round(full[0] / image.width))
        # 375 rows at 1/2 are stored as 188, the last of them half empty: only 187.5 are resized.
        box = (0.0, 0.0, min(full[0] / k, image.width), min(full[1] / k, image.height))
        return image.resize(target, Image.Resampling.BILINEAR, box)


def _upright_size(data: bytes) -> tuple[int, int, str]:
    """Return (width, height, suffix) with the stored orientation applied, from the header."""
    with Image.open(io.BytesIO(data)) as image:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8) and image.format != "TIFF"
        width, height = image.size
        suffix = _SUFFIXES.get(image.format or "", f".{(image.format or 'img').lower()}")
    return (height, width, suffix) if turned else (width, height, suffix)


_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2"}


def _reason(data: bytes, max_pixels: int, error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return "too_large"
    try:
        with Image.open(io.BytesIO(data)) as image:
            return "too_large" if image.width * image.height > max_pixels else "damaged"
    except UnidentifiedImageError:
        return "not_an_image"
    except Exception:
        return "damaged"
