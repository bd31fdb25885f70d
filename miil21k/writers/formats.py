"""The formats of rows, one table. A new one is an entry here, and a layout or a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from miil21k.data.cloud import is_remote
from miil21k.errors import UsageError
from miil21k.writers.layouts import JsonArray, JsonLines, Separated

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.writers.layouts import Layout
    from miil21k.writers.output import Existing, Output
    from miil21k.writers.rows import Shape

__all__ = ["FORMATS", "TABLE", "Format", "format_of", "open_output", "require_format"]

TABLE = "table"  # for people; only the command line prints it


class Format(NamedTuple):
    """A way to write rows. suffixes: of its files, lower case with the dot, for `format_of`.

    layout: how rows become bytes, one after another; None for a file that cannot be written so, and not to a pipe.
    open_file: opens such a file, for which `RowFile` is not enough; arguments as those of `open_output`.
    """

    suffixes: tuple[str, ...]
    layout: Callable[[Shape], Layout] | None
    open_file: Callable[[Path, Shape, dict[str, Any], Existing], Output] | None = None


def _parquet(path: Path, shape: Shape, options: dict[str, Any], existing: Existing) -> Output:
    from miil21k.writers.parquet import ParquetFile

    return ParquetFile(path, shape, options, existing)


FORMATS: dict[str, Format] = {
    "json": Format((".json",), lambda _: JsonArray()),
    "jsonl": Format((".jsonl", ".ndjson"), lambda _: JsonLines()),
    "csv": Format((".csv",), lambda shape: Separated(",", shape)),
    "tsv": Format((".tsv",), lambda shape: Separated("\t", shape)),
    "parquet": Format((".parquet", ".pq"), None, _parquet),
}


def format_of(path: str | Path) -> str:
    """Return the format that the extension of `path` stands for; raises UsageError for one that stands for none."""
    suffixes = {suffix: name for name, found in FORMATS.items() for suffix in found.suffixes}
    try:
        return suffixes[Path(path).suffix.lower()]
    except KeyError:
        raise UsageError(
            f"The extension of '{path}' names no format: use one of {', '.join(suffixes)}, or say --format."
        ) from None


def require_format(name: str) -> Format:
    """Return the format of that name; raises UsageError for one that the table does not have."""
    try:
        return FORMATS[name]
    except KeyError:
        raise UsageError(f"No format '{name}': the formats are {', '.join(FORMATS)}.") from None


def open_output(name: str, path: str | Path, shape: Shape, options: dict[str, Any], existing: Existing) -> Output:
    """Return the file at `path` in the format `name`; nothing is written yet.

    path: of this machine, or an address that fsspec writes (`s3://bucket/rows.jsonl`, extra `cloud`). options: what the
    rows depend on, as JSON values. existing: what to do when `path` exists. Raises UsageError, and MissingExtra for a
    format whose package is not installed.
    """
    found = require_format(name)
    if is_remote(str(path)):
        from miil21k.writers.remote import RemoteFile

        return RemoteFile(str(path), lambda here: open_output(name, here, shape, options, "overwrite"), existing)
    path = Path(path)
    options = {**options, "format": name}
    if found.open_file is not None:
        return found.open_file(path, shape, options, existing)
    assert found.layout is not None
    from miil21k.writers.output import RowFile

    return RowFile(path, found.layout(shape), options, existing)
