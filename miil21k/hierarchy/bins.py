"""Bins: a user's own labels over the classes of a label space, made of the lines that `hierarchy.bin_lines` reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from miil21k.errors import UnknownClass, UsageError
from miil21k.hierarchy.bin_lines import labels_of
from miil21k.hierarchy.labels import concepts_above
from miil21k.hierarchy.questions import find_meanings, resolve, wordnet_meanings
from miil21k.hierarchy.tree import Tree
from miil21k.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from miil21k.hierarchy.bin_lines import BinLine
    from miil21k.hierarchy.concepts import Concepts
    from miil21k.hierarchy.questions import Question

__all__ = ["Bins", "bins_of"]


@dataclass(frozen=True, eq=False, repr=False)
class Bins:
    """L labels over the C classes of a label space.

    tree: the labels, *other* last; every node is a class of it. owner: int32 [C], the lowest label of each class.
    questions: how each concept was understood, by label.
    """

    tree: Tree
    owner: NDArray[np.int32]
    questions: tuple[tuple[Question, ...], ...]

    def __repr__(self) -> str:
        return f"Bins({', '.join(self.labels)})"

    def __len__(self) -> int:
        return self.tree.num_nodes

    @property
    def labels(self) -> tuple[str, ...]:
        """The L labels, *other* last."""
        return self.tree.wnids

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 of what decides: the labels, their parents, and the classes of each."""
        above = (self.labels[parent] if parent >= 0 else "" for parent in self.tree.parent.tolist())
        lines = [f"{label}\t{up}" for label, up in zip(self.labels, above, strict=True)]
        text = "\n".join([*lines, " ".join(map(str, self.owner.tolist()))])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @cached_property
    def only_holds(self) -> NDArray[np.bool_]:
        """bool [L], the labels without a class of their own, which only hold others; not *other*."""
        found = np.ones(len(self), bool)
        found[[*self.owner.tolist(), -1]] = False
        return found

    @cached_property
    def meant(self) -> NDArray[np.bool_]:
        """bool [L, L], which labels a label of an image means: itself, and those below it where it only holds others.

        Where it has classes of its own, an image of it shows one of these: *animal* beside *bird* is another animal.
        """
        found = np.eye(len(self), dtype=bool)
        for label in np.flatnonzero(self.only_holds).tolist():
            found[label, self.tree.descendants(label)] = True
        return found

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """bool [L, L], which answers are right for a label of an image: what it means, and all that holds it."""
        found = self.meant.copy()
        for label in range(len(self)):
            found[label, list(self.tree.path(label))] = True
        return found

    def find(self, concepts: Concepts, text: str) -> int:
        """Return the label that `text` is, or that a noun, wnid or synset name belongs to; *other* for none of them.

        concepts: those that the bins were made of. Raises UnknownClass for a word that says nothing, or several things,
        and UsageError for a noun that some label lies below, or that belongs to two.
        """
        if text in self.tree.index_of:
            return self.tree.index_of[text]
        above, own = _noun(concepts, text)
        if not above:
            raise UnknownClass(
                f"'{text}' is none of the labels, and no noun of WordNet 3.0.{did_you_mean(text, self.labels)} "
                f"The labels are: {', '.join(self.labels)}."
            )
        found = [
            label
            for label, questions in enumerate(self.questions)
            if any(question.concept in above for question in questions)
        ]
        lowest = max(found, key=lambda label: self.tree.depth[label], default=len(self) - 1)
        inside = set(self.owner[concepts.classes(own)].tolist()) if own is not None else {lowest}
        on_path, below = set(self.tree.path(lowest)), set(self.tree.descendants(lowest).tolist())
        if not set(found) <= on_path or not inside <= (below if found else {lowest}):
            several = sorted({*found, *inside} - (on_path - {lowest}))
            raise UsageError(
                f"'{text}' belongs to several labels ({', '.join(self.labels[label] for label in several)}): name what "
                "is shown by one of them."
            )
        return lowest


def _noun(concepts: Concepts, text: str) -> tuple[set[int], int | None]:
    """Return the concepts at or above what `text` means, none for an unknown word; and the concept, if it is one."""
    if find_meanings(concepts, text):
        concept = resolve(concepts, text).concept
        return concepts.ancestors(concept) | {concept}, concept
    meanings = wordnet_meanings(text)
    if len(meanings) > 1:
        raise UnknownClass(f"'{text}' has {len(meanings)} meanings: {', '.join(meanings)}. Name one by its wnid.")
    return (concepts_above(concepts, meanings[0]) if meanings else set()), None


def bins_of(lines: Sequence[BinLine], concepts: Concepts, shown: NDArray[np.bool_] | None = None) -> Bins:
    """Return the bins of checked lines (`bin_lines`) over the classes of `concepts`.

    shown: bool [C], the classes that count for a concept to have any; all by default. Raises UnknownClass, with the
    line, for a concept that is none or has no class, UsageError for a class under two labels of which neither is above
    the other.
    """
    labels = labels_of(lines)
    index = dict(zip(labels, range(len(labels)), strict=True))
    parent = np.full(len(labels), -1, np.int32)
    questions: list[list[Question]] = [[] for _ in labels]
    for line in lines:
        if line.parent:
            parent[index[line.label]] = index[line.parent]
        if line.concept:
            try:
                questions[index[line.label]].append(resolve(concepts, line.concept, shown))
            except UnknownClass as error:
                raise UnknownClass(f"bins, line {line.line}: {error}") from None
    tree = Tree(labels, labels, parent, len(labels))
    owner = np.full(concepts.num_classes, len(labels) - 1, np.int32)
    for label in np.argsort(tree.depth, kind="stable").tolist():
        above = np.zeros(len(labels), bool)
        above[[*tree.path(label), len(labels) - 1]] = True
        for question in questions[label]:
            classes = concepts.classes(question.concept)
            taken = classes[~above[owner[classes]]]
            if taken.size:
                _refuse_overlap(concepts, labels[label], labels[owner[taken[0]]], int(taken[0]))
            owner[classes] = label
    return Bins(tree, owner, tuple(map(tuple, questions)))


def _refuse_overlap(concepts: Concepts, one: str, other: str, found: int) -> None:
    raise UsageError(
        f"The class '{concepts.name(found)}' ({concepts.wnids[found]}) is under '{other}' and under '{one}': make one "
        "of these labels the parent of the other, or leave it to one."
    )
