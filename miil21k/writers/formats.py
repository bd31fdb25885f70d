"""Prediction rows as bytes, and back: JSON lines, a JSON array, CSV and TSV. One row is one piece of bytes."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from miil21k.errors import Miil21kError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import IO

__all__ = ["FORMATS", "DoneRow", "JsonArray", "JsonLines", "Layout", "Row", "Separated", "format_of", "utf8_text"]

Row = dict[str, Any]
FORMATS = ("table", "json", "jsonl", "csv", "tsv", "parquet")
_SUFFIXES = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}


def format_of(path: Path) -> str:
    """Return the format that the extension of `path` stands for; raises UsageError for one that stands for none."""
    try:
        return _SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"The extension of '{path}' names no format: use one of {', '.join(_SUFFIXES)}, or say --format."
        ) from None


def utf8_text(text: str) -> str:
    r"""Return `text` as it can be written in UTF-8: a byte of a file name that is no UTF-8 becomes `\udcXX`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class DoneRow(NamedTuple):
    """A whole row that a file already holds: where it ends, in bytes, and what it says."""

    end: int
    input: str
    ok: bool


class Layout(Protocol):
    """How rows become bytes: `header`, rows with `separator` between them, `footer`."""

    header: bytes
    separator: bytes
    footer: bytes

    def encode(self, row: Row) -> bytes:
        """Return one row."""
        ...

    def scan(self, file: IO[bytes], start: int) -> Iterator[DoneRow]:
        """Yield the whole rows that follow byte `start`; a torn last one is left out.

        Raises Miil21kError for anything else that is no row.
        """
        ...


class JsonLines:
    """One JSON object per line."""

    header = b""
    separator = b""
    footer = b""

    def encode(self, row: Row) -> bytes:
        """Return the object and a line feed."""
        return _json(row) + b"\n"

    def scan(self, file: IO[bytes], start: int) -> Iterator[DoneRow]:
        """Yield the whole rows after `start`; a last line without its line feed is torn."""
        return _scan_lines(file, start, torn_at_end=True)


class JsonArray:
    """One JSON array with one row per line; valid once its footer is written."""

    header = b"[\n"
    separator = b",\n"
    footer = b"\n]\n"

    def encode(self, row: Row) -> bytes:
        """Return the object."""
        return _json(row)

    def scan(self, file: IO[bytes], start: int) -> Iterator[DoneRow]:
        """Yield the whole rows after `start`; an object is whole when its closing brace is there."""
        return _scan_lines(file, start, torn_at_end=False)


def _json(row: Row) -> bytes:
    # In JSON `\udcff` is the escape of the surrogate that stands for a byte that is no UTF-8, so names survive.
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


def _scan_lines(file: IO[bytes], start: int, *, torn_at_end: bool) -> Iterator[DoneRow]:
    file.seek(start)
    at = start
    for line in file:
        end = at + len(line)
        whole = line.endswith(b"\n")
        body = line.rstrip(b"\n").rstrip(b",")
        if body in (b"", b"]"):  # between the array's last row and its end
            at = end
            continue
        try:
            row = json.loads(body)
            done = DoneRow(end if torn_at_end else at + len(body), row["input"], row["status"] == "ok")
        except (ValueError, KeyError, TypeError):
            if whole:
                raise Miil21kError(f"'{file.name}' has a line at byte {at} that is no prediction row.") from None
            return
        if torn_at_end and not whole:
            return
        yield done
        at = end


class Separated:
    """CSV or TSV: one wide line per row, quoted where needed, line feeds at the ends.

    topk: how many classes have columns. labels: also a `label` column for the answer and for each of them.
    levels: also the columns of the published per-level rule.
    """

    separator = b""
    footer = b""

    def __init__(self, delimiter: str, topk: int, *, labels: bool = False, levels: bool = False) -> None:
        self._delimiter = delimiter
        self._topk = topk
        self._labels = labels
        self._levels = levels
        self.header = self._line(self.columns)

    @property
    def columns(self) -> list[str]:
        """The column names, in order."""
        label = ["label"] if self._labels else []
        names = [*_COMMON, *label, *_PATH, *(_LEVELS if self._levels else [])]
        for rank in range(1, self._topk + 1):
            names += [f"top{rank}_{part}" for part in ("wnid", "name", *label, "probability")]
        return names

    def encode(self, row: Row) -> bytes:
        """Return one line; what a row does not have is empty."""
        cells = _flat(row)
        return self._line([cells.get(name) for name in self.columns])

    def _line(self, cells: Sequence[object]) -> bytes:
        import csv

        text = io.StringIO(newline="")
        # The writer quotes the characters of its line terminator: a carriage return in a name must be quoted too.
        csv.writer(text, delimiter=self._delimiter, lineterminator="\r\n").writerow(cells)
        return text.getvalue().removesuffix("\r\n").encode("utf-8", "backslashreplace") + b"\n"

    def scan(self, file: IO[bytes], start: int) -> Iterator[DoneRow]:
        """Yield the whole rows after `start`; a record ends at a line feed outside quotes."""
        import csv

        file.seek(start)
        at, record = start, b""
        for line in file:
            record += line
            if record.count(b'"') % 2 or not line.endswith(b"\n"):
                continue
            cells = next(csv.reader(io.StringIO(record.decode("utf-8"), newline=""), delimiter=self._delimiter))
            if len(cells) != len(self.columns) or cells[1] not in ("ok", "error"):
                raise Miil21kError(f"'{file.name}' has a record at byte {at} that is no prediction row.")
            at += len(record)
            record = b""
            yield DoneRow(at, cells[0], cells[1] == "ok")


_COMMON = ["input", "status", "error", "model", "label_space", "removed_labels", "wnid", "name"]
_PATH = ["path", "path_wnids", "path_probability", "stop"]
_LEVELS = ["levels", "levels_wnids"]


def _flat(row: Row) -> Row:
    """Return the row of one wide line, by column name."""
    path = row["path"]
    cells = {name: row[name] for name in _COMMON[:6]}
    cells["path"] = _chain(path, "name")
    cells["path_wnids"] = _chain(path, "wnid")
    cells["stop"] = row["stop"] and row["stop"]["reason"]
    if path:
        last = path[-1]
        cells |= {"wnid": last["wnid"], "name": last["name"], "label": last.get("label")}
        cells["path_probability"] = last["probability"]
    kept = [level for level in row.get("levels") or () if level["kept"]]
    cells |= {"levels": _chain(kept, "name"), "levels_wnids": _chain(kept, "wnid")}
    for rank, node in enumerate(row["topk"], 1):
        cells |= {f"top{rank}_{key}": value for key, value in node.items()}
    return cells


def _chain(nodes: Sequence[Row], key: str) -> str:
    return " > ".join(node[key] for node in nodes)
