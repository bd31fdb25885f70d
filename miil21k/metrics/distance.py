"""Distances in the tree: how bad a mistake is, and what a node says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from miil21k.metrics.sums import Sums, check_batch, check_labels, check_weights, count, ratio, total

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.hierarchy.tree import Tree

__all__ = [
    "HierarchicalDistance",
    "NodeAccuracy",
    "information",
    "is_correct",
    "lca_height",
    "node_height",
    "of_nodes",
    "truncate",
]


def node_height(tree: Tree) -> NDArray[np.int32]:
    """Return int32 [N], the longest way down from each node to a leaf; 0 for leaves."""
    height = np.zeros(tree.num_nodes, np.int32)
    for level in reversed(tree.levels[1:]):
        np.maximum.at(height, tree.parent[level.nodes], height[level.nodes] + 1)
    return height


def lca_height(
    tree: Tree, predicted: NDArray[np.integer], labels: NDArray[np.integer], height: NDArray[np.int32] | None = None
) -> NDArray[np.int32]:
    """Return int32, the height of the lowest common ancestor of each pair, 0 where both are the same node.

    predicted, labels: node indices, broadcast. Nodes of different trees of the forest meet at a virtual root one above
    the highest root. height: `node_height(tree)` when it is at hand. Source: Bertinetto et al. 2020.
    """
    height = node_height(tree) if height is None else height
    meeting = _lca(tree, predicted, labels)
    apart = np.where(meeting >= 0, height[meeting], height.max() + 1)
    return np.where(np.equal(predicted, labels), 0, apart).astype(np.int32)


def information(tree: Tree) -> NDArray[np.float64]:
    """Return float64 [N], log2 of (leaves of the tree / leaves at or below the node), in bits.

    A leaf has log2(number of leaves), the virtual root 0. Source: Deng et al. 2012.
    """
    below = np.zeros(tree.num_nodes, np.int64)
    below[tree.leaves] = 1
    for level in reversed(tree.levels[1:]):
        np.add.at(below, tree.parent[level.nodes], below[level.nodes])
    bits: NDArray[np.float64] = np.log2(tree.leaves.size) - np.log2(below)
    return bits


def _lca(tree: Tree, a: NDArray[np.integer], b: NDArray[np.integer]) -> NDArray[np.int32]:
    return tree.lca(np.asarray(a, np.int32), np.asarray(b, np.int32))


def is_correct(
    tree: Tree, nodes: NDArray[np.integer], labels: NDArray[np.integer], right: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Return bool: the node is the label, an ancestor of it, or below it; -1 (the virtual root) is always correct.

    Being more specific than the label is no error: 2,297 labels of winter21 are inner nodes. right: which of the nodes
    are right, of their shape, where the tree alone does not say it (see `of_nodes`).
    """
    if right is not None:
        return right | (nodes < 0)
    meeting = _lca(tree, np.maximum(nodes, 0), labels)
    correct: NDArray[np.bool_] = (nodes < 0) | ((meeting >= 0) & ((meeting == nodes) | (meeting == labels)))
    return correct


def truncate(
    tree: Tree, nodes: NDArray[np.integer], labels: NDArray[np.integer], right: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Return `nodes` with those strictly below their label replaced by the label.

    right: see `is_correct`; those that are right, and no others, become what they share with the label.
    """
    meeting = _lca(tree, np.maximum(nodes, 0), labels)
    settled = (nodes >= 0) & ((meeting == labels) if right is None else right)
    return np.where(settled, meeting, nodes).astype(np.int64)


def of_nodes(
    right: NDArray[np.bool_] | None, rows: NDArray[np.integer], nodes: NDArray[np.integer]
) -> NDArray[np.bool_] | None:
    """Return bool, whether each node is right for its row; None where the tree says it.

    right: bool [B, N], for labels of which some are no nodes of the tree. rows, nodes: int of one shape; -1 is no node.
    """
    return None if right is None else right[rows, np.maximum(nodes, 0)] & (nodes >= 0)


class HierarchicalDistance(Sums):
    """`mistake_severity`, the mean LCA height of wrong top-1 answers, and `distance_at_k`, that of the top k answers.

    `distance_at_k` is over all samples, right ones included. Source: Bertinetto et al. 2020.
    """

    def __init__(self, tree: Tree, ks: tuple[int, ...] = (1, 5, 20)) -> None:
        self.tree, self.ks = tree, tuple(k for k in ks if k <= tree.num_classes)
        self._height = node_height(tree)
        super().__init__(
            total=np.zeros(len(self.ks), np.int64),
            severity=np.zeros(1, np.int64),
            mistakes=np.zeros(1, np.int64),
            samples=np.zeros(1, np.int64),
        )

    def update(
        self,
        logits: NDArray[np.floating],
        labels: NDArray[np.integer],
        weights: NDArray[np.floating] | None = None,
    ) -> None:
        """Add a batch: logits or probabilities [B, C] finite, labels int [B], weights [B]."""
        labels = check_batch(logits, labels, self.tree.num_classes)
        top = _top(logits, max(self.ks))
        height = lca_height(self.tree, top, labels[:, None], self._height).astype(np.int64)
        wrong = top[:, 0] != labels
        weights = check_weights(weights, len(labels))
        self.add("total", total(np.stack([height[:, :k].sum(1) for k in self.ks], axis=1), weights))
        self.add("severity", total(height[:, 0] * wrong, weights))
        self.add("mistakes", total(wrong, weights))
        self.add("samples", count(len(labels), weights))

    def compute(self) -> dict[str, float]:
        """Return the means; `mistake_severity` is NaN without a mistake."""
        samples = self["samples"][0]
        each = zip(self.ks, self["total"].tolist(), strict=True)
        return {
            "mistake_severity": ratio(self["severity"][0], self["mistakes"][0]),
            **{f"distance_at_{k}": ratio(total, samples * k) for k, total in each},
        }


def _top(logits: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Return int64 [B, k], the largest first; ties go to the lowest index."""
    if k == 1:
        return np.array(logits.argmax(1), np.int64)[:, None]
    bound = -np.partition(-logits, k - 1, axis=1)[:, k - 1 : k]
    rows = [np.flatnonzero(row >= least) for row, least in zip(logits, bound, strict=True)]
    top = [cols[np.argsort(-row[cols], kind="stable")[:k]] for row, cols in zip(logits, rows, strict=True)]
    return np.array(top, np.int64).reshape(-1, k)


class NodeAccuracy(Sums):
    """What answers that may be inner nodes are worth: hedged answers, or top-1 classes.

    An answer of -1 is the virtual root, says nothing and is always correct. An answer below its label counts as the
    label. With val the depth (roots 1, virtual root 0) or the information in bits, and c the LCA of answer and label:

    - `answered`: the answer is a node. `correct`: it is an ancestor of the label, the label, or no answer.
      `correct_of_answered`: the share of answers that are right. `exact`: the label itself; of a label that is no node
      of the tree, the deepest node that is right.
    - `recall_*` val(c) / val(label); `precision_*` val(c) / val(answer), 1 for the virtual root; `f1_*` per sample.
    - `excess_*` val(answer) - val(c); `deficient_*` val(label) - val(c).
    - `reward`: val in bits where correct, else 0, over the bits of a leaf (Deng et al. 2012).

    Source of the definitions: Valmadre 2022.
    """

    NAMES = ("recall", "precision", "f1", "excess", "deficient")

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.values = {"depth": tree.depth.astype(np.float64) + 1, "info": information(tree)}
        super().__init__(
            samples=np.zeros(1, np.int64),
            answered=np.zeros(1, np.int64),
            correct=np.zeros(1, np.int64),
            exact=np.zeros(1, np.int64),
            reward=np.zeros(1, np.float64),
            depth=np.zeros(len(self.NAMES), np.float64),
            info=np.zeros(len(self.NAMES), np.float64),
        )

    def update(
        self,
        nodes: NDArray[np.integer],
        labels: NDArray[np.integer],
        right: NDArray[np.bool_] | None = None,
        weights: NDArray[np.floating] | None = None,
    ) -> None:
        """Add a batch: answers int [B], -1 for the virtual root, labels int [B]; right: bool [B, N], see `of_nodes`.

        weights: [B], how much each counts.
        """
        batch = len(np.asarray(nodes))
        labels = check_labels(labels, batch, self.tree.num_nodes)
        nodes = check_labels(np.asarray(nodes) + 1, batch, self.tree.num_nodes + 1) - 1
        weights = check_weights(weights, batch)
        answer = truncate(self.tree, nodes, labels, of_nodes(right, np.arange(batch), nodes))
        meeting = np.where(answer >= 0, _lca(self.tree, np.maximum(answer, 0), labels), -1)
        correct = meeting == answer
        self.add("samples", count(batch, weights))
        self.add("answered", total(nodes >= 0, weights))
        self.add("correct", total(correct, weights))
        self.add("exact", total(answer == labels, weights))
        bits = self.values["info"]
        self.add("reward", total(at(bits, answer) * correct, weights))
        for name, value in self.values.items():
            self.add(name, total(agreement(value, answer, labels, meeting).T, weights))

    def compute(self) -> dict[str, float]:
        """Return the means."""
        samples, answered, correct = (self[name][0] for name in ("samples", "answered", "correct"))
        result = {
            "answered": ratio(answered, samples),
            "correct": ratio(correct, samples),
            "correct_of_answered": ratio(correct - (samples - answered), answered),
            "exact": ratio(self["exact"][0], samples),
            "reward": ratio(self["reward"][0], samples * max(np.log2(self.tree.leaves.size), 1e-300)),
        }
        for flavour in self.values:
            sums = zip(self.NAMES, self[flavour].tolist(), strict=True)
            result |= {f"{name}_{flavour}": ratio(total, samples) for name, total in sums}
        return result


def at(value: NDArray[np.float64], nodes: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the values of `nodes`, 0 for the virtual root."""
    return np.where(nodes >= 0, value[nodes], 0.0)


def agreement(
    value: NDArray[np.float64],
    answer: NDArray[np.integer],
    labels: NDArray[np.integer],
    meeting: NDArray[np.integer],
) -> NDArray[np.float64]:
    """Return float64 [5, B]: recall, precision, F1, excess and deficient value; 0 / 0 counts as 1."""
    shared, said, wanted = at(value, meeting), at(value, answer), at(value, labels)
    recall = np.divide(shared, wanted, out=np.ones_like(shared), where=wanted > 0)
    precision = np.divide(shared, said, out=np.ones_like(shared), where=said > 0)
    both = recall + precision
    f1 = np.divide(2 * recall * precision, both, out=np.zeros_like(shared), where=both > 0)
    return np.stack([recall, precision, f1, said - shared, wanted - shared])
