"""Embeddings as one NumPy file that grows row by row, aligned with the rows of the predictions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.errors import Miil21kError, UsageError
from miil21k.writers.output import naming

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

    from numpy.typing import NDArray

    from miil21k.writers.output import Existing

__all__ = ["EmbeddingFile", "require_npy"]

HEADER = 128  # bytes, padded so that the final shape always fits
_MAGIC = b"\x93NUMPY\x01\x00"


def require_npy(path: str | Path) -> None:
    """Raise UsageError for a name, or an address, that does not end as a NumPy file does."""
    if not str(path).endswith(".npy"):
        raise UsageError(f"--embeddings writes a NumPy file: '{path}' must end in .npy.")


class EmbeddingFile:
    """A `.npy` file, float32 [rows, D]: row i belongs to row i of the output; NaN where an input failed.

    D becomes known with the first embedding. The shape in the header is 0 rows until `finish`.
    Raises UsageError when the file exists and may not be replaced.
    """

    def __init__(self, path: Path, existing: Existing) -> None:
        require_npy(path)
        if path.is_dir() or not path.parent.is_dir():
            raise UsageError(f"'{path}' is a folder." if path.is_dir() else f"There is no folder '{path.parent}'.")
        if path.exists() and existing not in ("resume", "overwrite"):
            raise UsageError(f"'{path}' exists: --overwrite replaces it.")
        self.path = path
        self._rows = 0
        self._width: int | None = None
        self._file: IO[bytes] | None = None

    def begin(self, rows: int) -> None:
        """Open the file with the first `rows` rows kept; raises Miil21kError when it holds fewer."""
        self._rows = rows
        if not rows or not self.path.exists():
            self._file = self.path.open("wb", buffering=0)
            return
        with self.path.open("rb") as file:
            head = file.read(HEADER)
        self._width = (_shape(head, self.path)[1] or None) if head else None
        size = 0 if self._width is None else HEADER + rows * self._width * 4
        if self.path.stat().st_size < size:
            raise Miil21kError(f"'{self.path}' holds fewer than {rows} embeddings: start again with --overwrite.")
        self._file = self.path.open("r+b", buffering=0)
        if self._width is not None:
            self._put(_header(0, self._width))  # what an earlier run finished is open again
        self._file.truncate(size)
        self._file.seek(size)

    def write(self, embedding: NDArray[np.float32] | None) -> None:
        """Append one row; None, for an input that failed, becomes NaN."""
        assert self._file is not None
        if embedding is not None and self._width is None:
            self._width = embedding.size
            self._put(_header(0, self._width))
            self._put(np.full(self._rows * self._width, np.nan, "<f4").tobytes())
        self._rows += 1
        if self._width is not None:
            row = np.full(self._width, np.nan, "<f4") if embedding is None else embedding.astype("<f4", copy=False)
            self._put(row.tobytes())

    def _put(self, data: bytes) -> None:
        assert self._file is not None
        view = memoryview(data)
        with naming(self.path):
            while view:
                view = view[self._file.write(view) :]

    def finish(self) -> None:
        """Write the final shape and close; with no embedding at all D is 0."""
        assert self._file is not None
        self._file.seek(0)
        self._put(_header(self._rows, self._width or 0))
        with naming(self.path):
            os.fsync(self._file.fileno())
            self._file.close()

    def require(self, rows: int) -> None:
        """Raise UsageError unless the file is there, finished, with that many rows."""
        found = 0
        if self.path.exists():
            with self.path.open("rb") as file:
                found = _shape(file.read(HEADER), self.path)[0]
        if found != rows:
            raise UsageError(
                f"The rows are complete, but '{self.path}' holds {found} embeddings of {rows}: start again with "
                "--overwrite."
            )

    def abandon(self) -> None:
        """Close an interrupted file as it is; it can be resumed."""
        if self._file is not None:
            self._file.close()


def _header(rows: int, width: int) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}"
    return _MAGIC + (HEADER - 10).to_bytes(2, "little") + text.ljust(HEADER - 11).encode() + b"\n"


def _shape(head: bytes, path: Path) -> tuple[int, int]:
    import ast

    try:
        described: dict[str, Any] = ast.literal_eval(head[10:].decode())
        rows, width = described["shape"]
        return int(rows), int(width)
    except (ValueError, SyntaxError, KeyError, TypeError):
        raise Miil21kError(f"'{path}' was not begun by --embeddings: start again with --overwrite.") from None
