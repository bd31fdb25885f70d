"""Class probabilities in few bytes, from which the probability of every concept follows within a stated bound.

A network that was trained with smoothed labels gives a tenth of its probability evenly to a thousand classes. So the
classes that stand out are kept, as half floats, and one number for all others: their mean. How many are kept is decided
for each picture, so that no set of classes is off by more than the bound. For sigmoid heads, whose classes do not
exclude each other, those above the bound are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.decode.restriction import viable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.decode.heads import HeadKind
    from miil21k.hierarchy.tree import Tree

__all__ = ["BOUND", "CompactMasses", "compact_masses", "counted_classes"]

BOUND = 0.005  # |P(concept) from what is kept - P(concept)|, for every concept
_ROUNDING = 2**-11  # relative error of a half float: what is kept sums to at most 1, so its error sums to at most this


class CompactMasses(NamedTuple):
    """P(exactly this class) of one picture, of the classes that stand out.

    classes: uint32 [M], the most probable first. probabilities: float16 [M]. rest: what every other counted class has.
    """

    classes: NDArray[np.uint32]
    probabilities: NDArray[np.float16]
    rest: float


def counted_classes(tree: Tree, withdrawn: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Return bool [C], the classes that may have a probability: those that are shown, or have such a class below."""
    if withdrawn is None:
        return np.ones(tree.num_classes, bool)
    return viable(tree, ~withdrawn)[: tree.num_classes]


def compact_masses(
    masses: NDArray[np.float32], head: HeadKind, counted: NDArray[np.bool_], bound: float = BOUND
) -> list[CompactMasses]:
    """Return what is kept of each row of `masses`, float32 [B, C] as `class_masses` gives it.

    counted: bool [C], see `counted_classes`. For any set of these classes, the sum of what is kept of them and of
    `rest` for the others (sigmoid heads: the largest) differs from that of `masses` by at most `bound`.
    """
    left = bound - _ROUNDING
    if head == "sigmoid":
        return [_kept(row, np.flatnonzero(row > left), 0.0) for row in masses]
    columns = np.flatnonzero(counted)
    found = []
    for row in masses:
        values = row[columns]
        order = np.argsort(-values, kind="stable")
        count, rest = _fewest(values[order].astype(np.float64), left)
        found.append(_kept(row, columns[order[:count]], rest))
    return found


def _kept(row: NDArray[np.float32], classes: NDArray[np.intp], rest: float) -> CompactMasses:
    return CompactMasses(classes.astype(np.uint32), row[classes].astype(np.float16), float(np.float32(rest)))


def _fewest(values: NDArray[np.float64], left: float) -> tuple[int, float]:
    """Return how many of the first values, which fall, must be kept, and the mean of the others.

    A set of the others is off by at most what those above their mean exceed it by, all together.
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    falling = -values

    def excess(count: int) -> float:
        mean = (sums[-1] - sums[count]) / (len(values) - count)
        above = max(count, int(np.searchsorted(falling, -mean)))
        return float(sums[above] - sums[count] - mean * (above - count))

    low, high = 0, len(values)  # the excess falls with the count
    while low < high:
        middle = (low + high) // 2
        if excess(middle) <= left:
            high = middle
        else:
            low = middle + 1
    return low, float(values[low:].mean()) if low < len(values) else 0.0
