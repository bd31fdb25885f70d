"""How far stated probabilities are from observed frequencies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.errors import UsageError
from miil21k.metrics.distance import is_correct, of_nodes
from miil21k.metrics.sums import Sums, check_labels, check_weights, ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.hierarchy.tree import Tree

__all__ = ["Reliability", "ReliabilityBins"]


class ReliabilityBins(NamedTuple):
    """Per bin: how many statements (or their weight), their mean probability, how often it came true (NaN if none)."""

    statements: NDArray[Any]
    stated: NDArray[np.float64]
    observed: NDArray[np.float64]


class Reliability(Sums):
    """Expected calibration error of stated probabilities, over `bins` bins of equal width.

    `ece`: the mean over all statements of |observed - stated| of their bin; `stated`, `observed`: overall means.
    """

    def __init__(self, bins: int = 15) -> None:
        super().__init__(
            count=np.zeros(bins, np.int64), stated=np.zeros(bins, np.float64), observed=np.zeros(bins, np.int64)
        )
        self.bins = bins

    def update(
        self,
        stated: NDArray[np.floating],
        observed: NDArray[np.bool_],
        weights: NDArray[np.floating] | None = None,
    ) -> None:
        """Add statements: probabilities in [0, 1], whether each came true, and how much it counts, of one shape.

        Raises UsageError for other values.
        """
        prob, true = np.asarray(stated, np.float64).ravel(), np.asarray(observed).ravel()
        if prob.shape != true.shape or true.dtype != np.bool_:
            raise UsageError(f"Expected a bool for each of {prob.size} probabilities, not {true.dtype} {true.shape}.")
        if prob.size and not (prob.min() >= 0 and prob.max() <= 1 + 1e-5):
            raise UsageError(f"Probabilities lie in [0, 1], not {prob.min()}..{prob.max()}.")
        place = np.minimum((prob * self.bins).astype(np.int64), self.bins - 1)
        counts = check_weights(None if weights is None else np.ravel(weights), prob.size)
        said = prob if counts is None else prob * counts
        self.add("count", np.bincount(place, counts, minlength=self.bins))
        self.add("stated", np.bincount(place, said, minlength=self.bins))
        self.add("observed", np.bincount(place[true], None if counts is None else counts[true], minlength=self.bins))

    def update_nodes(
        self,
        tree: Tree,
        node_prob: NDArray[np.floating],
        nodes: NDArray[np.integer],
        labels: NDArray[np.integer],
        right: NDArray[np.bool_] | None = None,
        weights: NDArray[np.floating] | None = None,
    ) -> None:
        """Add what is said about `nodes` [B, k]: P(node) against whether the node is correct; -1 is left out.

        node_prob: [B, N]. labels: int [B]. A node below its label counts as correct; right: bool [B, N],
        see `of_nodes`. weights: [B].
        """
        labels = check_labels(labels, len(node_prob), tree.num_nodes)
        row, column = np.nonzero(nodes >= 0)
        said = nodes[row, column]
        true = is_correct(tree, said, labels[row], of_nodes(right, row, said))
        self.update(np.clip(node_prob[row, said], 0, 1), true, None if weights is None else weights[row])

    @property
    def diagram(self) -> ReliabilityBins:
        """The bins, for a reliability diagram."""
        count = self["count"]
        stated, observed = np.full(self.bins, np.nan), np.full(self.bins, np.nan)
        np.divide(self["stated"], count, out=stated, where=count > 0)
        np.divide(self["observed"], count, out=observed, where=count > 0)
        return ReliabilityBins(count, stated, observed)

    def compute(self) -> dict[str, float]:
        """Return the error and the means; NaN before the first statement."""
        total = self["count"].sum()
        gap = np.abs(self["observed"] - self["stated"]).sum()
        return {
            "ece": ratio(gap, total),
            "stated": ratio(self["stated"].sum(), total),
            "observed": ratio(self["observed"].sum(), total),
        }
