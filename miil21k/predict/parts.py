"""Several things in one picture: tiles of it are answered like pictures of their own, and their answers joined.

This is no detector: a box is the tile that was surest, not the outline of a thing, and things are not counted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from miil21k.data.transforms import crop_image, decode_edge
from miil21k.predict.prediction import ImagePart, PixelBox

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from miil21k.data.images import Picture
    from miil21k.data.resizers import ResizerName
    from miil21k.predict.prediction import Node
    from miil21k.zoo.schema import Preprocess

__all__ = ["Tile", "TileAnswer", "cut", "edge_of_tiles", "joined", "tiles_of"]

SCALES = (1 / 2, 1 / 3)  # sides of tiles, in shorter sides of the image
MOST_ACROSS = 16  # tiles along one side of the image
SMALLEST = 32  # pixels of the side of a tile: below there is nothing to see


class Tile(NamedTuple):
    """A part of an image, and what the network sees of it, uint8 [H, W, 3]."""

    box: PixelBox
    crop: NDArray[np.uint8]


class TileAnswer(NamedTuple):
    """A tile and the path that was sure enough for it, root first; empty where nothing was."""

    box: PixelBox
    path: tuple[Node, ...]

    def refines(self, other: TileAnswer) -> bool:
        """Return whether the answer lies below that of `other`, in a tile that overlaps it."""
        across = self.box.left < other.box.right and other.box.left < self.box.right
        down = self.box.top < other.box.bottom and other.box.top < self.box.bottom
        return across and down and any(node.wnid == other.path[-1].wnid for node in self.path[:-1])


def cut(picture: Picture, preprocess: Preprocess, resizer: ResizerName) -> list[Tile]:
    """Return the tiles of a picture, each seen like an image of its own."""
    left, top, right, bottom = picture.box or (0, 0, *picture.image.size)
    across, down = (right - left) / picture.size[0], (bottom - top) / picture.size[1]
    found = []
    for box in tiles_of(picture.size):
        edges = PixelBox(*map(round, (box.left * across, box.top * down, box.right * across, box.bottom * down)))
        found.append(Tile(box, crop_image(picture.image.crop(edges), preprocess, resizer)))
    return found


def edge_of_tiles(preprocess: Preprocess) -> int:
    """Return the `reduce_to` for `load_picture` that lets the smallest tile be as large as an image has to be."""
    return round(decode_edge(preprocess) / min(SCALES))


def tiles_of(size: tuple[int, int]) -> list[PixelBox]:
    """Return squares over an image of `size`, (width, height): of half its shorter side, then of a third.

    Neighbours overlap by half. There are at most 16 beside each other, so that in an image three times as long as wide
    the smaller ones overlap less, and leave gaps in one that is longer than five times; none is smaller than 32 pixels.
    """
    found = []
    for scale in SCALES:
        side = math.floor(min(size) * scale)
        if side >= SMALLEST:
            lefts, tops = (_starts(length, side) for length in size)
            found += [PixelBox(left, top, left + side, top + side) for top in tops for left in lefts]
    return found


def _starts(length: int, side: int) -> list[int]:
    """Return where the tiles along one side of the image begin, evenly spread."""
    count = min(math.ceil(2 * (length - side) / side) + 1, MOST_ACROSS)
    return [round(at * (length - side) / max(count - 1, 1)) for at in range(count)]


def joined(answers: Sequence[TileAnswer]) -> tuple[ImagePart, ...]:
    """Return the different things that tiles of one image were sure of, each with its surest tile, the surest first.

    *Dog* is left out where a tile that overlaps says *corgi*.
    """
    sure = [one for one in answers if one.path]
    best: dict[str, ImagePart] = {}
    for one in sure:
        if any(other.refines(one) for other in sure):
            continue
        node = one.path[-1]
        if node.wnid not in best or node.probability > best[node.wnid].probability:
            best[node.wnid] = ImagePart(*node, one.box)
    return tuple(sorted(best.values(), key=lambda part: -part.probability))
