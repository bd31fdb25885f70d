"""Images in folders named by a user's own labels, and what answers with such labels are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.data.datasets import LabelledImages
from miil21k.errors import LabelSpaceMismatch
from miil21k.hierarchy.concepts import concepts_of
from miil21k.metrics.distance import NodeAccuracy
from miil21k.metrics.operating import OperatingCurve
from miil21k.metrics.reliability import Reliability
from miil21k.metrics.sums import ratio, total
from miil21k.validate.views import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.data.datasets import ClassImages
    from miil21k.decode.decoder import Decoder
    from miil21k.hierarchy.bins import Bins
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.validate.inference import Scored

__all__ = ["BinCard", "view_of_bins"]


def view_of_bins(source: ClassImages, space: LabelSpace, bins: Bins) -> View:
    """Return the images of `source` with labels among the bins; answers are those of prediction in `space`.

    A folder is named by a label, or by a noun, wnid or synset name that belongs to one. Raises LabelSpaceMismatch where
    a folder is neither, or images lie beside no folder.
    """
    if "." in source.keys:
        raise LabelSpaceMismatch(
            "Images lie in the folder itself, beside no label: give the folder around it, whose subfolders are labels."
        )
    concepts = concepts_of(space)
    found = [key if key in bins.tree.index_of else key.rpartition("/")[2] for key in source.keys]
    label_of = np.array([bins.find(concepts, name) for name in found], np.int32)
    labels = label_of[source.key_of]
    images = LabelledImages(
        source, space, np.arange(labels.size), labels, np.empty(0, np.int32), weights=source.weights
    )
    if not len(images):
        raise LabelSpaceMismatch("There are no images in these folders.")
    lacking = [label for index, label in enumerate(bins.labels) if index not in set(label_of.tolist())]
    notes = (f"There are no images of {', '.join(map(repr, lacking))}.",) if lacking else ()
    return View("bins", images, None, notes, include_withdrawn=False)


class BinCard:
    """The metrics of answers with the labels of a user, fed batch by batch; as `Scorecard` for those of the tree.

    The answer without a hedge is the label of the largest P(it and none below it), right where the label of the image
    means it (`Bins.meant`); a hedged answer may also be a label above.
    """

    def __init__(self, decoder: Decoder, bins: Bins, weights: NDArray[np.floating] | None = None) -> None:
        self.decoder, self.bins, self.weights = decoder, bins, weights
        self.confusion = np.zeros((len(bins), len(bins)), np.int64 if weights is None else np.float64)
        self.images = np.zeros(len(bins), np.int64)
        self.hedged = NodeAccuracy(bins.tree)
        self.operating = OperatingCurve(bins.tree)
        self.reliability = Reliability()
        self.depth_sum = 0.0

    def update(self, batch: Scored) -> None:
        """Add a batch; raises LogitsError when logits are not finite."""
        tree, labels = self.bins.tree, batch.labels
        found = self.decoder.read(batch.logits)
        weights = None if self.weights is None else self.weights[batch.indices]
        np.add.at(self.confusion, (labels, found.bins_alone.argmax(axis=1)), 1 if weights is None else weights)
        self.images += np.bincount(labels, minlength=len(self.bins))
        path = found.bins_path
        last = np.take_along_axis(path.nodes, np.maximum(path.length - 1, 0)[:, None], axis=1)[:, 0]
        right = self.bins.right[labels]
        self.hedged.update(np.where(path.length > 0, last, -1), labels, right, weights)
        self.depth_sum += float(total(path.length, weights))
        self.operating.update(found.bins, labels, right, weights)
        self.reliability.update_nodes(tree, found.bins, path.nodes, labels, right, weights)

    @property
    def samples(self) -> int:
        """Images counted."""
        return int(self.images.sum())

    @property
    def per_label(self) -> NDArray[np.float64]:
        """float64 [L], the share of the images of each label whose answer is right; NaN where it has none."""
        count = self.confusion.sum(axis=1)
        hits = (self.confusion * self.bins.meant).sum(axis=1)
        accuracy = np.full(len(self.bins), np.nan)
        np.divide(hits, count, out=accuracy, where=count > 0)
        return accuracy

    @property
    def accuracy(self) -> float:
        """The share of all images whose answer is right."""
        return ratio(float((self.confusion * self.bins.meant).sum()), float(self.confusion.sum()))

    @property
    def headline(self) -> str:
        """That share, in words."""
        return f"top-1 {self.accuracy:.4f}"

    def counts(self) -> dict[str, Any]:
        """Return what a report says of the images."""
        return {"scored": self.samples, "labels_with_images": int((self.images > 0).sum())}

    def metrics(self) -> dict[str, Any]:
        """Return all metrics by group, fractions and means as floats; NaN where nothing was counted."""
        seen = self.per_label[~np.isnan(self.per_label)]
        return {
            "bins": {"accuracy": self.accuracy, "label_mean": ratio(float(seen.sum()), seen.size)},
            "hedged": {
                "target": self.decoder.hedge,
                "level": self.decoder.bins_level,
                "mean_length": ratio(self.depth_sum, float(self.confusion.sum())),
                **self.hedged.compute(),
            },
            "operating_curve": self.operating.compute(),
            "reliability": self.reliability.compute(),
        }

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the tables of a report by the names of their files: each label, and how often it is taken for another.

        A label has its parent, images, and accuracy (None without images).
        """
        labels = self.bins.labels
        own = [
            {
                "label": label,
                "parent": labels[parent] if parent >= 0 else None,
                "images": images,
                "accuracy": None if np.isnan(accuracy) else float(accuracy),
            }
            for label, parent, images, accuracy in zip(
                labels, self.bins.tree.parent.tolist(), self.images.tolist(), self.per_label, strict=True
            )
        ]
        pairs = [
            {"true": labels[true], "predicted": labels[said], "images": self.confusion[true, said].item()}
            for true, said in np.argwhere(self.confusion).tolist()
        ]
        return {"labels.csv": own, "confusion.csv": pairs}
