"""A picture as upright 8-bit RGB, with the geometry of the original: orientation, palettes, 16 bits, transparency."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from PIL import ExifTags, Image

from miil21k.data.limits import check_size
from miil21k.data.opening import name_of, open_image, reason_of
from miil21k.data.options import MAX_PIXELS
from miil21k.errors import ImageError
from miil21k.text import brief

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from miil21k.data.limits import Size
    from miil21k.data.parts import Part

__all__ = ["ImageInput", "ImageSource", "Picture", "failing", "load_image", "load_picture", "upright_size"]

ImageSource: TypeAlias = "str | Path | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[Any]"
Box: TypeAlias = "tuple[float, float, float, float]"


@dataclass(frozen=True, eq=False)
class ImageInput:
    """An image with the name its row carries.

    source: what `load_image` takes, or a function without arguments that returns it (a download, say); it is called
    in a worker thread, and an OSError or Miil21kError that it raises becomes the row's error.
    new_batch: no batch holds both this image and the one before it, so that the answers for a shard, down to the last
    digit, do not depend on what else is predicted.
    """

    name: str
    source: ImageSource | Callable[[], ImageSource]
    new_batch: bool = False

    __repr__ = brief


class Picture(NamedTuple):
    """An upright RGB image that may have been decoded at 1/2, 1/4 or 1/8.

    size: (width, height) of the original, upright. box: the part of `image`, (left, upper, right, lower) in its
    pixels, that the original fills: 3,002 columns at 1/4 are 750.5, stored as 751; None for all of it.
    """

    image: Image.Image
    size: Size
    box: Box | None = None


def load_image(
    source: ImageSource,
    *,
    name: str | None = None,
    exif: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Return the image as upright 8-bit RGB.

    source: a path (`scan.tif#page=2` for a page of a file), encoded bytes, a binary file, a Pillow image, or an array
    [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8, uint16 (scaled by 1/257), bool, or floats in [0, 1] (times 255).
    name: how messages call it; the path, or its kind, when left out. exif: apply the stored orientation (Pillow
    always applies that of a TIFF).
    max_pixels: a larger image is refused before anything is decoded.

    Transparency is composited on white. 16-bit grey is scaled to 8 bits, CMYK, LAB and palettes are converted by
    Pillow, the first frame stands for an animation.
    Raises ImageError, naming the source and the reason: not found, no regular file, not an image, cut off or damaged,
    empty, too large.
    """
    return load_picture(source, name=name, exif=exif, max_pixels=max_pixels).image


def load_picture(
    source: ImageSource,
    *,
    name: str | None = None,
    exif: bool = True,
    max_pixels: int = MAX_PIXELS,
    reduce_to: int | None = None,
    part: Part | None = None,
) -> Picture:
    """Return the image as `load_image` does, with the geometry of the original.

    part: which page or frame of encoded bytes; a path says it itself.
    reduce_to: let a JPEG be decoded at 1/2, 1/4 or 1/8 as long as neither side becomes smaller than this; other
    formats ignore it. Decoding in the DCT domain is a box filter, so this is not exact; docs/predict.md says how far
    it goes. None decodes in full.
    """
    name = name_of(source) if name is None else name
    try:
        if isinstance(source, np.ndarray):
            image = _from_array(source, name)
            check_size(image.size, name, max_pixels)
            return Picture(_to_rgb(image), image.size)
        if isinstance(source, Image.Image):
            check_size(source.size, name, max_pixels)
            return _decoded(source, name, exif, None)  # a reduced decode would change the caller's image
        with open_image(source, name=name, max_pixels=max_pixels, part=part) as image:
            return _decoded(image, name, exif, reduce_to)
    except OSError as error:  # the file itself; what is wrong inside it was named below
        raise ImageError(f"Cannot read '{name}': {error.strerror or error}.") from None
    except MemoryError:
        raise ImageError(f"'{name}' needs more memory than there is.", "too_large") from None


def failing(message: str) -> Callable[[], ImageSource]:
    """Return the source of an input that is known to fail: it raises an ImageError."""
    return partial(_fail, message)


def _fail(message: str) -> ImageSource:
    raise ImageError(message)


def _decoded(image: Image.Image, name: str, exif: bool, reduce_to: int | None) -> Picture:
    size = image.size
    box = None
    try:
        if reduce_to is not None and image.format in ("JPEG", "MPO"):  # others offer a thumbnail, or nothing
            drafted = image.draft(None, (reduce_to, reduce_to))  # None leaves the mode alone
            box = None if drafted is None else drafted[1]
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # plugins raise whatever their decoder stumbles over
        raise ImageError(f"'{name}' is damaged: {reason_of(error)}.", "damaged") from None
    turn = _TURNS.get(_orientation(image)) if exif else None
    try:
        upright = _to_rgb(image if turn is None else image.transpose(turn))
    except ValueError as error:
        raise ImageError(
            f"'{name}' has pixels of mode {image.mode} that cannot be shown: {error}.", "damaged"
        ) from None
    if box is None or image.size == size:
        return Picture(upright, upright.size)
    if turn is not None and _MOVES[turn][0]:
        size = size[1], size[0]
    return Picture(upright, size, _turned(box, image.size, turn))


def _turned(box: Box, size: Size, turn: Image.Transpose | None) -> Box:
    """Return where `box`, which begins in the upper left corner of an image of `size`, lies after the turn."""
    _, _, right, lower = box
    left, upper = 0.0, 0.0
    if turn is None:
        return box
    swaps, mirrors_x, mirrors_y = _MOVES[turn]
    if swaps:
        right, lower, size = lower, right, (size[1], size[0])
    if mirrors_x:
        left, right = size[0] - right, float(size[0])
    if mirrors_y:
        upper, lower = size[1] - lower, float(size[1])
    return left, upper, right, lower


# Whether rows become columns, and whether left and right, or up and down, change places after that.
_MOVES = {
    Image.Transpose.FLIP_LEFT_RIGHT: (False, True, False),
    Image.Transpose.ROTATE_180: (False, True, True),
    Image.Transpose.FLIP_TOP_BOTTOM: (False, False, True),
    Image.Transpose.TRANSPOSE: (True, False, False),
    Image.Transpose.ROTATE_270: (True, True, False),
    Image.Transpose.TRANSVERSE: (True, True, True),
    Image.Transpose.ROTATE_90: (True, False, True),
}


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright_size(image: Image.Image) -> Size:
    """Return (width, height) of an image that is not decoded yet, with its stored orientation applied."""
    turn = None if image.format == "TIFF" else _TURNS.get(_orientation(image))
    return image.size if turn is None or not _MOVES[turn][0] else (image.height, image.width)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) when there is none or the EXIF block is damaged."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a damaged EXIF block costs the orientation, not the picture
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return `image` as RGB; raises ValueError for pixels without a defined range."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return _gray(_eight_bits(np.asarray(image)))
    if image.mode == "LAB":
        from PIL import ImageCms

        srgb = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        return srgb if srgb is not None else image
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema() == (255, 255):
        return layer.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _gray(values: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(values).convert("RGB")


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return uint8 of the same shape; raises ValueError for a dtype or range without a defined white."""
    kind = values.dtype.newbyteorder("=")  # 16-bit grey is stored in either order
    if kind == np.uint8:
        return values.astype(np.uint8, copy=False)
    if kind == np.bool_:
        return np.where(values, 255, 0).astype(np.uint8)
    low, high = values.min(), values.max()
    if kind == np.uint16 or (kind == np.int32 and low >= 0 and high <= 65535):
        return np.asarray((values.astype(np.uint32) + 128) // 257, np.uint8)
    if kind.kind == "f" and low >= 0 and high <= 1:  # false for NaN
        return np.asarray(np.rint(values * 255), np.uint8)
    raise ValueError(f"{kind} from {low} to {high}; scale it to uint8, uint16 or floats in [0, 1]")


def _from_array(values: NDArray[Any], name: str) -> Image.Image:
    shape = list(values.shape)
    if values.ndim not in (2, 3) or (values.ndim == 3 and shape[2] not in (1, 3, 4)) or not values.size:
        raise ImageError(f"'{name}' has the shape {shape}; an image is [H, W], [H, W, 1], [H, W, 3] or [H, W, 4].")
    try:
        pixels = _eight_bits(values[:, :, 0] if shape[2:] == [1] else values)
    except ValueError as error:
        raise ImageError(f"'{name}' holds {error}.") from None
    return Image.fromarray(np.ascontiguousarray(pixels))
