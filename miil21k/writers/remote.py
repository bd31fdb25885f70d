"""Files for an object store: written here first, and put there whole at the end, for a store takes whole objects."""

from __future__ import annotations

import logging
import shutil
import tempfile
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.data.cloud import is_remote, put_remote, remote_exists
from miil21k.errors import ImageError, UsageError
from miil21k.files import temporary_folder
from miil21k.writers.embeddings import EmbeddingFile, require_npy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miil21k.writers.layouts import DoneRow
    from miil21k.writers.output import Existing, Output
    from miil21k.writers.rows import Row

__all__ = ["RemoteEmbeddings", "RemoteFile", "open_embeddings"]

log = logging.getLogger("miil21k.predict")


class _Upload:
    """A file that is written at `here`, and put at an address that fsspec writes once it is whole.

    existing: what to do when something is at the address. Raises UsageError when that is `refuse` and something is
    there, and for `resume` and `append`, and ImageError when the store cannot be asked.
    """

    def __init__(self, address: str, existing: Existing) -> None:
        if existing in ("resume", "append"):
            raise UsageError(f"'{address}' is put there whole, at the end: --{existing} needs a file of this machine.")
        if existing == "refuse" and remote_exists(address):
            raise UsageError(f"'{address}' exists: --overwrite replaces it.")
        self._address = address
        held = ExitStack()
        self.here: Path = held.enter_context(temporary_folder("miil21k-rows")) / address.rpartition("/")[2]
        self._remove = weakref.finalize(self, held.close)  # at the latest when the process ends

    def put(self, what: str) -> None:
        """Put the file where it belongs; what does not arrive stays on this machine, and a message says where."""
        try:
            put_remote(self.here, self._address)
        except (ImageError, KeyboardInterrupt) as error:
            kept = shutil.move(self.here, tempfile.mkdtemp(prefix="miil21k-kept-"))
            told = f"The {what} are complete, and kept in '{kept}'."
            if isinstance(error, KeyboardInterrupt):
                log.warning("%s", told)
                raise
            raise ImageError(f"{error} {told}") from None
        finally:
            self._remove()


def open_embeddings(path: str | Path, existing: Existing) -> EmbeddingFile:
    """Return the file of embeddings at a path of this machine, or at an address that fsspec writes.

    Raises what `EmbeddingFile` and `RemoteEmbeddings` raise.
    """
    return RemoteEmbeddings(str(path), existing) if is_remote(str(path)) else EmbeddingFile(Path(path), existing)


class RemoteEmbeddings(EmbeddingFile):
    """Embeddings at an address; nothing is there before `finish` has ended well.

    Arguments and errors are those of `RemoteFile`; UsageError for an address that does not end in .npy.
    """

    def __init__(self, path: str, existing: Existing) -> None:
        require_npy(path)
        self._upload = _Upload(path, existing)
        super().__init__(self._upload.here, "overwrite")

    def finish(self) -> None:
        """Write the final shape, close, and put the file where it belongs."""
        super().finish()
        self._upload.put("embeddings")


class RemoteFile:
    """An `Output` at an address that fsspec writes; nothing is there before `settle` has ended well.

    path: the address. open_here: opens the same output at a path of this machine. existing: what to do when something
    is there. Raises UsageError when that is `refuse` and something is there, and for `resume` and `append`, and
    ImageError when the store cannot be asked or written.
    """

    complete = lasting = False

    def __init__(self, path: str, open_here: Callable[[Path], Output], existing: Existing) -> None:
        self.path = path
        self._upload = _Upload(path, existing)
        self._output = open_here(self._upload.here)

    def begun_with(self) -> dict[str, Any] | None:
        """Return None: nothing is gone on with."""
        return None

    def rows(self) -> Iterator[DoneRow]:
        """Yield nothing."""
        return iter(())

    def keep(self, end: int) -> None:
        """Go on behind the row that ends at `end`: before the first."""
        assert end == 0

    def begin(self, origin: dict[str, Any]) -> None:
        """Open the file here."""
        self._output.begin(origin)

    def write(self, row: Row) -> None:
        """Write one row, here."""
        self._output.write(row)

    def finish(self) -> None:
        """Write what follows the last row, here."""
        self._output.finish()

    def settle(self) -> None:
        """Put the file where it belongs; what the store refuses stays on this machine, and the error says where."""
        self._output.settle()
        self._upload.put("rows")

    def abandon(self) -> None:
        """Close an interrupted output, of which nothing is kept; does nothing to a finished one."""
        self._output.abandon()
