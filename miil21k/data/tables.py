"""Tables of users, from CSV, TSV and Parquet, by column."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any, NamedTuple

from miil21k.environment import need
from miil21k.errors import UsageError
from miil21k.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["LIST_SUFFIXES", "ListTable", "nth_row", "read_table"]


def nth_row(row: int) -> str:
    """Return what a message calls a row, counted from 0, of a table without lines."""
    return f"row {row + 1}"


class ListTable(NamedTuple):
    """Named columns of equal length.

    values: gives the values of a column: all text from CSV, of any type from Parquet. where: what a message calls a
    row (`line 3`).
    """

    origin: str
    columns: tuple[str, ...]
    values: Callable[[str], list[Any]]
    where: Callable[[int], str]

    def texts(self, column: str) -> list[str]:
        """Return a column of text or whole numbers as text, empty for nothing; raises UsageError for another type."""
        values = self.values(column)
        strange = next((value for value in values if value is not None and type(value) not in (str, int)), None)
        if strange is not None:
            raise UsageError(
                f"The column '{printable(column)}' of '{self.origin}' holds {type(strange).__name__} values: expected "
                "text or whole numbers."
            )
        return ["" if value is None else str(value) for value in values]


def read_table(path: Path) -> ListTable:
    """Return the table at `path`, read by its suffix, one of `LIST_SUFFIXES`.

    A CSV may be separated by commas, semicolons or tabs, which its first line decides. Raises UsageError when it cannot
    be read, MissingExtra for Parquet without pyarrow.
    """
    try:
        return _READERS[path.suffix.lower()](path)
    except OSError as error:
        raise UsageError(f"The list '{printable(path)}' cannot be read: {error.strerror or error}.") from None


def _csv(path: Path) -> ListTable:
    origin = printable(path)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        first = file.readline()
        file.seek(0)
        if "\0" in first:
            raise UsageError(f"The list '{origin}' is not UTF-8 text; save it as UTF-8.")
        mark = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
        reader = csv.reader(file, delimiter=mark, strict=True)
        try:
            titles = [title.strip() for title in next(reader, [])]
            _check_titles(origin, titles)
            cells: list[list[str]] = [[] for _ in titles]
            lines = []
            for row in reader:
                if not any(row):
                    continue
                if len(row) != len(titles):
                    raise UsageError(
                        f"The list '{origin}', line {reader.line_num}: expected {len(titles)} cells, found {len(row)}."
                    )
                lines.append(reader.line_num)
                for column, cell in zip(cells, row, strict=True):
                    column.append(cell)
        except csv.Error as error:
            raise UsageError(f"The list '{origin}', line {reader.line_num}: {error}.") from None
    values = dict(zip(titles, cells, strict=True))
    return ListTable(origin, tuple(titles), values.__getitem__, lambda row: f"line {lines[row]}")


def _parquet(path: Path) -> ListTable:
    parquet = need("pyarrow.parquet", "parquet", "Reading a list in Parquet")
    arrow = need("pyarrow", "parquet", "Reading a list in Parquet")
    origin = printable(path)

    def values(column: str) -> list[Any]:
        try:
            found: list[Any] = parquet.read_table(path, columns=[column]).column(0).to_pylist()
        except (arrow.ArrowInvalid, OSError) as error:
            raise UsageError(f"The list '{origin}' is damaged: {printable(error)}.") from None
        return found

    try:
        titles = parquet.read_schema(path).names
    except arrow.ArrowInvalid:
        raise UsageError(f"The list '{origin}' is no Parquet file, or a damaged one.") from None
    _check_titles(origin, titles)
    return ListTable(origin, tuple(titles), values, nth_row)


def _check_titles(origin: str, titles: list[str]) -> None:
    twice = next((title for title in titles if title and titles.count(title) > 1), None)
    if twice is not None:
        raise UsageError(f"The list '{origin}' has two columns called '{printable(twice)}'.")


_READERS: dict[str, Callable[[Path], ListTable]] = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
LIST_SUFFIXES = frozenset(_READERS)
