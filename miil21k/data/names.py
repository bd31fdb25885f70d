"""Millions of names in little memory (11 million take about 0.5 GB, and loader processes share them); their order."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Names", "label_order"]


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
