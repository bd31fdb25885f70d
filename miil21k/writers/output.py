"""A file of rows that survives a kill: whole rows as they come, and a note beside it that says how to go on.

While a run is unfinished, `<output>.resume.json` holds the options it was started with and the byte at which its
rows begin. It disappears when the run is complete, after every other output of the run was closed.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from miil21k.errors import Miil21kError, UsageError
from miil21k.files import replace_file
from miil21k.records import read_json
from miil21k.writers.layouts import utf8_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import IO

    from miil21k.data.images import ImageInput
    from miil21k.writers.layouts import DoneRow, Layout
    from miil21k.writers.rows import Row

__all__ = [
    "Existing",
    "Output",
    "RowFile",
    "RowStream",
    "RowsDone",
    "already_done",
    "naming",
    "note_path",
    "same_options",
]

Existing = Literal["refuse", "resume", "append", "overwrite"]
NOTE_SCHEMA = 1


def note_path(path: Path) -> Path:
    """Return where the note of an unfinished output is kept."""
    return path.with_name(f"{path.name}.resume.json")


class RowStream:
    """Rows to an open binary stream (standard output), flushed one by one."""

    def __init__(self, stream: IO[bytes], layout: Layout) -> None:
        self._stream = stream
        self._layout = layout
        self._between = b""
        self._put(layout.header)

    def write(self, row: Row) -> None:
        """Write one row and flush."""
        self._put(self._between + self._layout.encode(row))
        self._between = self._layout.separator

    def finish(self) -> None:
        """Write what follows the last row."""
        self._put(self._layout.footer)

    def _put(self, data: bytes) -> None:
        if data:
            self._stream.write(data)
            self._stream.flush()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError of what is written in this context (a full disk, a quota) name the file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


class Output(Protocol):
    """A file of rows that can be gone on with after a kill.

    complete: an earlier run has finished it. lasting: what was written is there after a kill, and can be gone on with.
    """

    complete: bool
    lasting: bool

    @property
    def path(self) -> str | Path:
        """The output."""
        ...

    def begun_with(self) -> dict[str, Any] | None:
        """Return what computed the rows that an interrupted run left, as `begin` was told; None without any."""
        ...

    def rows(self) -> Iterator[DoneRow]:
        """Yield the whole rows that an earlier run left."""
        ...

    def keep(self, end: int) -> None:
        """Go on behind the row that ends at `end`, 0 for before the first."""
        ...

    def begin(self, origin: dict[str, Any]) -> None:
        """Open the file behind the rows that are kept; raises UsageError when something else computed them."""
        ...

    def write(self, row: Row) -> None:
        """Write one row; a kill does not undo it."""
        ...

    def finish(self) -> None:
        """Write what follows the last row; the output is whole, and still marked as unfinished."""
        ...

    def settle(self) -> None:
        """Take the mark away, once everything else that belongs to the run is closed."""
        ...

    def abandon(self) -> None:
        """Close an interrupted output after its last whole row; does nothing when it is closed."""
        ...


class RowFile:
    """Rows to a file that can be gone on with after a kill.

    path: the output. layout: how rows are written. options: what the rows depend on, as JSON values; a resumed run
    must have the same. existing: what to do when `path` exists.
    Construction only looks; the first byte is written by `begin`.
    Raises UsageError when `path` exists and `existing` is `refuse`, when there is nothing that could be resumed, or
    when the options differ; `MissingExtra` and the like belong to the layout.
    """

    lasting = True

    def __init__(self, path: Path, layout: Layout, options: dict[str, Any], existing: Existing) -> None:
        self.path = path
        self._layout = layout
        self._options = json.loads(json.dumps(options))
        self._file: IO[bytes] | None = None
        self._between = b""
        self._start = self._end = 0
        self.complete = False
        if path.is_dir() or not path.parent.is_dir():
            raise UsageError(f"'{path}' is a folder." if path.is_dir() else f"There is no folder '{path.parent}'.")
        self._existing: Existing = existing if path.exists() else "overwrite"
        self._check(existing)

    def _check(self, existing: Existing) -> None:
        note = self._note()
        if not self.path.exists():
            return
        if existing == "refuse":
            way = "--resume goes on with it, " if note else ""
            raise UsageError(
                f"'{self.path}' exists{' from an unfinished run' if note else ''}: {way}--overwrite replaces it, "
                "--append adds to it."
            )
        if existing == "append" and note:
            raise UsageError(f"'{self.path}' is from an unfinished run: finish it with --resume, then --append.")
        if existing == "resume":
            self.complete = note is None
            self._start = len(self._layout.header) if note is None else note["start"]
            if note is not None:
                same_options(self.path, note["options"], self._options)

    def _note(self) -> dict[str, Any] | None:
        path = note_path(self.path)
        try:
            note: dict[str, Any] = read_json(path)
            known = note["schema"] == NOTE_SCHEMA
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise Miil21kError(f"'{path}' is damaged: remove it and start again with --overwrite.")
        return note

    def begun_with(self) -> dict[str, Any] | None:
        """Return what computed the rows that an interrupted run left, as `begin` was told; None without any."""
        note = self._note() if self._existing == "resume" else None
        return None if note is None else dict(note["run"])

    def rows(self) -> Iterator[DoneRow]:
        """Yield the whole rows that an earlier run left; empty unless resuming."""
        if self._existing != "resume":
            return
        with self.path.open("rb") as file:
            head = file.read(len(self._layout.header))
            if head != self._layout.header:
                if not self._layout.header.startswith(head):
                    raise UsageError(f"'{self.path}' does not begin as this output would: the columns differ.")
                self._existing = "overwrite"  # killed before the header was whole
                return
            yield from self._layout.scan(file, self._start)

    def keep(self, end: int) -> None:
        """Go on at byte `end`, the end of a row, or 0 for before the first; rows behind it are written again."""
        self._end = max(end, self._start)

    def begin(self, origin: dict[str, Any]) -> None:
        """Open the file and make it end after the rows that are kept.

        origin: what computed the rows (model, device, ...), as JSON values. Raises UsageError when the interrupted run
        was computed by something else.
        """
        note = self._note() if self._existing == "resume" else None
        if note is not None:
            same_options(self.path, note["run"], origin)
        header = self._layout.header
        fresh = self._existing == "overwrite"
        if fresh:
            self._start = self._end = len(header)
        elif self._existing == "append":
            self._start = self._end = self._append_at()
        note = {"schema": NOTE_SCHEMA, "start": self._start, "options": self._options, "run": origin}
        # The note comes first: a kill in between leaves an output that says how to go on.
        replace_file(note_path(self.path), json.dumps(note, indent=1))
        self._file = self.path.open("wb" if fresh else "r+b", buffering=0)
        if fresh:
            self._put(header)
        self._file.seek(self._end)
        self._file.truncate()
        self._between = self._layout.separator if self._end > len(header) else b""

    def appending(self) -> RowFile:
        """Return the same output, to be begun behind the rows that it has now."""
        return RowFile(self.path, self._layout, self._options, "append")

    def _append_at(self) -> int:
        """Return where the rows of a complete file end."""
        layout = self._layout
        with self.path.open("rb") as file:
            if file.read(len(layout.header)) != layout.header:
                raise UsageError(f"'{self.path}' does not begin as this output would: --append needs the same columns.")
            end = len(layout.header)
            for row in layout.scan(file, end):
                end = row.end
            return end

    def write(self, row: Row) -> None:
        """Write one row; it is in the file, for every other process, when this returns."""
        assert self._file is not None
        data = self._between + self._layout.encode(row)
        self._put(data)
        self._end += len(data)
        self._between = self._layout.separator

    def _put(self, data: bytes) -> None:
        assert self._file is not None
        view = memoryview(data)
        with naming(self.path):
            while view:
                view = view[self._file.write(view) :]

    def finish(self) -> None:
        """Write what follows the last row; the note stays until `settle`."""
        assert self._file is not None
        self._put(self._layout.footer)
        with naming(self.path):
            os.fsync(self._file.fileno())
            self._file.close()

    def settle(self) -> None:
        """Remove the note: the output, and all that belongs to it, is complete."""
        note_path(self.path).unlink(missing_ok=True)

    def abandon(self) -> None:
        """Close an interrupted output after its last whole row; it can be resumed."""
        if self._file is not None and not self._file.closed:
            with suppress(OSError):
                self._file.truncate(self._end)
            self._file.close()


def same_options(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UsageError, which names the first one that differs, unless `path` was begun with the options of now."""
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            raise UsageError(
                f"'{path}' was begun with {name} = {before.get(name)!r}, this run has {now.get(name)!r}: "
                "use the same options, or --overwrite."
            )


class RowsDone(NamedTuple):
    """A point of a run: inputs consumed, rows written, inputs that failed, and the byte where the rows end."""

    inputs: int
    rows: int
    failed: int
    end: int


def already_done(
    rows: Iterable[DoneRow], inputs: Iterator[ImageInput], *, skips: bool, chunk: int, path: str | Path
) -> tuple[RowsDone, RowsDone]:
    """Return how far an output reaches, and the last beginning of a batch before that, where a run can go on.

    rows: the rows of the output. inputs: those of this run, consumed as far as the rows reach.
    skips: whether failed inputs leave no row. chunk: inputs per batch; the last digits of a probability depend on
    what shares its batch, so the rows of a broken batch are computed again.
    Raises UsageError when the rows are not a prefix of what this run would write.
    """
    now = aligned = RowsDone(0, 0, 0, 0)
    in_batch = 0

    def following() -> str | None:
        """Take the next input as failed, to be corrected by who knows better; return its name."""
        nonlocal now, aligned, in_batch
        item = next(inputs, None)
        if item is None:
            return None
        if item.new_batch or in_batch == chunk:
            aligned, in_batch = now, 0
        in_batch += 1
        now = now._replace(inputs=now.inputs + 1, failed=now.failed + 1)
        return utf8_text(item.name)

    for row in rows:
        wanted = utf8_text(row.input)
        name = following()
        while skips and name is not None and name != wanted:
            name = following()
        if name != wanted:
            found = "the inputs end before it" if name is None else f"the input there is now '{name}'"
            raise UsageError(
                f"Row {now.rows + 1} of '{path}' is '{wanted}', but {found}: resume with the same inputs, "
                "or --overwrite."
            )
        now = RowsDone(now.inputs, now.rows + 1, now.failed - row.ok, row.end)
    return now, now if in_batch == chunk else aligned
