"""How certainty trades against detail: operating curves (Valmadre 2022) and accuracy-reward trade-offs (Deng 2012)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.errors import UsageError
from miil21k.metrics.distance import agreement, at, information, of_nodes, truncate
from miil21k.metrics.sums import Sums, check_batch, check_labels, check_weights, count, ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.hierarchy.tree import Tree

__all__ = ["Curve", "OperatingCurve", "Steps", "area", "darts", "darts_nodes", "intercept", "pareto_steps"]


class Steps(NamedTuple):
    """The answers that a threshold can give, sample by sample, least informative first; S steps in all.

    row: int64 [S], the sample. node: int64 [S]; every sample opens with -1, the virtual root. prob: float64 [S],
    P(node), never growing within a sample.
    """

    row: NDArray[np.int64]
    node: NDArray[np.int64]
    prob: NDArray[np.float64]


def pareto_steps(tree: Tree, node_prob: NDArray[np.floating]) -> Steps:
    """Return the ordered Pareto set of each row of `node_prob` [B, N].

    Nodes are taken in the order of falling probability (ties: more information first, then lower index) and kept when
    they hold more information than all before. A node of probability 0 is no answer.
    """
    # Few amounts of information occur (114 in winter21). A node is kept when it is the first of the best of its amount
    # and better than all that hold more, so no row needs to be sorted.
    columns, bounds = _by_information(tree)
    values = node_prob[:, columns]
    best = np.maximum.reduceat(values, bounds[:-1], axis=1)
    ahead = np.maximum.accumulate(np.pad(best, ((0, 0), (1, 0))), axis=1)[:, :-1]
    keep = best > ahead
    nodes = np.full((len(node_prob), bounds.size), -1, np.int64)
    for amount in np.flatnonzero(keep.any(0)):
        rows = np.flatnonzero(keep[:, amount])
        start, stop = bounds[amount], bounds[amount + 1]
        nodes[rows, amount] = columns[start + values[rows, start:stop].argmax(1)]
    keep = np.pad(keep, ((0, 0), (0, 1)), constant_values=True)
    row, place = np.nonzero(keep[:, ::-1])
    node = nodes[:, ::-1][row, place]
    prob = np.where(node >= 0, node_prob[row, node], 1.0).astype(np.float64)
    return Steps(row, node, np.minimum(prob, 1.0))


@lru_cache(maxsize=32)
def _by_information(tree: Tree) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the nodes that hold any information, the most informative first, and the bounds of equal amounts."""
    info = information(tree)
    columns = np.argsort(-info, kind="stable")
    columns = columns[info[columns] > 0]
    starts = np.flatnonzero(np.diff(info[columns], prepend=np.inf))
    return columns, np.append(starts, columns.size)


class Curve(NamedTuple):
    """Means over the samples at every threshold, highest first; the first point answers the virtual root throughout.

    threshold: float64 [P]. The others, float64 [P] in [0, 1]: correct, exact, and recall and precision with the value
    of a node measured by its depth and by its information.
    """

    threshold: NDArray[np.float64]
    correct: NDArray[np.float64]
    exact: NDArray[np.float64]
    recall_depth: NDArray[np.float64]
    precision_depth: NDArray[np.float64]
    recall_info: NDArray[np.float64]
    precision_info: NDArray[np.float64]


class OperatingCurve(Sums):
    """The operating curve of a data set, and its summary.

    At threshold t a sample answers the most informative node of its Pareto set with P >= t, or the virtual root. An
    answer below its label counts as the label. Thresholds lie on a grid of `bins` equal steps in [0, 1], so that parts
    of a data set add up exactly; two probabilities within one step are one threshold.

    `compute`: `ac_*` the area under correct over recall, `ap_*` under precision over recall, `ac_exact` under correct
    over exact, `recall_*_at_90` and `_at_95` the largest recall at which that share of answers is correct; each with
    `depth` and `info`.
    """

    METRICS = ("correct", "exact", "recall_depth", "precision_depth", "recall_info", "precision_info")

    def __init__(self, tree: Tree, bins: int = 1 << 16) -> None:
        if bins < 1:
            raise UsageError(f"An operating curve needs at least one threshold, not {bins}.")
        self.tree, self.bins = tree, bins
        self._info = information(tree)
        self._depth = tree.depth.astype(np.float64) + 1
        super().__init__(
            samples=np.zeros(1, np.int64),
            start=np.zeros(len(self.METRICS), np.float64),
            change=np.zeros((len(self.METRICS), bins + 1), np.float64),
        )

    def update(
        self,
        node_prob: NDArray[np.floating],
        labels: NDArray[np.integer],
        right: NDArray[np.bool_] | None = None,
        weights: NDArray[np.floating] | None = None,
    ) -> None:
        """Add a batch: P(node) [B, N] finite, labels int [B]; right: bool [B, N], see `of_nodes`; weights [B]."""
        labels = check_batch(node_prob, labels, self.tree.num_nodes)
        steps = pareto_steps(self.tree, node_prob)
        weights = check_weights(weights, len(labels))
        values = self._measure(steps, labels[steps.row], of_nodes(right, steps.row, steps.node))
        if weights is not None:
            values *= weights[steps.row]
        first = np.diff(steps.row, prepend=-1) > 0
        change = np.diff(values, axis=1, prepend=0.0)
        bins = np.floor(steps.prob * self.bins).astype(np.int64)
        for metric in range(len(self.METRICS)):
            part = np.bincount(bins[~first], weights=change[metric][~first], minlength=self.bins + 1)
            self["change"][metric] += part
        self.add("start", values[:, first].sum(1))
        self.add("samples", count(len(labels), weights))

    def _measure(self, steps: Steps, labels: NDArray[np.int64], right: NDArray[np.bool_] | None) -> NDArray[np.float64]:
        answer = truncate(self.tree, steps.node, labels, right)
        meeting = self.tree.lca(np.maximum(answer, 0).astype(np.int32), labels.astype(np.int32))
        meeting = np.where(answer >= 0, meeting, -1)
        by_depth = agreement(self._depth, answer, labels, meeting)
        by_info = agreement(self._info, answer, labels, meeting)
        exact = answer == labels
        return np.stack([meeting == answer, exact, by_depth[0], by_depth[1], by_info[0], by_info[1]]).astype(np.float64)

    def curve(self) -> Curve:
        """Return the points at which something changes; raises UsageError before the first sample."""
        samples = self["samples"][0]
        if not samples:
            raise UsageError("An operating curve needs at least one sample.")
        change = self["change"][:, ::-1]  # highest threshold first
        at_bin = np.flatnonzero(np.abs(change).max(0) > 0)
        points = np.cumsum(np.concatenate([self["start"][:, None], change[:, at_bin]], axis=1), axis=1) / samples
        threshold = np.concatenate([[1.0], (self.bins - at_bin) / self.bins])
        return Curve(threshold, *np.clip(points, 0, 1))

    def compute(self) -> dict[str, float]:
        """Return the summary; NaN before the first sample."""
        if not self["samples"][0]:
            parts = ("ac_{}", "ap_{}", "recall_{}_at_90", "recall_{}_at_95")
            names = (part.format(flavour) for flavour in ("depth", "info") for part in parts)
            return dict.fromkeys(("ac_exact", *names), float("nan"))
        curve = self.curve()
        result = {"ac_exact": area(curve.exact, curve.correct)}
        for flavour in ("depth", "info"):
            recall, precision = getattr(curve, f"recall_{flavour}"), getattr(curve, f"precision_{flavour}")
            result[f"ac_{flavour}"] = area(recall, curve.correct)
            result[f"ap_{flavour}"] = area(recall, precision)
            for percent in (90, 95):
                result[f"recall_{flavour}_at_{percent}"] = intercept(recall, curve.correct, percent / 100)
        return result


def area(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the area under the best `b` that is reached at each `a` or a larger one; both in [0, 1]."""
    order = np.argsort(a, kind="stable")
    best = np.maximum.accumulate(b[order][::-1])[::-1]
    return float((np.diff(a[order], prepend=0.0) * best).sum())


def intercept(a: NDArray[np.float64], b: NDArray[np.float64], least: float) -> float:
    """Return the largest `a` among the points with `b` >= `least`; 0 when there is none."""
    reached = a[b >= least - 1e-12]
    return float(reached.max()) if reached.size else 0.0


def darts_nodes(tree: Tree, steps: Steps, trade: float) -> NDArray[np.int64]:
    """Return int64 [B], argmax over nodes of (information + trade) P(node); ties: the less informative node.

    trade: lambda >= 0, in bits; infinity answers the virtual root. Only nodes of the Pareto set can win.
    Source: Deng et al. 2012, equation of f_lambda.
    """
    bits = at(information(tree), steps.node)
    score = (bits + trade) * steps.prob if np.isfinite(trade) else steps.prob
    starts = np.flatnonzero(np.diff(steps.row, prepend=-1) > 0)
    best = np.maximum.reduceat(score, starts)
    hits = np.flatnonzero(score >= best[steps.row])
    first = hits[np.diff(steps.row[hits], prepend=-1) > 0]
    return steps.node[first]


def darts(
    tree: Tree, node_prob: NDArray[np.floating], labels: NDArray[np.integer], accuracy: float
) -> tuple[float, NDArray[np.int64]]:
    """Return (lambda, answers int64 [B]): the largest mean reward found whose answers are correct often enough.

    node_prob: [B, N], calibrated. accuracy: the wanted share of correct answers, in (0, 1). The bisection is on the
    accuracy of these samples; take other samples to judge it. Raises UsageError for another accuracy.
    Source: Deng et al. 2012, algorithm 1 (25 halvings).
    """
    if not 0 < accuracy < 1:
        raise UsageError(f"The accuracy to reach lies between 0 and 1, not {accuracy}.")
    labels = check_labels(labels, len(node_prob), tree.num_nodes)
    steps = pareto_steps(tree, node_prob)

    def good(trade: float) -> tuple[bool, NDArray[np.int64]]:
        answer = darts_nodes(tree, steps, trade)
        exact = truncate(tree, answer, labels)
        meeting = tree.lca(np.maximum(exact, 0).astype(np.int32), labels.astype(np.int32))
        right = (exact < 0) | (meeting == exact)
        return ratio(right.sum(), right.size) >= accuracy, answer

    enough, answer = good(0.0)
    if enough:
        return 0.0, answer
    low, high = 0.0, accuracy * float(np.log2(tree.leaves.size)) / (1 - accuracy)
    _, answer = good(high)
    for _ in range(25):
        middle = (low + high) / 2
        enough, found = good(middle)
        if enough:
            high, answer = middle, found
        else:
            low = middle
    return high, answer
