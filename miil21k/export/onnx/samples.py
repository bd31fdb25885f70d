"""The images that an export is proved on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["BATCHES", "batches"]

BATCHES = (1, 2, 7)
_NOISE_SIZES = {1: (253, 317), 2: (480, 300), 7: (90, 130)}
_PHOTO_SIZE = (281, 357)


def batches(photos: Sequence[Path]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield `noise` or `photographs` with a batch of them, uint8 [B, height, width, 3], B of 1, 2 and 7.

    Every photograph comes alone at its own size, then all of them, and their mirror images, at one size in batches.
    """
    from miil21k.data.images import load_image

    rng = np.random.default_rng(0)
    for count in BATCHES:
        yield "noise", rng.integers(0, 256, (count, *_NOISE_SIZES[count], 3), np.uint8)
    opened = [load_image(path) for path in photos]
    for image in opened:
        yield "photographs", np.asarray(image)[None]
    if not opened:
        return
    height, width = _PHOTO_SIZE
    small = [np.asarray(image.resize((width, height))) for image in opened]
    small += [image[:, ::-1] for image in small]
    for count in BATCHES[1:]:
        yield "photographs", np.stack([small[i % len(small)] for i in range(count)])
