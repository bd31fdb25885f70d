"""Millions of names in little memory (11 million take about 0.5 GB, and loader processes share them); classes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Names", "label_order", "listed_classes"]


class Names:
    """A sequence of file names, held as one string of bytes and where each ends."""

    def __init__(self, names: Iterable[bytes]) -> None:
        encoded = list(names)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._text = b"".join(encoded)

    def __len__(self) -> int:
        return int(self._ends.size)

    def __getitem__(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._text[start : int(self._ends[index])])


def label_order(label: str) -> tuple[int, int, bytes]:
    """Return what labels are sorted by: whole numbers by value, then others bytewise."""
    return (0, int(label), b"") if label.isascii() and label.isdecimal() else (1, 0, os.fsencode(label))


def listed_classes(labels: ArrayLike, names: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Return those of `names` that occur, in their order, and int32 [N], the place of each label among them.

    labels: int [N], places in `names`. A key of a class is a path of names, and *T-shirt/top* is none: it becomes
    *T-shirt or top*.
    """
    present, key_of = np.unique(labels, return_inverse=True)
    return tuple(names[label].replace("/", " or ") for label in present), key_of.astype(np.int32)
