"""Read any image into upright RGB, or say why not."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from miil21k.data.options import MAX_PIXELS
from miil21k.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["MAX_PIXELS", "ImageInput", "ImageSource", "load_image"]

ImageSource: TypeAlias = "str | Path | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[Any]"

_opening = threading.Lock()


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


def load_image(
    source: ImageSource,
    *,
    name: str | None = None,
    exif: bool = True,
    max_pixels: int = MAX_PIXELS,
    reduce_to: int | None = None,
) -> Image.Image:
    """Return the image as upright 8-bit RGB.

    source: a path, encoded bytes, a binary file, a Pillow image, or an array [H, W], [H, W, 1], [H, W, 3] or
    [H, W, 4] of uint8, uint16 (scaled by 1/257), bool, or floats in [0, 1] (times 255).
    name: how messages call it; the path, or its kind, when left out. exif: apply the stored orientation (Pillow
    always applies that of a TIFF).
    max_pixels: a larger image is refused before anything is decoded.
    reduce_to: let a JPEG be decoded at 1/2, 1/4 or 1/8 as long as neither side becomes smaller than this; other
    formats ignore it. Decoding in the DCT domain is a box filter, so this is exact only up to a few grey levels.

    Transparency is composited on white. 16-bit grey is scaled to 8 bits, CMYK, LAB and palettes are converted by
    Pillow, the first frame stands for an animation.
    Raises ImageError, naming the source and the reason: not found, not an image, cut off or damaged, empty, too large.
    """
    name = _name(source) if name is None else name
    if isinstance(source, np.ndarray):
        image = _from_array(source, name)
        _check_size(image.size, name, max_pixels)
        return _to_rgb(image)
    if isinstance(source, Image.Image):
        return _decoded(source, name, exif, max_pixels, None)  # a reduced decode would change the caller's image
    try:
        with _open(source, name) as image:
            return _decoded(image, name, exif, max_pixels, reduce_to)
    except OSError as error:  # the file itself; what is wrong inside it was named below
        raise ImageError(f"Cannot read '{name}': {error.strerror or error}.") from None


def _open(source: str | Path | bytes | bytearray | memoryview | IO[bytes], name: str) -> Image.Image:
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not len(source):
            raise ImageError(f"'{name}' is empty (0 bytes).")
        file: Any = io.BytesIO(source)
    else:
        file = source
        if not isinstance(source, (str, Path)) and not hasattr(source, "read"):
            raise ImageError(
                f"'{name}' is a {type(source).__name__}: give a path, encoded bytes, a Pillow image or a NumPy array."
            )
        if isinstance(source, (str, Path)) and Path(source).is_file() and Path(source).stat().st_size == 0:
            raise ImageError(f"'{name}' is empty (0 bytes).")
    # Pillow's own limit is a global that warns or raises during open, whatever the caller allows; ours follows at once.
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file)
        except UnidentifiedImageError:
            raise ImageError(f"'{name}' is not an image in a format that can be read.") from None
        except OSError as error:
            raise ImageError(f"Cannot read '{name}': {error.strerror or error}.") from None
        except Exception as error:  # plugins raise whatever their parser stumbles over
            raise ImageError(f"'{name}' is damaged: {error}.") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _decoded(image: Image.Image, name: str, exif: bool, max_pixels: int, reduce_to: int | None) -> Image.Image:
    _check_size(image.size, name, max_pixels)
    try:
        if reduce_to is not None:
            image.draft(None, (reduce_to, reduce_to))  # None leaves the mode alone
        image.load()
    except Exception as error:  # plugins raise whatever their decoder stumbles over
        raise ImageError(f"'{name}' is damaged: {error}.") from None
    turn = _TURNS.get(_orientation(image)) if exif else None
    try:
        upright = image if turn is None else image.transpose(turn)
        return _to_rgb(upright)
    except ValueError as error:
        raise ImageError(f"'{name}' has pixels of mode {image.mode} that cannot be shown: {error}.") from None


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"'{name}' has {width} x {height} pixels, more than the limit of {max_pixels:,}; "
            "raise max_pixels to read it."
        )
    if not width * height:
        raise ImageError(f"'{name}' has no pixels ({width} x {height}).")


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
    kind = values.dtype
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


def _name(source: ImageSource) -> str:
    if isinstance(source, (str, Path)):
        return str(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"{len(source)} bytes"
    if isinstance(source, np.ndarray):
        return f"array {list(source.shape)}"
    return str(getattr(source, "filename", None) or getattr(source, "name", None) or type(source).__name__)
