"""Every metric of a validation, fed batch by batch: nothing grows with the number of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.decode.path import hedge
from miil21k.decode.probabilities import DEFAULT_RULE, probabilities
from miil21k.hierarchy.spaces import LABEL_SPACES
from miil21k.metrics.accuracy import FlatAccuracy, SemanticAccuracy, SubtreeConfusion
from miil21k.metrics.distance import HierarchicalDistance, NodeAccuracy
from miil21k.metrics.operating import OperatingCurve
from miil21k.metrics.reliability import Reliability

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.decode.logits import HeadKind
    from miil21k.decode.probabilities import Rule
    from miil21k.validate.inference import Scored
    from miil21k.validate.views import View

__all__ = ["Reading", "Scorecard"]


@dataclass(frozen=True)
class Reading:
    """How logits are read: the kind of head, the temperature (one, or one per depth), the rule, and where to stop.

    target: how sure, or with a calibration how often correct, hedged answers are to be. hedge: the level that P(node)
    must reach for that.
    """

    head: HeadKind
    temperature: float | tuple[float, ...] | None = None
    rule: Rule = DEFAULT_RULE
    target: float = 0.9
    hedge: float = 0.9


class Scorecard:
    """The metrics of one view under one reading.

    Classes are ranked by P(exactly this class). Semantic accuracy follows the published definition, on logits; for a
    hierarchy of the user's own it keeps the deepest level, and under a restriction of the classes it is left out.
    """

    def __init__(self, view: View, reading: Reading) -> None:
        self.view, self.reading = view, reading
        tree = view.space.tree
        deepest = "published" if view.space.name in LABEL_SPACES else "keep"
        self.semantic = SemanticAccuracy(tree, deepest) if view.allowed is None else None  # type: ignore[arg-type]
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
        tree, reading = self.view.space.tree, self.reading
        labels = batch.labels
        if self.semantic is not None:
            self.semantic.update(batch.logits, labels)
        temperature = None if reading.temperature is None else np.asarray(reading.temperature)
        nodes, classes = probabilities(
            tree, batch.logits, reading.head, allowed=self.view.allowed, temperature=temperature, rule=reading.rule
        )
        top = classes.argmax(1)
        self.flat.update(classes, labels)
        self.distance.update(classes, labels)
        self.top_node.update(top, labels)
        self.subtrees.update(top, labels)
        answers = hedge(tree, nodes, reading.hedge)
        self.hedged_node.update(answers.node, labels)
        self.depth_sum += answers.length.sum()
        self.operating.update(nodes, labels)
        self.reliability.update_nodes(tree, nodes, answers.paths.nodes, labels)

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
                "target": self.reading.target,
                "level": self.reading.hedge,
                "mean_length": float(self.depth_sum[0]) / max(self.samples, 1),
                **self.hedged_node.compute(),
            },
            "subtree": self.subtrees.compute(),
            "operating_curve": self.operating.compute(),
            "reliability": self.reliability.compute(),
        }

    def class_rows(self) -> list[dict[str, Any]]:
        """Return one row per class of the space: wnid, name, depth, images, top1 (None without images)."""
        tree = self.view.space.tree
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
        tree, matrix = self.view.space.tree, self.subtrees.matrix
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
