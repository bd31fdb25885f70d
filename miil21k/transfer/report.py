"""What a transfer came to, as plain values: accuracy with its band, per class, what is confused, what is in doubt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.find.audit import Doubt, tree_distance
from miil21k.metrics.shares import wilson_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from miil21k.hierarchy.spaces import LabelSpace

__all__ = ["Judged", "confusions", "doubts", "per_class", "summary", "tree_order"]

MOST_CONFUSIONS = 20


class Judged(NamedTuple):
    """Images that were judged by: names, labels int [n] and logits float32 [n, C] of the model that never saw them."""

    names: Sequence[str]
    labels: NDArray[np.integer]
    logits: NDArray[np.float32]

    @property
    def answers(self) -> NDArray[np.int64]:
        """The likeliest class of each image."""
        found: NDArray[np.int64] = self.logits.argmax(1)
        return found


def summary(judged: Judged, space: LabelSpace) -> dict[str, Any]:
    """Return accuracy, its 95 % Wilson band, the mean of the classes', and how far off wrong answers are."""
    hits = judged.answers == judged.labels
    low, high = wilson_interval(hits.mean(), hits.size)
    wrong = ~hits
    far = tree_distance(space.tree, judged.labels[wrong], judged.answers[wrong])
    means = [hits[judged.labels == label].mean() for label in np.unique(judged.labels)]
    return {
        "accuracy": float(hits.mean()),
        "accuracy_low": float(low),
        "accuracy_high": min(1.0, float(high)),
        "accuracy_of_classes": float(np.mean(means)),
        "num_test": int(hits.size),
        "edges_off_when_wrong": float(far.mean()) if far.size else 0.0,
    }


def per_class(judged: Judged, space: LabelSpace, learnt_from: NDArray[np.integer]) -> list[dict[str, Any]]:
    """Return a row per class in the order of the tree: images, how many are found, and how many answers are right."""
    hits = judged.answers == judged.labels
    counts = np.bincount(learnt_from, minlength=space.num_classes)
    rows = []
    for label in tree_order(space):
        own, said = judged.labels == label, judged.answers == label
        rows.append(
            {
                "wnid": space.wnids[label],
                "name": space.display_name(label),
                "train": int(counts[label]),
                "test": int(own.sum()),
                "right": int(hits[own].sum()),
                "recall": float(hits[own].mean()) if own.any() else None,
                "precision": float(hits[said].mean()) if said.any() else None,
            }
        )
    return rows


def confusions(judged: Judged, space: LabelSpace) -> list[dict[str, Any]]:
    """Return which class was taken for which, the most frequent first, with the edges of the tree between them."""
    wrong = judged.answers != judged.labels
    pairs, counts = np.unique(np.stack([judged.labels[wrong], judged.answers[wrong]], 1), axis=0, return_counts=True)
    far = tree_distance(space.tree, pairs[:, 0], pairs[:, 1]) if len(pairs) else np.empty(0, np.int64)
    order = np.lexsort((-far, -counts))[:MOST_CONFUSIONS]
    return [
        {
            "label": space.display_name(int(pairs[at, 0])),
            "answer": space.display_name(int(pairs[at, 1])),
            "images": int(counts[at]),
            "edges": int(far[at]),
        }
        for at in order
    ]


def doubts(found: Sequence[Doubt], names: Sequence[str], space: LabelSpace) -> list[dict[str, Any]]:
    """Return a row per image in doubt, by name."""
    return [
        {
            "image": names[doubt.row],
            "label": space.display_name(doubt.label),
            "looks_like": space.display_name(doubt.suggested),
            "kind": "likely mislabelled" if doubt.mislabelled else "doubtful",
            "quality": doubt.quality,
            "probability": doubt.probability,
            "edges": doubt.distance,
        }
        for doubt in found
    ]


def tree_order(space: LabelSpace) -> list[int]:
    """Return the classes so that what is near in the tree is near in the list."""
    chains = [[*reversed(_upwards(space, label))] for label in range(space.num_classes)]
    words = [[space.tree.names[node] for node in chain] for chain in chains]
    return sorted(range(space.num_classes), key=lambda label: (words[label], label))


def _upwards(space: LabelSpace, label: int) -> list[int]:
    chain = [label]
    while (above := int(space.tree.parent[chain[-1]])) >= 0:
        chain.append(above)
    return chain
