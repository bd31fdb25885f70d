"""Every metric of a validation, fed batch by batch: nothing grows with the number of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.hierarchy.spaces import LABEL_SPACES
from miil21k.metrics.accuracy import FlatAccuracy, SemanticAccuracy, SubtreeConfusion
from miil21k.metrics.distance import HierarchicalDistance, NodeAccuracy
from miil21k.metrics.operating import OperatingCurve
from miil21k.metrics.reliability import Reliability

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.decode.decoder import Decoder
    from miil21k.validate.inference import Scored

__all__ = ["Scorecard"]


class Scorecard:
    """The metrics of logits and labels as one decoder reads them.

    Classes are ranked by P(exactly this class). Semantic accuracy of a level_softmax head follows the published
    definition, on logits; for a hierarchy of the user's own it keeps the deepest level. Of other heads, whose logits
    say nothing of a level, it is that of P(node), at every level. Under a restriction of the classes it is left out.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        space, tree = decoder.space, decoder.space.tree
        self.by_nodes = decoder.head != "level_softmax"
        as_published = space.name in LABEL_SPACES and not self.by_nodes
        semantic = SemanticAccuracy(tree, "published" if as_published else "keep", inner=self.by_nodes)
        self.semantic = semantic if decoder.allowed is None else None
        self.flat = FlatAccuracy(tree.num_classes, tuple(k for k in (1, 5) if k <= tree.num_classes))
        self.distance = HierarchicalDistance(tree)
        self.top_node = NodeAccuracy(tree)
        self.hedged_node = NodeAccuracy(tree)
        self.subtrees = SubtreeConfusion(tree)
        self.operating = OperatingCurve(tree)
        self.reliability = Reliability()
        self.depth_sum = np.zeros(1, np.int64)

    def update(self, batch: Scored) -> None:
        """Add a batch; raises LogitsError when logits are not finite."""
        tree, labels = self.decoder.space.tree, batch.labels
        found = self.decoder.read(batch.logits)
        nodes, classes = found.probabilities
        if self.semantic is not None:
            self.semantic.update(found.nodes if self.by_nodes else found.logits, labels)
        top = classes.argmax(1)
        self.flat.update(classes, labels)
        self.distance.update(classes, labels)
        self.top_node.update(top, labels)
        self.subtrees.update(top, labels)
        self.hedged_node.update(found.hedged.node, labels)
        self.depth_sum += found.length.sum()
        self.operating.update(nodes, labels)
        self.reliability.update_nodes(tree, nodes, found.path.nodes, labels)

    @property
    def samples(self) -> int:
        """Images counted."""
        return int(self.flat["class_samples"].sum())

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
                "mean_length": float(self.depth_sum[0]) / max(self.samples, 1),
                **self.hedged_node.compute(),
            },
            "subtree": self.subtrees.compute(),
            "operating_curve": self.operating.compute(),
            "reliability": self.reliability.compute(),
        }

    def class_rows(self) -> list[dict[str, Any]]:
        """Return one row per class of the space: wnid, name, depth, images, top1 (None without images)."""
        tree = self.decoder.space.tree
        counts: NDArray[np.int64] = self.flat["class_samples"]
        return [
            {
                "wnid": wnid,
                "name": tree.names[index],
                "depth": int(tree.depth[index]),
                "images": int(counts[index]),
                "top1": float(accuracy) if counts[index] else None,
            }
            for index, (wnid, accuracy) in enumerate(
                zip(tree.wnids[: tree.num_classes], self.flat.per_class, strict=True)
            )
        ]

    def subtree_rows(self) -> list[dict[str, Any]]:
        """Return one row per pair of subtrees that occurs: true and predicted top node, and the number of images."""
        tree, matrix = self.decoder.space.tree, self.subtrees.matrix
        keys = [(tree.wnids[node], tree.names[node]) for node in self.subtrees.nodes]
        return [
            {
                "true_wnid": keys[true][0],
                "true_name": keys[true][1],
                "predicted_wnid": keys[predicted][0],
                "predicted_name": keys[predicted][1],
                "images": int(matrix[true, predicted]),
            }
            for true, predicted in np.argwhere(matrix).tolist()
        ]
