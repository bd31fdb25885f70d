"""How rows become bytes, and are found again: JSON lines, a JSON array, CSV and TSV. One row is one piece of bytes."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, NamedTuple, Protocol

from miil21k.errors import Miil21kError
from miil21k.writers.rows import cells

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import IO

    from miil21k.writers.rows import Row, Shape

__all__ = ["DoneRow", "JsonArray", "JsonLines", "Layout", "Separated", "utf8_text"]


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
            row = json.loads(body)  # two fields of millions of our own rows: a strict reader takes three times as long
            done = DoneRow(end if torn_at_end else at + len(body), row["input"], row["status"] == "ok")
        except (ValueError, KeyError, TypeError, RecursionError):
            if whole:
                raise Miil21kError(f"'{file.name}' has a line at byte {at} that is no prediction row.") from None
            return
        if torn_at_end and not whole:
            return
        yield done
        at = end


class Separated:
    """CSV or TSV: one wide line per row, quoted where needed, line feeds at the ends. shape: decides the columns."""

    separator = b""
    footer = b""

    def __init__(self, delimiter: str, shape: Shape) -> None:
        self._delimiter = delimiter
        self._cells = dict(cells(shape))
        self.columns = list(self._cells)
        self.header = self._line(self.columns)

    def encode(self, row: Row) -> bytes:
        """Return one line; what a row does not have is empty."""
        return self._line([content(row) for content in self._cells.values()])

    def _line(self, line: Sequence[object]) -> bytes:
        import csv

        text = io.StringIO(newline="")
        # The writer quotes the characters of its line terminator: a carriage return in a name must be quoted too.
        csv.writer(text, delimiter=self._delimiter, lineterminator="\r\n").writerow(line)
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
            found = next(csv.reader(io.StringIO(record.decode("utf-8"), newline=""), delimiter=self._delimiter))
            if len(found) != len(self.columns) or found[1] not in ("ok", "error"):
                raise Miil21kError(f"'{file.name}' has a record at byte {at} that is no prediction row.")
            at += len(record)
            record = b""
            yield DoneRow(at, found[0], found[1] == "ok")
