"""The pictures of a quantisation: some set it up, others judge it, and none does both."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from miil21k.data.images import load_image
from miil21k.data.transforms import crop_image, decode_edge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from miil21k.zoo.schema import Preprocess

__all__ = ["divide", "read_crops", "spread"]


def divide(pictures: Sequence[Path], judges: Sequence[Path] = ()) -> tuple[list[Path], list[Path]]:
    """Return the pictures that set up and the pictures that judge, without copies of the same bytes.

    judges: those that judge, less what is among `pictures`; without any, every second of `pictures` judges, in the
    order of their digests, which says nothing about what they show. Raises OSError for a file that cannot be read.
    """
    own = _by_digest(pictures)
    if judges:
        others = _by_digest(judges)
        return list(own.values()), [path for digest, path in others.items() if digest not in own]
    ordered = [own[digest] for digest in sorted(own)]
    return ordered[::2], ordered[1::2]


def _by_digest(pictures: Sequence[Path]) -> dict[str, Path]:
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in pictures}


def spread(pictures: Sequence[Path], most: int) -> list[Path]:
    """Return at most `most` of the pictures, evenly spread over their order."""
    if len(pictures) <= most:
        return list(pictures)
    return [pictures[at] for at in np.linspace(0, len(pictures) - 1, most).round().astype(int)]


def read_crops(
    pictures: Sequence[Path], preprocess: Preprocess, batch: int, done: Callable[[int], None] = lambda _: None
) -> Iterator[NDArray[np.uint8]]:
    """Yield uint8 [<= batch, H, W, 3], what the network sees of the pictures, in their order.

    done: told how many were read. Raises ImageError for one that is no image.
    """
    for start in range(0, len(pictures), batch):
        chosen = pictures[start : start + batch]
        images = (load_image(path, reduce_to=decode_edge(preprocess)) for path in chosen)
        yield np.stack([crop_image(image, preprocess) for image in images])
        done(len(chosen))
