"""Every metric of a validation, fed batch by batch: nothing grows with the number of images."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.labels import Label
from miil21k.hierarchy.spaces import LABEL_SPACES
from miil21k.metrics.accuracy import FlatAccuracy, SemanticAccuracy, SubtreeConfusion
from miil21k.metrics.distance import HierarchicalDistance, NodeAccuracy
from miil21k.metrics.operating import OperatingCurve
from miil21k.metrics.reliability import Reliability
from miil21k.validate.concepts import ConceptAccuracy, right_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from miil21k.decode.decoder import Decoder
    from miil21k.validate.inference import Scored

__all__ = ["Scorecard"]


class Scorecard:
    """The metrics of logits and labels as one decoder reads them.

    Classes are ranked by P(exactly this class). Semantic accuracy of a level_softmax head follows the published
    definition, on logits; for a hierarchy of the user's own it keeps the deepest level. Of other heads, whose logits
    say nothing of a level, it is that of P(node), at every level. Under a restriction of the classes it is left out.
    A label that is no class takes part in what is counted of nodes; `flat` and `distance`, which are of classes, leave
    it out. Where the decoder reads on concepts, the hedged answers are those; all else is of the tree.
    outside: the labels that are no nodes of the tree either, which labels from the number of nodes on mean. weights:
    how much each image counts in every metric, by its index; once each without.
    """

    def __init__(
        self,
        decoder: Decoder,
        outside: Sequence[Label] = (),
        weights: NDArray[np.floating] | None = None,
    ) -> None:
        self.decoder = decoder
        self.outside = tuple(outside)
        self.weights = weights
        space, tree = decoder.space, decoder.space.tree
        self.by_nodes = decoder.head != "level_softmax"
        as_published = space.name in LABEL_SPACES and not self.by_nodes
        semantic = SemanticAccuracy(tree, "published" if as_published else "keep", inner=self.by_nodes)
        self.semantic = semantic if decoder.allowed is None else None
        self.flat = FlatAccuracy(tree.num_classes, tuple(k for k in (1, 5) if k <= tree.num_classes))
        self.distance = HierarchicalDistance(tree)
        self.top_node = NodeAccuracy(tree)
        self.hedged_node = NodeAccuracy(tree)
        self.hedged_concept = ConceptAccuracy()
        self._right: dict[int, NDArray[np.bool_]] = {}  # label -> the concepts that are right
        self.subtrees = SubtreeConfusion(tree)
        self.operating = OperatingCurve(tree)
        self.reliability = Reliability()
        self.depth_sum, self.counted = 0.0, 0.0  # of hedged answers, and how much the images count
        self.labels = np.zeros(tree.num_nodes + len(self.outside), np.int64)

    def update(self, batch: Scored) -> None:
        """Add a batch; raises LogitsError when logits are not finite."""
        tree = self.decoder.space.tree
        labels, right = self._truth(batch.labels)
        found = self._on_tree.read(batch.logits)
        nodes, classes = found.probabilities
        weights = None if self.weights is None else self.weights[batch.indices]
        if self.semantic is not None:
            self.semantic.update(found.nodes if self.by_nodes else found.logits, labels, weights)
        top = classes.argmax(1)
        exact = batch.labels < tree.num_classes
        of_exact = None if weights is None else weights[exact]
        self.flat.update(classes[exact], labels[exact], of_exact)
        self.distance.update(classes[exact], labels[exact], of_exact)
        self.top_node.update(top, labels, right, weights)
        self.subtrees.update(top, labels, weights)
        if self.decoder.reading == "concepts":
            self._update_concepts(batch, weights)
        else:
            self.hedged_node.update(found.hedged.node, labels, right, weights)
            self._add_lengths(found.length, weights)
        self.operating.update(nodes, labels, right, weights)
        self.reliability.update_nodes(tree, nodes, found.path.nodes, labels, right, weights)
        self.labels += np.bincount(batch.labels, minlength=self.labels.size)

    @cached_property
    def _on_tree(self) -> Decoder:
        """What the metrics of the tree are measured with; levels of concepts are none of the tree."""
        fixed = self.decoder
        return fixed if fixed.reading == "published" else replace(fixed, reading="published", hedge=None)

    def _add_lengths(self, lengths: NDArray[np.integer], weights: NDArray[np.floating] | None) -> None:
        counts = np.ones(len(lengths)) if weights is None else weights
        self.depth_sum += float((lengths * counts).sum())
        self.counted += float(counts.sum())

    def _update_concepts(self, batch: Scored, weights: NDArray[np.floating] | None) -> None:
        fixed = self.decoder
        found, graph = fixed.read(batch.logits), concepts_of(fixed.space)
        answers = found.hedged.node
        right = np.zeros(len(answers), bool)
        for row, label in enumerate(batch.labels.tolist()):
            if label not in self._right:
                beyond = label - fixed.space.tree.num_nodes
                wnid = graph.wnids[label] if beyond < 0 else self.outside[beyond].wnid
                self._right[label] = right_for(graph, wnid)
            right[row] = self._right[label][answers[row]]
        self.hedged_concept.update(answers >= 0, right, fixed.answer_vocabulary.bits[answers], weights)
        self._add_lengths(found.length, weights)

    def _truth(self, labels: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.bool_] | None]:
        """Return int32 [B], the node of each label, and bool [B, N], what is right, where the tree does not say it."""
        tree = self.decoder.space.tree
        beyond = labels - tree.num_nodes
        if (beyond < 0).all():
            return labels, None
        nodes = labels.copy()
        right = np.zeros((len(labels), tree.num_nodes), bool)
        for row, place in enumerate(beyond.tolist()):
            if place < 0:
                chain = tree.level_target[labels[row]]
                right[row, tree.descendants(int(labels[row]))] = True
                right[row, chain[chain >= 0]] = True
            else:
                nodes[row] = self.outside[place].node
                right[row, self.outside[place].right] = True
        return nodes, right

    @property
    def samples(self) -> int:
        """Images counted."""
        return int(self.labels.sum())

    @property
    def headline(self) -> str:
        """Top-1 accuracy among the classes, in words."""
        return f"top-1 {self.flat.compute()['top1']:.4f}"

    @property
    def class_images(self) -> NDArray[np.int64]:
        """int64 [C], how many images of each class were counted."""
        return self.labels[: self.decoder.space.num_classes]

    def counts(self) -> dict[str, Any]:
        """Return what a report says of the images."""
        return {
            "scored": self.samples,
            "scored_of_classes": int(self.class_images.sum()),
            "labels_that_are_no_classes": self.other_labels(),
            "classes_with_images": int((self.class_images > 0).sum()),
        }

    def other_labels(self) -> list[dict[str, Any]]:
        """Return one row per label that is no class: its wnid and name, the node that it is or lies below, images."""
        tree = self.decoder.space.tree
        own = [Label(tree.wnids[node], tree.names[node], node) for node in range(tree.num_classes, tree.num_nodes)]
        counts = self.labels[tree.num_classes :].tolist()
        return [
            {"wnid": label.wnid, "name": label.name, "node": tree.wnids[label.node], "images": count}
            for label, count in zip([*own, *self.outside], counts, strict=True)
            if count
        ]

    def metrics(self) -> dict[str, Any]:
        """Return all metrics by group, fractions and means as floats; NaN where nothing was counted."""
        return {
            **({"semantic": self.semantic.compute()} if self.semantic is not None else {}),
            "flat": self.flat.compute(),
            "distance": self.distance.compute(),
            "top_class": self.top_node.compute(),
            "hedged": {
                "target": self.decoder.hedge,
                "level": self.decoder.level,
                "mean_length": self.depth_sum / self.counted if self.counted else 0.0,
                **(self.hedged_concept if self.decoder.reading == "concepts" else self.hedged_node).compute(),
            },
            "subtree": self.subtrees.compute(),
            "operating_curve": self.operating.compute(),
            "reliability": self.reliability.compute(),
        }

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the tables of a report, by the names of their files."""
        return {"classes.csv": self.class_rows(), "subtrees.csv": self.subtree_rows()}

    def class_rows(self) -> list[dict[str, Any]]:
        """Return one row per class of the space: wnid, name, depth, images, top1 (None without images)."""
        tree = self.decoder.space.tree
        counts = self.class_images
        return [
            {
                "wnid": wnid,
                "name": tree.names[index],
                "depth": int(tree.depth[index]),
                "images": int(counts[index]),
                "top1": None if np.isnan(accuracy) else float(accuracy),
            }
            for index, (wnid, accuracy) in enumerate(
                zip(tree.wnids[: tree.num_classes], self.flat.per_class, strict=True)
            )
        ]

    def subtree_rows(self) -> list[dict[str, Any]]:
        """Return one row per pair of subtrees that occurs: true and predicted top node, images (or their weight)."""
        tree, matrix = self.decoder.space.tree, self.subtrees.matrix
        keys = [(tree.wnids[node], tree.names[node]) for node in self.subtrees.nodes]
        return [
            {
                "true_wnid": keys[true][0],
                "true_name": keys[true][1],
                "predicted_wnid": keys[predicted][0],
                "predicted_name": keys[predicted][1],
                "images": matrix[true, predicted].item(),
            }
            for true, predicted in np.argwhere(matrix).tolist()
        ]
