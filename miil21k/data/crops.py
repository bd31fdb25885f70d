"""Batches of labelled images as the network sees them; no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.data.transforms import crop_picture
from miil21k.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from miil21k.data.datasets import LabelledImages
    from miil21k.data.resizers import ResizerName
    from miil21k.zoo.schema import Preprocess

__all__ = ["Crops", "Unreadable", "read_crop", "read_crops"]


class Unreadable(NamedTuple):
    """An image that could not be read, and why."""

    name: str
    reason: str


class Crops(NamedTuple):
    """crops: uint8 [B, H, W, 3]. labels: int32 [B]. indices: int64 [B]. unreadable: images that are missing from it."""

    crops: NDArray[np.uint8]
    labels: NDArray[np.int32]
    indices: NDArray[np.int64]
    unreadable: tuple[Unreadable, ...]


def read_crop(
    images: LabelledImages, index: int, preprocess: Preprocess, resizer: ResizerName = "pillow"
) -> NDArray[np.uint8] | Unreadable:
    """Return image `index` as the network sees it, uint8 [H, W, 3], or why it cannot be read."""
    try:
        return crop_picture(images.load(index), preprocess, resizer)
    except ImageError as error:
        return Unreadable(images.name(index), str(error))
    except MemoryError:
        name = images.name(index)
        return Unreadable(name, f"'{name}' needs more memory than there is.")


def read_crops(
    images: LabelledImages, indices: Iterable[int], preprocess: Preprocess, resizer: ResizerName = "pillow"
) -> Crops:
    """Return the readable ones of `images[indices]` as one batch, in order."""
    found = [(index, read_crop(images, index, preprocess, resizer)) for index in indices]
    good = [(index, crop) for index, crop in found if not isinstance(crop, Unreadable)]
    kept = np.array([index for index, _ in good], np.int64)
    crops = np.stack([crop for _, crop in good]) if good else np.empty((0, *preprocess.input_size[1:], 3), np.uint8)
    return Crops(crops, images.labels[kept], kept, tuple(crop for _, crop in found if isinstance(crop, Unreadable)))
