"""Accuracies: per level as MIIL defines it, flat top-k, per class, and by subtree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from miil21k.errors import UsageError
from miil21k.metrics.sums import Sums, check_batch, check_labels, check_weights, ratio, total

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.hierarchy.tree import Tree

__all__ = ["FlatAccuracy", "SemanticAccuracy", "SubtreeConfusion", "subtree_groups"]


class SemanticAccuracy(Sums):
    """Semantic top-1 accuracy of logits [B, C], or with `inner` of P(node) [B, N].

    At every level that the label reaches, the answer is the most probable class of the level (ties: lowest index).

    - `semantic_top1`: right answers over all (sample, level) pairs, as published (micro).
    - `semantic_top1_macro`: the mean over levels of the accuracy of each; `semantic_top1_level_00` and so on.
    - `path_accuracy`: samples that are right at every level they have. `path_consistent`: samples whose answers,
      down to the label's depth, lie on one chain, right or wrong.

    deepest: `published` leaves out the deepest level as the MIIL code does; `keep` counts it. inner: nodes that are no
    classes stand in their levels too, for heads that say nothing of them but through P(node); without it such a level
    would be skipped, and a path be right that was never asked. Levels with fewer than two members are left out.
    Source: MIIL `metrics.py`.
    """

    def __init__(self, tree: Tree, deepest: Literal["published", "keep"] = "published", *, inner: bool = False) -> None:
        count = tree.max_depth + (deepest == "keep")
        self.tree, self.width = tree, tree.num_nodes if inner else tree.num_classes
        found = [(level.depth, level.nodes[level.nodes < self.width]) for level in tree.levels[:count]]
        self.levels = [(depth, classes) for depth, classes in found if classes.size > 1]
        size = len(self.levels)
        super().__init__(
            hits=np.zeros(size, np.int64),
            valid=np.zeros(size, np.int64),
            samples=np.zeros(1, np.int64),
            right=np.zeros(1, np.int64),
            consistent=np.zeros(1, np.int64),
        )

    def update(
        self,
        logits: NDArray[np.floating],
        labels: NDArray[np.integer],
        weights: NDArray[np.floating] | None = None,
    ) -> None:
        """Add a batch: logits [B, C], with `inner` P(node) [B, N], finite; labels int [B], nodes; weights [B]."""
        labels = check_batch(logits, labels, self.width, self.tree.num_nodes)
        answers = np.empty((len(labels), len(self.levels)), np.int64)
        for column, (_, classes) in enumerate(self.levels):
            answers[:, column] = classes[logits[:, classes].argmax(1)]
        self.update_answers(answers, labels, weights)

    def update_answers(
        self,
        answers: NDArray[np.integer],
        labels: NDArray[np.integer],
        weights: NDArray[np.floating] | None = None,
    ) -> None:
        """Add a batch whose arg-max was taken elsewhere: answers int [B, K], a class for each of `levels`."""
        labels = check_labels(labels, len(answers), self.tree.num_nodes)
        weights = check_weights(weights, len(answers))
        depths = [depth for depth, _ in self.levels]
        if not depths:
            return
        targets = self.tree.level_target[labels][:, depths]
        valid = (targets >= 0) & (targets < self.width)
        hits = (answers == targets) & valid
        self.add("hits", total(hits, weights))
        self.add("valid", total(valid, weights))
        # Samples whose label reaches no counted level say nothing about paths.
        counted = valid.any(1)
        self.add("samples", total(counted, weights))
        self.add("right", total((hits | ~valid).all(axis=1) & counted, weights))
        self.add("consistent", total(self._consistent(answers, valid, depths) & counted, weights))

    def _consistent(
        self, answers: NDArray[np.integer], valid: NDArray[np.bool_], depths: list[int]
    ) -> NDArray[np.bool_]:
        last = np.where(valid, np.arange(len(depths)), -1).max(1)
        deepest = answers[np.arange(len(answers)), last]
        chain = self.tree.level_target[deepest][:, depths]
        result: NDArray[np.bool_] = ((chain == answers) | ~valid).all(1)
        return result

    def compute(self) -> dict[str, float]:
        """Return the fractions; a level that no label reached is NaN and not part of the macro mean."""
        hits, valid = self["hits"], self["valid"]
        each = {
            f"semantic_top1_level_{depth:02d}": ratio(hit, all_)
            for (depth, _), hit, all_ in zip(self.levels, hits.tolist(), valid.tolist(), strict=True)
        }
        seen = [value for value in each.values() if not np.isnan(value)]
        samples = self["samples"][0]
        return {
            "semantic_top1": ratio(hits.sum(), valid.sum()),
            "semantic_top1_macro": ratio(sum(seen), len(seen)),
            "path_accuracy": ratio(self["right"][0], samples),
            "path_consistent": ratio(self["consistent"][0], samples),
            **each,
        }


class FlatAccuracy(Sums):
    """Top-k accuracy over all classes, for every k asked, and the top-1 accuracy of each class.

    Ties are won by the lowest class index. A class whose logit is never trained (the published deepest level) takes
    part like any other.
    """

    def __init__(self, num_classes: int, ks: tuple[int, ...] = (1, 5)) -> None:
        self.num_classes, self.ks = num_classes, ks
        super().__init__(
            hits=np.zeros(len(ks), np.int64),
            class_hits=np.zeros(num_classes, np.int64),
            class_samples=np.zeros(num_classes, np.int64),
        )

    def update(
        self,
        logits: NDArray[np.floating],
        labels: NDArray[np.integer],
        weights: NDArray[np.floating] | None = None,
    ) -> None:
        """Add a batch: logits [B, C] finite, labels int [B], weights [B]."""
        labels = check_batch(logits, labels, self.num_classes)
        own = logits[np.arange(len(labels)), labels][:, None]
        better = (logits > own).sum(1)
        tied = np.nonzero(logits == own)
        better += np.bincount(tied[0], weights=tied[1] < labels[tied[0]], minlength=len(labels)).astype(np.int64)
        self.update_ranks(better, labels, weights)

    def update_ranks(
        self,
        better: NDArray[np.integer],
        labels: NDArray[np.integer],
        weights: NDArray[np.floating] | None = None,
    ) -> None:
        """Add a batch that was ranked elsewhere: better int [B], how many classes come before the label's."""
        labels = check_labels(labels, len(better), self.num_classes)
        weights = check_weights(weights, len(labels))
        self.add("hits", total(np.less.outer(better, self.ks), weights))
        first = better == 0
        counts = None if weights is None else weights[first]
        self.add("class_hits", np.bincount(labels[first], counts, minlength=self.num_classes))
        self.add("class_samples", np.bincount(labels, weights, minlength=self.num_classes))

    def compute(self) -> dict[str, float]:
        """Return `top1` and so on, and `class_mean`, the mean over the classes seen of their top-1 accuracy."""
        samples = self["class_samples"].sum()
        accuracy = self.per_class
        seen = accuracy[~np.isnan(accuracy)]
        tops = {f"top{k}": ratio(hits, samples) for k, hits in zip(self.ks, self["hits"].tolist(), strict=True)}
        return {**tops, "class_mean": ratio(seen.sum(), seen.size)}

    @property
    def per_class(self) -> NDArray[np.float64]:
        """float64 [C], the top-1 accuracy of each class; NaN where it has no sample."""
        samples = self["class_samples"].astype(np.float64)
        accuracy = np.full(self.num_classes, np.nan)
        np.divide(self["class_hits"], samples, out=accuracy, where=samples > 0)
        return accuracy


def subtree_groups(tree: Tree, depth: int = 0) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return (group int32 [N], node int32 [G]): the subtree that each node belongs to, and its top node.

    A node at `depth` or below belongs to its ancestor-or-self at `depth`; one above is a group of its own.
    Raises UsageError when the tree is not that deep.
    """
    if not 0 <= depth <= tree.max_depth:
        raise UsageError(f"The tree has the depths 0..{tree.max_depth}, not {depth}.")
    top = tree.level_target[:, depth]
    top = np.where(top >= 0, top, np.arange(tree.num_nodes)).astype(np.int32)
    nodes, group = np.unique(top, return_inverse=True)
    return group.astype(np.int32), nodes


class SubtreeConfusion(Sums):
    """How often samples of one subtree are answered in another.

    nodes: int32 [G], the top nodes of the subtrees. `matrix`: [G, G], rows true, columns predicted.
    """

    def __init__(self, tree: Tree, depth: int = 0) -> None:
        self.tree = tree
        self.group, self.nodes = subtree_groups(tree, depth)
        super().__init__(matrix=np.zeros((self.nodes.size, self.nodes.size), np.int64))

    @property
    def matrix(self) -> NDArray[Any]:
        """int64 [G, G], rows true, columns predicted; float64 where samples had weights."""
        return self["matrix"]

    def update(
        self,
        predicted: NDArray[np.integer],
        labels: NDArray[np.integer],
        weights: NDArray[np.floating] | None = None,
    ) -> None:
        """Add a batch of predicted nodes and labels, both int [B], and weights [B]."""
        nodes = check_labels(predicted, len(np.atleast_1d(labels)), self.tree.num_nodes)
        labels = check_labels(labels, len(nodes), self.tree.num_nodes)
        size = self.nodes.size
        cells = self.group[labels].astype(np.int64) * size + self.group[nodes]
        counts = check_weights(weights, len(labels))
        self.add("matrix", np.bincount(cells, counts, minlength=size * size).reshape(size, size))

    def compute(self) -> dict[str, float]:
        """Return `subtree_accuracy`, the share of samples answered within their own subtree."""
        return {"subtree_accuracy": ratio(np.trace(self.matrix), self.matrix.sum())}
