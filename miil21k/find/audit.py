"""Which labels are likely wrong, from probabilities of classifiers that did not see the image; a pure function."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.environment import need
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.hierarchy.tree import Tree

__all__ = ["Doubt", "audit", "tree_distance"]


class Doubt(NamedTuple):
    """One image whose label is in doubt.

    row: its place. label, suggested: class indices, as it is labelled and as it looks. quality: of the label in [0, 1],
    cleanlab's normalised margin; low is bad. probability: of the suggested class. mislabelled: whether confident
    learning counts it among the wrong labels; else it is doubtful only. distance: edges of the tree between the two
    classes, roots hanging from one node above them.
    """

    row: int
    label: int
    suggested: int
    quality: float
    probability: float
    mislabelled: bool
    distance: int


def audit(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], space: LabelSpace, *, least: float = 0.5
) -> list[Doubt]:
    """Return the images whose label is likely wrong, or doubtful, the worst first.

    probabilities: float [n, C], rows that sum to 1, from classifiers that were fitted without the image; a row of nan
    is left out. labels: int [n], classes of `space`. least: a label of less quality is doubtful where another class is
    likelier. Likely wrong is what confident learning finds (Northcutt et al. 2021, as cleanlab implements it, pruned
    both by class and by noise rate). Raises UsageError for shapes that do not fit, MissingExtra without cleanlab.
    """
    if probabilities.shape != (len(labels), space.num_classes):
        raise UsageError(
            f"Expected probabilities [{len(labels)}, {space.num_classes}], not {list(probabilities.shape)}."
        )
    known = np.flatnonzero(np.isfinite(probabilities).all(1))
    if not known.size:
        return []
    given = np.asarray(labels)[known]
    classes, own = np.unique(given, return_inverse=True)  # cleanlab counts classes that have images
    rows = probabilities[known]
    shares = rows[:, classes].astype(np.float64)
    shares /= np.maximum(shares.sum(1, keepdims=True), 1e-12)
    quality, wrong = np.ones(known.size), np.zeros(known.size, np.bool_)
    if classes.size > 1:
        rank = need("cleanlab.rank", "audit", "Finding wrong labels")
        found = need("cleanlab.filter", "audit", "Finding wrong labels")
        quality = rank.get_label_quality_scores(own, shares, method="normalized_margin")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "May not flag all label issues")  # of few images: `quality` tells
            wrong = found.find_label_issues(own, shares, filter_by="both", n_jobs=1)
    best = rows.argmax(1)
    chosen = np.flatnonzero((best != given) & (wrong | (quality < least)))
    order = chosen[np.lexsort((quality[chosen], ~wrong[chosen]))]
    far = tree_distance(space.tree, given, best)
    return [
        Doubt(
            int(known[at]),
            int(given[at]),
            int(best[at]),
            round(float(quality[at]), 4),
            round(float(rows[at, best[at]]), 4),
            bool(wrong[at]),
            int(far[at]),
        )
        for at in order
    ]


def tree_distance(tree: Tree, one: NDArray[np.integer], other: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return int64, the edges between nodes of the tree, whose roots hang from one node above them."""
    meeting = tree.lca(one.astype(np.int32), other.astype(np.int32))
    above = np.where(meeting >= 0, tree.depth[meeting], -1)
    found: NDArray[np.int64] = tree.depth[one].astype(np.int64) + tree.depth[other] - 2 * above
    return found
