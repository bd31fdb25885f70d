"""The metrics of images that have any number of labels: how well each label ranks them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miil21k.metrics.average_precision import AveragePrecision

if TYPE_CHECKING:
    from miil21k.data.datasets import LabelledImages
    from miil21k.decode.decoder import Decoder
    from miil21k.validate.inference import Scored

__all__ = ["LabelSetCard"]


class LabelSetCard:
    """Average precision of the labels that the list names, as one decoder reads the logits.

    An image has a label that it is given, or that lies above one in the tree. Classes of a sigmoid head are ranked by
    their logits, which tie nowhere; all else by P(node). images: what is scored, with its label sets and weights.
    """

    def __init__(self, decoder: Decoder, images: LabelledImages) -> None:
        assert images.sets is not None
        assert images.named is not None
        self.decoder, self.images = decoder, images
        self.named = images.named
        self.by_logit = decoder.head == "sigmoid" and bool((self.named < decoder.space.num_classes).all())
        self.precision = AveragePrecision(self.named.size)
        self.samples = 0

    def update(self, batch: Scored) -> None:
        """Add a batch; raises LogitsError when logits are not finite."""
        images = self.images
        assert images.sets is not None
        found = self.decoder.read(batch.logits)
        scores = (found.logits if self.by_logit else found.nodes)[:, self.named]
        targets = images.sets.multi_hot(batch.indices.tolist(), self.decoder.space.tree.num_nodes)[:, self.named] > 0
        weights = None if images.weights is None else images.weights[batch.indices]
        self.precision.update(scores, targets, weights)
        self.samples += len(batch.indices)

    @property
    def headline(self) -> str:
        """The mean average precision, in words."""
        return f"mAP {self.precision.compute()['mAP']:.4f}"

    def counts(self) -> dict[str, Any]:
        """Return what a report says of the images."""
        positives = self.precision.positives
        return {
            "scored": self.samples,
            "labels": self.named.size,
            "labels_with_images": int((positives > 0).sum()),
            "labels_of_images": int(positives.sum()),
        }

    def metrics(self) -> dict[str, Any]:
        """Return the metrics by group."""
        return {"labels": self.precision.compute()}

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the tables of the report by file name: one row per label with images and average precision."""
        tree, precision = self.decoder.space.tree, self.precision
        each = zip(self.named.tolist(), precision.positives.tolist(), precision.per_label.tolist(), strict=True)
        return {
            "labels.csv": [
                {
                    "wnid": tree.wnids[node],
                    "name": tree.names[node],
                    "images": images,
                    "average_precision": value if images else None,
                }
                for node, images, value in each
            ]
        }
