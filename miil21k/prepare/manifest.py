"""One row per member of the source, as CSV or Parquet: where it went, or why it did not."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from miil21k.environment import require
from miil21k.errors import PrepareError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = [
    "COLUMNS",
    "ManifestRow",
    "ManifestWriter",
    "decode_rows",
    "encode_rows",
    "file_digest",
    "find_manifest",
    "manifest_name",
    "read_manifest",
    "require_manifest_format",
]

_ROW_GROUP = 1 << 16  # rows that wait in memory
_INTEGERS = slice(4, 8)  # the columns width to bytes


class ManifestRow(NamedTuple):
    """One member of the source. place: see `split`; outcome: resized, copied, or why there is no file.

    width, height: of the source image, 0 when unknown. bytes, sha256: of the written file, whose name is `file`.
    """

    wnid: str
    source: str
    place: str
    outcome: str
    width: int
    height: int
    source_bytes: int
    bytes: int
    sha256: str
    file: str


COLUMNS = ManifestRow._fields


def manifest_name(kind: str) -> str:
    """Return the file name of a manifest of `kind`, csv or parquet."""
    return f"manifest.{kind}"


def find_manifest(target: Path) -> Path | None:
    """Return the manifest of the data set at `target`, None when it has none."""
    return next((path for kind in ("csv", "parquet") if (path := target / manifest_name(kind)).exists()), None)


def require_manifest_format(kind: str) -> None:
    """Raise MissingExtra when manifests of `kind` cannot be written or read here."""
    if kind == "parquet":
        require("pyarrow", "parquet", "A manifest in Parquet")


def encode_rows(rows: Iterable[tuple[object, ...]]) -> bytes:
    """Return `rows` as lines of CSV; bytes of names that are no UTF-8 stay as they are."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def decode_rows(lines: bytes) -> Iterator[ManifestRow]:
    """Yield the rows that `encode_rows` made `lines` of."""
    for row in csv.reader(io.StringIO(lines.decode("utf-8", "surrogateescape"), newline="")):
        yield ManifestRow(*row[:4], *map(int, row[_INTEGERS]), *row[8:])  # type: ignore[arg-type]


def read_manifest(path: Path) -> Iterator[ManifestRow]:
    """Yield the rows of the manifest at `path`, CSV or Parquet by its suffix.

    Raises PrepareError when it has other columns or is damaged, MissingExtra for Parquet without pyarrow.
    """
    return _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)


def _read_csv(path: Path) -> Iterator[ManifestRow]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != COLUMNS:
            raise _other_columns(path)
        for row in rows:
            if len(row) != len(COLUMNS) or not all(number.isdecimal() for number in row[_INTEGERS]):
                raise PrepareError(f"'{path}' is damaged at line {rows.line_num}.")
            yield ManifestRow(*row[:4], *map(int, row[_INTEGERS]), *row[8:])  # type: ignore[arg-type]


def _read_parquet(path: Path) -> Iterator[ManifestRow]:
    require_manifest_format("parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(_schema()):
                raise _other_columns(path)
            for batch in file.iter_batches(_ROW_GROUP):
                for row in batch.to_pylist():
                    row["source"], row["file"] = _unescaped(row["source"]), _unescaped(row["file"])
                    yield ManifestRow(**row)
    except pa.ArrowException as error:
        raise PrepareError(f"'{path}' is damaged: {str(error).splitlines()[0]}") from None


def _other_columns(path: Path) -> PrepareError:
    return PrepareError(f"'{path}' is no manifest of this version: its columns are not {', '.join(COLUMNS)}.")


class ManifestWriter:
    """Writes a manifest of `kind` to `path`, class by class; a context manager."""

    def __init__(self, path: Path, kind: str) -> None:
        require_manifest_format(kind)
        self._path = path
        self._parquet: Any = None
        self._rows: list[ManifestRow] = []
        self._lines: io.BufferedWriter | None = None
        self.rows = 0
        if kind == "parquet":
            import pyarrow.parquet as pq

            self._parquet = pq.ParquetWriter(path, _schema())
        else:
            self._lines = path.open("wb")
            self._lines.write(encode_rows([COLUMNS]))

    def __enter__(self) -> ManifestWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lines:
            self._lines.close()
        else:
            self._flush()
            self._parquet.close()

    def add(self, lines: bytes, rows: list[ManifestRow]) -> None:
        """Append `rows`; `lines` are the same as CSV."""
        self.rows += len(rows)
        if self._lines:
            self._lines.write(lines)
            return
        self._rows += rows
        if len(self._rows) >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        rows = [row._replace(source=_escaped(row.source), file=_escaped(row.file)) for row in self._rows]
        schema = _schema()
        columns = [pa.array([row[at] for row in rows], field.type) for at, field in enumerate(schema)]
        self._parquet.write_table(pa.Table.from_arrays(columns, schema=schema))
        self._rows = []


def _schema() -> Any:
    import pyarrow as pa

    numbers = dict(zip(COLUMNS[_INTEGERS], (pa.int32(), pa.int32(), pa.int64(), pa.int64()), strict=True))
    return pa.schema([pa.field(name, numbers.get(name, pa.string()), nullable=False) for name in COLUMNS])


def _escaped(name: str) -> str:
    r"""Return `name` as UTF-8 text: a byte that is none becomes \xff and the like, a backslash two."""
    return name.replace("\\", "\\\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _unescaped(text: str) -> str:
    parts = re.sub(rb"\\(?:\\|x([0-9a-f]{2}))", _unescape, text.encode())
    return parts.decode("utf-8", "surrogateescape")


def _unescape(found: re.Match[bytes]) -> bytes:
    return bytes.fromhex(found[1].decode()) if found[1] else b"\\"


def file_digest(path: Path) -> str:
    """Return the SHA-256 of the file at `path`, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
