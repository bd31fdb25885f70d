"""The pictures of a quantisation: each sets it up, or chooses what stays float, or judges it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from miil21k.data.images import load_picture
from miil21k.data.transforms import crop_picture, decode_edge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from miil21k.zoo.schema import Preprocess

__all__ = ["Roles", "divide", "read_crops", "spread"]

T = TypeVar("T")


class Roles(NamedTuple):
    """Which pictures set up ranges and biases, which choose the layers that stay float, and which judge the result."""

    setting_up: list[Path]
    choosing: list[Path]
    judging: list[Path]


def divide(pictures: Sequence[Path], judges: Sequence[Path] = ()) -> Roles:
    """Return each picture in one role; of copies of the same bytes one is kept.

    judges: those that judge, less what is among `pictures`, of which every second one then sets up and every second one
    chooses. Without judges every second of `pictures` judges, and the others set up and choose by turns. The order is
    that of their digests, which says nothing about what they show. Roles that no picture is left for are empty. Raises
    OSError for a file that cannot be read.
    """
    own = _by_digest(pictures)
    ordered = [own[digest] for digest in sorted(own)]
    if judges:
        others = [path for digest, path in _by_digest(judges).items() if digest not in own]
        return Roles(ordered[::2], ordered[1::2], others)
    return Roles(ordered[::4], ordered[2::4], ordered[1::2])


def _by_digest(pictures: Sequence[Path]) -> dict[str, Path]:
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in pictures}


def spread(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` of the items, evenly spread over their order."""
    if len(items) <= most:
        return list(items)
    return [items[int(at)] for at in np.linspace(0, len(items) - 1, most).round()]


def read_crops(
    pictures: Sequence[Path], preprocess: Preprocess, batch: int, done: Callable[[int], None] = lambda _: None
) -> Iterator[NDArray[np.uint8]]:
    """Yield uint8 [<= batch, H, W, 3], what the network sees of the pictures, in their order.

    done: told how many were read. Raises ImageError for one that is no image.
    """
    for start in range(0, len(pictures), batch):
        chosen = pictures[start : start + batch]
        loaded = (load_picture(path, reduce_to=decode_edge(preprocess)) for path in chosen)
        yield np.stack([crop_picture(picture, preprocess) for picture in loaded])
        done(len(chosen))
