"""Rows as one Parquet file: collected in a journal of JSON lines, which can be resumed, and converted at the end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from miil21k.environment import require
from miil21k.errors import UsageError
from miil21k.files import atomic, replace_file
from miil21k.writers.layouts import DoneRow, JsonLines, utf8_text
from miil21k.writers.output import RowFile, naming, note_path
from miil21k.writers.rows import ROW, Many, Scalar, Struct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from miil21k.writers.output import Existing
    from miil21k.writers.rows import Row, Shape

__all__ = ["ParquetFile", "arrow_schema", "journal_path"]

BATCH = 8192  # rows per row group


def journal_path(path: Path) -> Path:
    """Return where the rows of an unfinished Parquet file are kept."""
    return path.with_name(f"{path.name}.rows.jsonl")


class ParquetFile:
    """A `RowFile` in Parquet: the same methods, nested columns as in a JSON row, the file itself written at the end.

    Raises MissingExtra without pyarrow, UsageError as `RowFile` does.
    """

    lasting = True

    def __init__(self, path: Path, shape: Shape, options: dict[str, Any], existing: Existing) -> None:
        require("pyarrow", "parquet", "Writing Parquet")
        self.path = path
        self._schema = arrow_schema(shape)
        self._append = existing == "append"
        journal = journal_path(path)
        unfinished = note_path(journal).exists()
        if existing == "refuse" and path.exists() and not unfinished:
            raise UsageError(f"'{path}' exists: --overwrite replaces it, --append adds to it.")
        if self._append and path.exists():
            self._require_schema()
        self.complete = existing == "resume" and path.exists() and not unfinished
        stale: Existing = existing if unfinished else "overwrite"
        self._journal = RowFile(journal, JsonLines(), options, stale)

    def _require_schema(self) -> None:
        import pyarrow.parquet as pq

        if not pq.read_schema(self.path).equals(self._schema):
            raise UsageError(f"'{self.path}' has other columns than this output would: --append needs the same ones.")

    def begun_with(self) -> dict[str, Any] | None:
        """Return what computed the rows that an interrupted run left, as `begin` was told; None without any."""
        return self._journal.begun_with()

    def rows(self) -> Iterator[DoneRow]:
        """Yield the rows that an earlier run left."""
        if not self.complete:
            yield from self._journal.rows()
            return
        for number, row in enumerate(self._stored(["input", "status"]), 1):
            yield DoneRow(number, row["input"], row["status"] == "ok")

    def _stored(self, columns: list[str] | None = None) -> Iterator[Row]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(BATCH, columns=columns):
                yield from batch.to_pylist()

    def keep(self, end: int) -> None:
        """Go on at byte `end` of the journal."""
        self._journal.keep(end)

    def begin(self, origin: dict[str, Any]) -> None:
        """Open the journal, as `RowFile.begin`; an appending run begins it with the rows of the file."""
        if self._append and self.path.exists():
            layout = JsonLines()
            replace_file(self._journal.path, b"".join(layout.encode(row) for row in self._stored()))
            self._journal = self._journal.appending()
        self._journal.begin(origin)

    def write(self, row: Row) -> None:
        """Write one row to the journal."""
        self._journal.write(row)

    def finish(self) -> None:
        """Convert the journal and put the file in place; the journal stays until `settle`."""
        with naming(self.path), atomic(self.path) as partial:
            self._convert(partial)
        self._journal.finish()

    def settle(self) -> None:
        """Remove the journal, and its note before it: the file, and all that belongs to it, is complete."""
        self._journal.settle()
        self._journal.path.unlink(missing_ok=True)

    def _convert(self, target: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with self._journal.path.open(encoding="utf-8") as lines, pq.ParquetWriter(target, self._schema) as file:
            rows: list[Row] = []
            for line in lines:
                rows.append(_utf8(json.loads(line)))
                if len(rows) == BATCH:
                    file.write_table(pa.Table.from_pylist(rows, self._schema))
                    rows = []
            file.write_table(pa.Table.from_pylist(rows, self._schema))

    def abandon(self) -> None:
        """Close an interrupted journal after its last whole row; it can be resumed."""
        self._journal.abandon()


def _utf8(row: Row) -> Row:
    row["input"] = utf8_text(row["input"])
    row["error"] = row["error"] and utf8_text(row["error"])
    return row


def arrow_schema(shape: Shape) -> Any:
    """Return the columns of rows of `shape`."""
    import pyarrow as pa

    return pa.schema(_arrow_type(ROW, shape))


def _arrow_type(kind: Scalar | Struct | Many, shape: Shape) -> Any:
    import pyarrow as pa

    if isinstance(kind, Scalar):
        return getattr(pa, kind.arrow)()
    if isinstance(kind, Many):
        return pa.list_(_arrow_type(kind.of, shape))
    return pa.struct([(field.name, _arrow_type(field.kind, shape)) for field in kind.fields if shape.holds(field.part)])
