"""Rows as one Parquet file: collected in a journal of JSON lines, which can be resumed, and converted at the end."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING, Any

from miil21k.errors import MissingExtra, UsageError
from miil21k.files import atomic, replace_file
from miil21k.writers.formats import DoneRow, JsonLines, utf8_text
from miil21k.writers.output import RowFile, note_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from miil21k.writers.formats import Row
    from miil21k.writers.output import Existing

__all__ = ["ParquetFile", "journal_path"]

BATCH = 8192  # rows per row group


def journal_path(path: Path) -> Path:
    """Return where the rows of an unfinished Parquet file are kept."""
    return path.with_name(f"{path.name}.rows.jsonl")


class ParquetFile:
    """A `RowFile` in Parquet: the same methods, nested columns as in a JSON row, the file itself written at the end.

    labels, levels: whether rows carry them. Raises MissingExtra without pyarrow, UsageError as `RowFile` does.
    """

    def __init__(
        self, path: Path, options: dict[str, Any], existing: Existing, *, labels: bool = False, levels: bool = False
    ) -> None:
        if importlib.util.find_spec("pyarrow") is None:
            raise MissingExtra("pyarrow", "parquet", "Writing Parquet")
        self.path = path
        self._schema = _schema(labels, levels)
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

    def begin(self, run: dict[str, Any]) -> None:
        """Open the journal, as `RowFile.begin`; an appending run begins it with the rows of the file."""
        if self._append and self.path.exists():
            layout = JsonLines()
            replace_file(self._journal.path, b"".join(layout.encode(row) for row in self._stored()))
            self._journal = self._journal.appending()
        self._journal.begin(run)

    def write(self, row: Row) -> None:
        """Write one row to the journal."""
        self._journal.write(row)

    def finish(self) -> None:
        """Convert the journal, put the file in place, and remove the journal."""
        with atomic(self.path) as partial:
            self._convert(partial)
        self._journal.finish()
        self._journal.path.unlink()

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


def _schema(labels: bool, levels: bool) -> Any:
    import pyarrow as pa

    label = [("label", pa.string())] if labels else []
    parts = [("wnid", pa.string()), ("name", pa.string()), ("probability", pa.float64())]
    node = pa.struct([*parts, *label])
    stop = [("reason", pa.string()), ("hedge", pa.float64()), ("calibrated", pa.bool_())]
    texts = ("input", "status", "error", "model", "label_space", "label_space_sha256", "removed_labels")
    fields = [
        ("schema", pa.int32()),
        *((name, pa.string()) for name in (*texts, "backend", "device", "dtype")),
        ("path", pa.list_(node)),
        ("stop", pa.struct([*stop, ("refused", pa.struct(parts)), ("runner_up", pa.struct(parts))])),
        ("topk", pa.list_(node)),
    ]
    if levels:
        fields.append(("levels", pa.list_(pa.struct([("depth", pa.int32()), *parts, ("kept", pa.bool_())]))))
    return pa.schema(fields)
