"""The k most probable classes, flat or with the path to each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.decode.path import paths_to
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from miil21k.decode.path import Paths
    from miil21k.decode.probabilities import Probabilities
    from miil21k.hierarchy.tree import Tree

__all__ = ["TopK", "topk_classes", "topk_paths"]

MOST_PASSES = 256  # from some hundreds on, sorting whole rows is as fast


class TopK(NamedTuple):
    """The best classes of each row, best first.

    classes: int32 [B, k], class indices; -1 where fewer than k classes have P > 0.
    probs: float32 [B, k], falling; 0 where classes is -1.
    """

    classes: NDArray[np.int32]
    probs: NDArray[np.float32]


def topk_classes(class_prob: NDArray[np.float32], k: int = 5) -> TopK:
    """Return the k classes with the largest probability; ties go to the lowest class index.

    class_prob: [B, C] from `class_probabilities`; a class with probability 0 (masked) is never listed.
    k is cut to C. Raises UsageError when k < 1 or `class_prob` is not [B, C].
    """
    if class_prob.ndim != 2:
        raise UsageError(f"Class probabilities must have the shape [batch, classes], not {list(class_prob.shape)}.")
    if k < 1:
        raise UsageError(f"k must be at least 1, not {k}.")
    best = _largest(class_prob, min(k, class_prob.shape[1]))
    probs = np.take_along_axis(class_prob, best, axis=1)
    return TopK(np.where(probs > 0, best, -1).astype(np.int32), probs.astype(np.float32))


def _largest(values: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return int64 [B, k], the columns of the k largest values of each row, falling; the lower column of equal ones."""
    if k > MOST_PASSES:
        return np.argsort(-values, axis=1, kind="stable")[:, :k]
    # One vectorised pass for each is an order of magnitude faster than a partition, and takes the first of equals.
    left, rows = values.copy(), np.arange(len(values))
    best = np.empty((len(values), k), np.int64)
    for place in range(k):
        best[:, place] = left.argmax(axis=1)
        left[rows, best[:, place]] = -np.inf
    return best


def topk_paths(
    tree: Tree, probabilities: Probabilities, k: int = 5, *, withdrawn: ArrayLike | None = None
) -> tuple[TopK, Paths]:
    """Return the k most probable classes and the chain from the root to each ([B, k, L]).

    The order is that of `topk_classes(probabilities.classes, k)`; every step carries its P(node). withdrawn:
    bool [C], classes to leave out of the chains. Raises UsageError as `topk_classes` and `paths_to` do.
    """
    top = topk_classes(probabilities.classes, k)
    return top, paths_to(tree, probabilities.nodes, top.classes, withdrawn=withdrawn)
