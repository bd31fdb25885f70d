"""P(label) of a user's own labels: the masses of their classes, pooled.

`masses` is float32 [B, C], P(exactly this class); `bins` the labels, whose `owner` says the lowest label of each class.
A label holds what the labels below it hold. Sums of softmax heads; the largest one for sigmoid heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from miil21k.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.decode.heads import HeadKind
    from miil21k.hierarchy.bins import Bins

__all__ = ["bin_probabilities", "own_probabilities"]


def own_probabilities(bins: Bins, masses: NDArray[np.float32], head: HeadKind) -> NDArray[np.float32]:
    """Return float32 [B, L], P(this label and none below it); raises UsageError for masses of another shape."""
    if masses.ndim != 2 or masses.shape[1] != bins.owner.size:
        raise UsageError(f"Class masses must have the shape [batch, {bins.owner.size}], not {list(masses.shape)}.")
    found = np.zeros((len(masses), len(bins)), np.float32)
    order = np.argsort(bins.owner, kind="stable")
    labels, starts = np.unique(bins.owner[order], return_index=True)
    fold = np.maximum if head == "sigmoid" else np.add
    found[:, labels] = fold.reduceat(masses.take(order, axis=1), starts, axis=1)
    return np.minimum(found, 1, out=found)


def bin_probabilities(bins: Bins, own: NDArray[np.float32], head: HeadKind) -> NDArray[np.float32]:
    """Return float32 [B, L], P(this label or one below it), never less than that of a label below.

    own: float32 [B, L], of `own_probabilities`.
    """
    found = own.copy()
    fold = np.maximum if head == "sigmoid" else np.add
    for family in reversed(bins.tree.families[1:]):
        below = fold.reduceat(found[:, family.nodes], family.starts, axis=1)
        found[:, family.parents] = fold(found[:, family.parents], below)
    return np.minimum(found, 1, out=found)
