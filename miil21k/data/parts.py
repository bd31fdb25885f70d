"""Names of pictures inside of files that hold several: `scan.tif#page=2`, `report.pdf#page=3`, `clip.mp4#t=12.5`.

A file whose own name ends like that is meant itself.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

__all__ = ["MAX_PARTS", "Part", "file_of", "split_part"]

MAX_PARTS = 10_000  # of one file: what lies behind is one row that says so, and can still be named
_PART = re.compile(r"(.+)#(?:page=([1-9][0-9]{0,7})|t=([0-9]{1,7}(?:\.[0-9]{1,3})?))", re.DOTALL)


class Part(NamedTuple):
    """A page, counted from 1, or the frame that is shown `time` seconds after the beginning; one of them is None."""

    page: int | None = None
    time: float | None = None

    def of(self, name: str) -> str:
        """Return how this part of the file `name` is called."""
        if self.time is None:
            return f"{name}#page={self.page}"
        return f"{name}#t={f'{self.time:.3f}'.rstrip('0').rstrip('.')}"


def split_part(name: str) -> tuple[str, Part | None]:
    """Return the file that a name means, and which part of it; None for the whole."""
    found = _PART.fullmatch(name) if "#" in name else None
    if found is None or os.path.lexists(name):
        return name, None
    file, page, time = found.groups()
    return file, Part(page=int(page)) if page else Part(time=float(time))


def file_of(name: str) -> str:
    """Return the file that a name means, or that the part it means lies in."""
    return split_part(name)[0]
