"""Files of rows, read again: what `miil21k predict` and `miil21k select` wrote, whatever the format."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

from miil21k.environment import require
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from miil21k.writers.rows import Row

__all__ = ["ROW_SUFFIXES", "read_rows"]


def read_rows(path: Path, fields: Collection[str] | None = None) -> Iterator[Row]:
    """Yield the rows of a file, one at a time; a row of CSV has the cells of `miil21k.writers.rows.cells`, as text.

    fields: what is wanted of a row, which Parquet then reads alone; all by default. Raises UsageError for a file that
    cannot be read, another kind of file, and for what is no row.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"'{path}' is no file of rows: they end in {', '.join(sorted(ROW_SUFFIXES))}.")
    try:
        for number, row in enumerate(reader(path, fields), 1):
            if not isinstance(row, dict) or "input" not in row or not ({"status", "score"} & row.keys()):
                raise UsageError(f"Row {number:,} of '{path}' is none of predict or select.")
            yield row
    except OSError as error:
        raise UsageError(f"The rows '{path}' cannot be read: {error.strerror or error}.") from None


def _lines(path: Path, _: Collection[str] | None) -> Iterator[Row]:
    number, line = 0, b"\n"
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):  # noqa: B007 - told where it fails
                yield json.loads(line)
    except ValueError:
        what = "is no JSON" if line.endswith(b"\n") else "is cut off: finish that run with --resume"
        raise UsageError(f"Line {number:,} of '{path}' {what}.") from None


def _cells(path: Path, _: Collection[str] | None) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")


def _parquet(path: Path, fields: Collection[str] | None) -> Iterator[Row]:
    require("pyarrow", "parquet", "Reading Parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = None if fields is None else [name for name in file.schema_arrow.names if name in fields]
            for batch in file.iter_batches(8192, columns=columns):
                yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise UsageError(f"'{path}' is no Parquet file, or a damaged one: {error}.") from None


_READERS = {".jsonl": _lines, ".ndjson": _lines, ".csv": _cells, ".tsv": _cells, ".parquet": _parquet, ".pq": _parquet}
ROW_SUFFIXES = frozenset(_READERS)
