"""Lists as a data source: a CSV, TSV or Parquet file with a row per image.

    path,label,weight,split
    cats/1.jpg,tabby,1,train
    /elsewhere/2.jpg,n02123159,0.5,val

The header decides (`ROLES`): one column names the image, `label` its class or `labels` its classes, `weight` how much
it counts, `split` which part of the data set it is of. Other columns are ignored, two of one role are refused. An image
may be a member of a shard, `SHARD.tar/MEMBER`, or a page or frame of a file, as rows of `predict` name it. A column
`rank` says that rows are the best of each class, as `miil21k select` writes them: an image may then stand under
several.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.data.images import load_image
from miil21k.data.names import Names, label_order
from miil21k.data.opening import read_file
from miil21k.data.parts import file_of, split_part
from miil21k.data.shard_members import ShardMembers
from miil21k.data.tables import LIST_SUFFIXES, nth_row, read_table
from miil21k.errors import UsageError
from miil21k.records import StrictJsonError, parse
from miil21k.suffixes import PassedOver
from miil21k.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from miil21k.data.tables import ListTable

__all__ = ["LabelSets", "ListSource", "Listing", "few", "is_list", "read_list", "split_name"]

# What a column is for, and how the field calls it.
ROLES = {
    "path": ("path", "image", "filename", "file", "input", "filepath", "file_path", "file_name", "image_path"),
    "label": ("label", "class", "wnid", "class_name", "synset"),
    "labels": ("labels", "classes", "tags", "wnids"),
    "weight": ("weight", "sample_weight"),
    "split": ("split", "partition", "subset"),
    "rank": ("rank",),
}
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def is_list(name: str | Path) -> bool:
    """Return whether a name ends as lists do."""
    return Path(name).suffix.lower() in LIST_SUFFIXES


def split_name(word: str) -> str:
    """Return what a part of a data set is called: `train`, `val` and `test` by any of their usual names."""
    word = word.strip()
    return _SPLITS.get(word.lower(), word)


class LabelSets(NamedTuple):
    """Any number of labels per image: `flat` int32 [M], and `ends` int64 [N], where those of each image end."""

    flat: NDArray[np.int32]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, sets: Iterable[Sequence[int]]) -> LabelSets:
        """Return the labels of `sets`, one entry per image."""
        found = list(sets)
        flat = np.fromiter((label for labels in found for label in labels), np.int32)
        return cls(flat, np.cumsum([len(labels) for labels in found], dtype=np.int64))

    def __getitem__(self, index: Any) -> Any:
        """Return int32, the labels of image `index`."""
        return self.flat[self.ends[index - 1] if index else 0 : self.ends[index]]

    def taken(self, rows: NDArray[np.integer]) -> LabelSets:
        """Return the labels of the images `rows`, in that order."""
        return LabelSets.of([self[row].tolist() for row in rows.tolist()])

    def multi_hot(self, rows: Sequence[int], num_classes: int) -> NDArray[np.float32]:
        """Return float32 [B, C] for the images `rows`, 1 where an image has the class; further labels are left out."""
        target = np.zeros((len(rows), num_classes), np.float32)
        for place, row in enumerate(rows):
            labels = self[row]
            target[place, labels[labels < num_classes]] = 1
        return target


@dataclass(frozen=True)
class Listing:
    """What a list says, row by row.

    origin: the list's name, for messages. paths: as they are written. labels: a word per row, or a tuple of words
    (`several`). weights: float32 [N], or None. splits: a name per row, or None. where: what a message calls a row.
    ranked: rows are the best images of each label, of which one may have several, a row each.
    """

    origin: str
    paths: Sequence[str]
    labels: Sequence[Any]
    several: bool = False
    weights: NDArray[np.float32] | None = None
    splits: Sequence[str] | None = None
    where: Callable[[int], str] = nth_row
    ranked: bool = False

    def counts(self) -> dict[str, int]:
        """Return how many images each split has, in order of appearance; empty without splits."""
        return dict(Counter(self.splits)) if self.splits is not None else {}

    def part(self, split: str) -> Listing:
        """Return the rows of one split."""
        assert self.splits is not None
        rows = [row for row, name in enumerate(self.splits) if name == split]
        return Listing(
            self.origin,
            [self.paths[row] for row in rows],
            [self.labels[row] for row in rows],
            self.several,
            None if self.weights is None else self.weights[rows],
            None,
            lambda row: self.where(rows[row]),
            self.ranked,
        )


def read_list(path: Path) -> Listing:
    """Return what the list at `path` says; raises UsageError for what is missing, ambiguous or no value in it."""
    table = read_table(path)
    origin = f"The list '{printable(path)}'"
    roles = _roles(origin, table)
    paths = table.texts(roles["path"])
    if not paths:
        raise UsageError(f"{origin} holds no images.")
    _refuse(origin, table, paths, lambda name: not name.strip(), "have no path")
    labels: Any
    if "labels" in roles:
        labels = _sets(origin, table, roles["labels"])
    else:
        labels = [label.strip() for label in table.texts(roles["label"])]
        _refuse(origin, table, labels, lambda label: not label, "have no label")
    weights = _weights(origin, table, roles["weight"]) if "weight" in roles else None
    splits = [split_name(name) for name in table.texts(roles["split"])] if "split" in roles else None
    if splits is not None:
        _refuse(origin, table, splits, lambda name: not name, "have no split")
    return Listing(origin, paths, labels, "labels" in roles, weights, splits, table.where, "rank" in roles)


def _roles(origin: str, table: ListTable) -> dict[str, str]:
    """Return which column is for what."""
    found: dict[str, str] = {}
    for role, names in ROLES.items():
        columns = [column for column in table.columns if column.strip().lower() in names]
        if len(columns) > 1:
            raise UsageError(f"{origin} has {len(columns)} columns for the {role}, {_quoted(columns)}: keep one.")
        if columns:
            found[role] = columns[0]
    if "label" in found and "labels" in found:
        raise UsageError(
            f"{origin} has both '{found['label']}' and '{found['labels']}': keep one, a class or classes per image."
        )
    for role, wanted in (("path", "path"), ("label", "labels")):
        if role not in found and wanted not in found:
            raise UsageError(
                f"{origin} has no column of {role}s: its first line must name one of {', '.join(ROLES[role])}; found "
                f"{_quoted(table.columns)}."
            )
    return found


def _sets(origin: str, table: ListTable, column: str) -> list[tuple[str, ...]]:
    """Return the labels of each row, from lists or from text that is separated by `;` or `|`, or a JSON list."""
    values = table.values(column)
    texts = [value for value in values if isinstance(value, str) and not value.lstrip().startswith("[")]
    marks = [mark for mark in ";|" if any(mark in text for text in texts)]
    if len(marks) > 1:
        raise UsageError(f"{origin} separates '{column}' by both ';' and '|': keep one.")
    found = []
    for row, value in enumerate(values):
        try:
            words = _words(value, marks[0] if marks else ";")
        except StrictJsonError as error:
            raise UsageError(f"{origin}, {table.where(row)}: '{column}' is no list of labels: {error.found}.") from None
        found.append(tuple(dict.fromkeys(word for word in words if word)))
    return found


def _words(value: Any, mark: str) -> list[str]:
    if isinstance(value, str):
        if not value.lstrip().startswith("["):
            return [word.strip() for word in value.split(mark)]
        value = parse(value)
    words = [] if value is None else value
    if not all(isinstance(word, str) or type(word) is int for word in words):
        raise StrictJsonError("expected texts or whole numbers")
    return [str(word).strip() for word in words]


def _weights(origin: str, table: ListTable, column: str) -> NDArray[np.float32]:
    def number(value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError):
            return np.nan

    weights = np.array([number(value) for value in table.values(column)], np.float32)
    _refuse(origin, table, weights.tolist(), lambda w: not 0 <= w < np.inf, "have a weight that is no number from 0 on")
    if not weights.any():
        raise UsageError(f"{origin} gives every image the weight 0.")
    return weights


def _refuse(origin: str, table: ListTable, values: Sequence[Any], bad: Callable[[Any], bool], what: str) -> None:
    rows = [row for row, value in enumerate(values) if bad(value)]
    if rows:
        where = ", ".join(table.where(row) for row in rows[:3])
        raise UsageError(f"{origin}: {len(rows):,} rows {what}: {where}{', ...' if len(rows) > 3 else ''}.")


def _quoted(names: Iterable[str]) -> str:
    names = list(names)
    return " and ".join(f"'{printable(name)}'" for name in names) if len(names) == 2 else few(names, most=9)


def few(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, separated by commas, with an ellipsis for the others."""
    return ", ".join(printable(name) for name in names[:most]) + (", ..." if len(names) > most else "")


class ListSource:
    """The images of a list, in its order.

    root: the folder that paths start from. keys: the labels found, whole numbers by value, others bytewise. key_of:
    int32 [N], the place of each image's label in `keys`. label_sets: the places of its labels, where each image has any
    number of them; `key_of` then raises UsageError. weights: float32 [N], how much each counts, or None.
    Raises UsageError for images that are missing, URLs, and an image that has one label here and another there.
    """

    def __init__(self, listing: Listing, root: Path) -> None:
        self.root, self.origin = root, listing.origin
        self.passed = PassedOver()
        self.called = "labels"
        if not listing.paths:
            raise UsageError(f"{listing.origin} holds no images.")
        self._names = Names(map(os.fsencode, listing.paths))
        self._members = ShardMembers(listing.paths, root)
        self._check(listing)
        self.weights = listing.weights
        rows = listing.labels
        words = {word for row in rows for word in row} if listing.several else set(rows)
        self.keys: tuple[str, ...] = tuple(sorted(words, key=label_order))
        place = {key: index for index, key in enumerate(self.keys)}
        self.label_sets: LabelSets | None = None
        self._key_of: NDArray[np.int32] | None = None
        if listing.several:
            self.label_sets = LabelSets.of([[place[word] for word in row] for row in listing.labels])
        else:
            self._key_of = np.array([place[row] for row in listing.labels], np.int32)

    @property
    def key_of(self) -> NDArray[np.int32]:
        """int32 [N], the place of each image's label in `keys`; raises UsageError where an image has several."""
        if self._key_of is None:
            raise UsageError(f"{self.origin} gives several labels to an image, and one is needed here.")
        return self._key_of

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the path of image `index` as the list has it."""
        return self._names[index]

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`, of a page or a frame (`clip.mp4#t=12.5`) those of a PNG of it.

        Raises ImageError when it is no regular file, or cannot be read.
        """
        if index in self._members:
            return self._members.read(index)
        name = self.name(index)
        path, part = split_part(str(self.root / name))
        if part is None:
            return read_file(path, name)
        written = io.BytesIO()
        load_image(part.of(path), name=name).save(written, "PNG")
        return written.getvalue()

    def _check(self, listing: Listing) -> None:
        there = (row in self._members or self._is_there(name) for row, name in enumerate(listing.paths))
        missing = [name for name, found in zip(listing.paths, there, strict=True) if not found]
        if missing:
            if any("://" in name for name in missing):
                raise UsageError(f"{self.origin} names URLs, such as {few(missing, 1)}: fetch the images first.")
            raise UsageError(
                f"{len(missing):,} of {len(listing.paths):,} images of {self.origin[4:]} are not below '{self.root}': "
                f"{few(missing)}. --root names the folder that its paths start from."
            )
        if listing.several or listing.ranked:
            return
        first: dict[str, int] = {}
        twice = []
        for row, name in enumerate(listing.paths):
            before = first.setdefault(name, row)
            if listing.labels[before] != listing.labels[row]:
                twice.append((before, row))
        if twice:
            shown = [
                f"{listing.paths[b]} ({listing.labels[a]}, {listing.where(a)}; {listing.labels[b]}, {listing.where(b)})"
                for a, b in twice
            ]
            raise UsageError(
                f"{self.origin} gives {len(twice):,} images two labels: {few(shown)}. Name a column 'labels' where an "
                "image has several."
            )

    def _is_there(self, name: str) -> bool:
        try:
            return Path(file_of(str(self.root / name))).exists()
        except (OSError, ValueError):  # too long, a NUL
            return False
