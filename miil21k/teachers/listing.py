"""A selection as a file: one row per image and class, columns `wnid`, `rank`, `score`, `input`; and its report."""

from __future__ import annotations

import csv
import io
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.environment import require
from miil21k.errors import UsageError
from miil21k.files import atomic
from miil21k.writers.layouts import utf8_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from miil21k.teachers.best import BestOfClass

__all__ = ["LIST_WRITERS", "Listed", "require_list", "write_list"]

COLUMNS = ("wnid", "rank", "score", "input")
_ROWS = 1 << 17  # of a row group


class Listed(NamedTuple):
    """What a list came to: how many images each class has, the least score among them, and distinct images over all."""

    counts: dict[str, int]
    least: dict[str, float]
    images: int

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(self.counts.values())


def require_list(path: Path) -> None:
    """Raise UsageError for a name that is no list, or whose folder is missing; MissingExtra for Parquet without it."""
    if path.suffix.lower() not in LIST_WRITERS:
        raise UsageError(f"A selection is a list: '{path}' must end in {' or '.join(LIST_WRITERS)}.")
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"'{path}' is a folder." if path.is_dir() else f"There is no folder '{path.parent}'.")
    if path.suffix.lower() == ".parquet":
        require("pyarrow", "parquet", "Writing Parquet")


def write_list(path: Path, bests: Iterable[BestOfClass]) -> Listed:
    """Write the images of every class, best first, as they come; the file is seen whole or not at all.

    rank is 0 for the best of a class. Holds 8 bytes per row, to count images.
    """
    counts: dict[str, int] = {}
    least: dict[str, float] = {}
    digests: list[NDArray[np.uint64]] = []

    def seen() -> Iterator[BestOfClass]:
        for best in bests:
            counts[best.wnid], least[best.wnid] = len(best.names), float(best.scores[-1])
            digests.append(best.digests)
            yield best

    with atomic(path) as part:
        LIST_WRITERS[path.suffix.lower()](part, seen())
    joined = np.concatenate([np.zeros(0, np.uint64), *digests])
    digests.clear()
    joined.sort()
    images = int(joined.size and 1 + np.count_nonzero(joined[1:] != joined[:-1]))
    return Listed(counts, least, images)


def _parquet(path: Path, bests: Iterator[BestOfClass]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = (pa.string(), pa.int32(), pa.float32(), pa.string())
    schema = pa.schema(list(zip(COLUMNS, kinds, strict=True)))
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        waiting: list[Any] = []
        for best in bests:
            size = len(best.names)
            try:
                names = pa.array(best.names, pa.binary()).cast(pa.string())
            except pa.ArrowInvalid:  # a name that is no UTF-8
                names = pa.array([utf8_text(os.fsdecode(name)) for name in best.names], pa.string())
            columns = [pa.repeat(best.wnid, size), pa.array(np.arange(size, dtype=np.int32)), pa.array(best.scores)]
            waiting.append(pa.table([*columns, names], schema=schema))
            if sum(table.num_rows for table in waiting) >= _ROWS:
                file.write_table(pa.concat_tables(waiting), row_group_size=_ROWS)
                waiting = []
        if waiting:
            file.write_table(pa.concat_tables(waiting))


def _csv(path: Path, bests: Iterator[BestOfClass]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for best in bests:
            for rank, (score, name) in enumerate(zip(best.scores, best.names, strict=True)):
                writer.writerow((best.wnid, rank, str(score), utf8_text(os.fsdecode(name))))


LIST_WRITERS: dict[str, Callable[[Path, Iterator[BestOfClass]], None]] = {".parquet": _parquet, ".csv": _csv}


def csv_line(*cells: str) -> bytes:
    """Return one line of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "backslashreplace")
