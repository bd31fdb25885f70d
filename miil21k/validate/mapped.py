"""Images labelled with other words than the classes of a model, of which a file says which class means which label.

    class,label
    n04037443,car
    n04285008,car
    n02123159,cat

Many classes may mean one label, as in ObjectNet (Barbu et al. 2019); the others mean none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.data.datasets import LabelledImages
from miil21k.data.lists import few
from miil21k.data.tables import read_table
from miil21k.errors import LabelSpaceMismatch, UsageError
from miil21k.hierarchy.labels import find_label
from miil21k.metrics.sums import ratio, total
from miil21k.validate.views import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.data.datasets import ClassImages
    from miil21k.decode.decoder import Decoder
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.validate.inference import Scored

__all__ = ["ClassMap", "MappedCard", "read_class_map", "view_of_map"]

COLUMNS = {"class": ("class", "wnid", "model_class"), "label": ("label", "dataset_class", "folder")}


class ClassMap(NamedTuple):
    """labels: words of a data set. label_of: int32 [C], the place in `labels` of what each class means, -1 for none."""

    labels: tuple[str, ...]
    label_of: NDArray[np.int32]


def read_class_map(path: str, space: LabelSpace) -> ClassMap:
    """Return the map in a CSV, TSV or Parquet file, its classes named by wnid, name or number in `space`.

    Raises UsageError for other columns, a word that is no class, and a class that means two labels.
    """
    table = read_table(Path(path))
    column = {}
    for role, names in COLUMNS.items():
        found = [title for title in table.columns if title.strip().lower() in names]
        if len(found) != 1:
            raise UsageError(f"'{path}' must have one column for the {role}, called {' or '.join(names)}.")
        column[role] = found[0]
    words, labels = table.texts(column["class"]), table.texts(column["label"])
    places = {label: at for at, label in enumerate(dict.fromkeys(label.strip() for label in labels))}
    label_of = np.full(space.num_classes, -1, np.int32)
    for row, (word, label) in enumerate(zip(words, labels, strict=True)):
        at = _class_of(space, word.strip())
        if at is None or not label.strip():
            raise UsageError(f"'{path}', {table.where(row)}: '{word}' is no class of '{space.name}', or has no label.")
        if label_of[at] not in (-1, places[label.strip()]):
            raise UsageError(f"'{path}', {table.where(row)}: the class '{word}' means two labels.")
        label_of[at] = places[label.strip()]
    return ClassMap(tuple(places), label_of)


def _class_of(space: LabelSpace, word: str) -> int | None:
    known = space.tree.index_of.get(word)
    if known is None and word.isascii() and word.isdecimal():
        known = int(word)
    if known is None and (label := find_label(space, word)) is not None and label.right is None:
        known = label.node
    return known if known is not None and known < space.num_classes else None


def view_of_map(source: ClassImages, space: LabelSpace, found: ClassMap, *, present: bool) -> View:
    """Return the images whose labels some class means; present: no class may be the answer that means another label."""
    place = {label: at for at, label in enumerate(found.labels)}
    keys = [key if key in place else key.rpartition("/")[2] for key in source.keys]
    label_of = np.array([place.get(key, -1) for key in keys], np.int32)
    labels = label_of[source.key_of]
    rows = np.flatnonzero(labels >= 0)
    if not rows.size:
        raise LabelSpaceMismatch(f"No class means any of the {source.called}: {few(source.keys)}.")
    weights = None if source.weights is None else source.weights[rows]
    images = LabelledImages(source, space, rows, labels[rows], np.empty(0, np.int32), weights=weights)
    left = [key for key, at in zip(source.keys, label_of.tolist(), strict=True) if at < 0]
    notes = (f"{len(left)} {source.called} are meant by no class and were left out: {few(left)}.",) if left else ()
    allowed = np.isin(found.label_of, np.unique(images.labels)) if present else None
    return View("mapped", images, allowed, notes)


class MappedCard:
    """How often the best class means the label of the image, and one of the five best does; as `Scorecard`.

    `unmapped`: how often the best class means no label.
    """

    def __init__(self, decoder: Decoder, found: ClassMap, weights: NDArray[np.floating] | None = None) -> None:
        self.decoder, self.map, self.weights = decoder, found, weights
        self.images = np.zeros(len(found.labels), np.int64)
        self.counted, self.right = (np.zeros(len(found.labels)) for _ in range(2))
        self.right_of_five, self.unmapped = 0.0, 0.0

    def update(self, batch: Scored) -> None:
        """Add a batch; raises LogitsError when logits are not finite."""
        classes = self.decoder.read(batch.logits).classes
        best = np.argsort(-classes, axis=1, kind="stable")[:, :5]
        said = np.where(np.take_along_axis(classes, best, axis=1) > 0, self.map.label_of[best], -1)
        labels = batch.labels
        weights = np.ones(len(labels)) if self.weights is None else self.weights[batch.indices]
        size = len(self.map.labels)
        self.images += np.bincount(labels, minlength=size)
        self.counted += np.bincount(labels, weights, minlength=size)
        self.right += np.bincount(labels, weights * (said[:, 0] == labels), minlength=size)
        self.right_of_five += float(total((said == labels[:, None]).any(axis=1), weights))
        self.unmapped += float(total(said[:, 0] < 0, weights))

    @property
    def samples(self) -> int:
        """Images counted."""
        return int(self.images.sum())

    @property
    def headline(self) -> str:
        """The share of right answers, in words."""
        return f"top-1 {ratio(self.right.sum(), self.counted.sum()):.4f}"

    def counts(self) -> dict[str, Any]:
        """Return what a report says of the images."""
        return {"scored": self.samples, "labels_with_images": int((self.images > 0).sum())}

    def metrics(self) -> dict[str, Any]:
        """Return all metrics by group."""
        whole = float(self.counted.sum())
        seen = self.counted > 0
        each = self.right[seen] / self.counted[seen]
        return {
            "mapped": {
                "top1": ratio(self.right.sum(), whole),
                "top5": ratio(self.right_of_five, whole),
                "label_mean": ratio(float(each.sum()), each.size),
                "unmapped": ratio(self.unmapped, whole),
            }
        }

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the tables of a report by the names of their files: each label with its images and top-1."""
        rows = zip(self.map.labels, self.images.tolist(), self.right.tolist(), self.counted.tolist(), strict=True)
        return {
            "labels.csv": [
                {"label": label, "images": images, "top1": right / counted if counted else None}
                for label, images, right, counted in rows
            ]
        }
