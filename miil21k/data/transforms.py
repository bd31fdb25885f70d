"""The evaluation transform in Pillow and NumPy: RGB image -> uint8 crop -> normalised float32, equal to timm's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from miil21k.data.images import Picture
from miil21k.data.resizers import resize
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from miil21k.data.resizers import ResizerName
    from miil21k.zoo.schema import Preprocess

__all__ = [
    "crop_image",
    "crop_picture",
    "decode_edge",
    "evaluation_transform",
    "normalise",
    "resize_edge",
    "resized_size",
    "seen_box",
]

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resize_edge(preprocess: Preprocess) -> int:
    """Return the length in pixels to which the shorter side (`center`) or the height (`squash`) is resized."""
    return math.floor(preprocess.input_size[1] / preprocess.crop_pct)


def decode_edge(preprocess: Preprocess) -> int:
    """Return the `reduce_to` for `load_picture`: twice the resize edge, so that the resize still decides."""
    return 2 * math.floor(max(preprocess.input_size[1:]) / preprocess.crop_pct)


def crop_image(image: Image.Image, preprocess: Preprocess, resizer: ResizerName = "pillow") -> NDArray[np.uint8]:
    """Return uint8 [H, W, 3], the part of the RGB `image` that the network sees; see `crop_picture`."""
    return crop_picture(Picture(image, image.size), preprocess, resizer)


def crop_picture(picture: Picture, preprocess: Preprocess, resizer: ResizerName = "pillow") -> NDArray[np.uint8]:
    """Return uint8 [H, W, 3], the part of the picture that the network sees, antialiased by the resizer.

    Sizes and margins are those of the original, also where it was decoded at a fraction.

    The whole image is resized and then cut, as timm does: asking Pillow for the cut alone makes it filter rows and
    columns in another order, which moves pixels by up to four grey levels. Only a strip, whose resized form would
    be more than eight times as long as the crop, is resized around the crop alone.
    """
    image = picture.image
    _, height, width = preprocess.input_size
    full_width, full_height = resized_size(picture.size, preprocess)
    left, top = _margin(full_width - width), _margin(full_height - height)
    method = _FILTERS[preprocess.interpolation]
    if max(full_width, full_height) > 8 * max(width, height):
        x, y, right, bottom = picture.box or (0.0, 0.0, *map(float, image.size))
        across, down = (right - x) / full_width, (bottom - y) / full_height
        right = min(x + (left + width) * across, right)  # float rounding may step over the border
        bottom = min(y + (top + height) * down, bottom)
        return np.asarray(image.resize((width, height), method, (x + left * across, y + top * down, right, bottom)))
    size = (full_width, full_height)
    same = image.size == size and picture.box is None
    whole = image if same else resize(image, size, method, resizer, picture.box)
    # Where the crop is larger than the resized image, Pillow leaves black around it, as timm does.
    return np.asarray(whole.crop((left, top, left + width, top + height)))


def resized_size(size: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """Return (width, height) after the resize of an image of `size`, (width, height), as torchvision rounds them."""
    edge = resize_edge(preprocess)
    if preprocess.crop_mode == "center" and preprocess.input_size[1] != preprocess.input_size[2]:
        raise UsageError(f"A centre crop is square, not {preprocess.input_size[1:]}; use crop_mode 'squash'.")
    if preprocess.crop_mode == "squash":
        return math.floor(preprocess.input_size[2] / preprocess.crop_pct), edge
    width, height = size
    if width <= height:
        return edge, int(edge * height / width)
    return int(edge * width / height), edge


def seen_box(size: tuple[int, int], preprocess: Preprocess) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom), what the network sees of an image of `size`, (width, height), in its pixels.

    It reaches beyond the image where the crop is larger than the resized image.
    """
    _, height, width = preprocess.input_size
    full_width, full_height = resized_size(size, preprocess)
    left, top = _margin(full_width - width), _margin(full_height - height)
    across, down = size[0] / full_width, size[1] / full_height
    return left * across, top * down, (left + width) * across, (top + height) * down


def _margin(surplus: int) -> int:
    return round(surplus / 2.0) if surplus >= 0 else -(-surplus // 2)


def evaluation_transform(preprocess: Preprocess) -> Callable[[Image.Image], NDArray[np.float32]]:
    """Return the function from an RGB image to float32 [3, H, W], contiguous, equal to timm's within 1/255."""

    def transform(image: Image.Image) -> NDArray[np.float32]:
        pixels: NDArray[np.float32] = normalise(crop_image(image, preprocess)[None], preprocess)[0]
        return pixels

    return transform


def normalise(crops: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """Return float32 [B, 3, H, W], contiguous, (crops / 255 - mean) / std; crops: uint8 [B, H, W, 3]."""
    mean, std = (np.asarray(values, np.float64)[:, None, None] for values in (preprocess.mean, preprocess.std))
    scaled = np.empty((len(crops), 3, *crops.shape[1:3]), np.float32)
    # Plane by plane: rows of three channels keep NumPy from using vector instructions, which takes eight times as long.
    np.multiply(crops.transpose(0, 3, 1, 2), (1 / (255 * std)).astype(np.float32), out=scaled)
    if mean.any():
        scaled -= (mean / std).astype(np.float32)
    return scaled
