"""Files and folders that are seen whole or not at all, and one lock for all that only one process may do.

What is being written bears a name that begins with a dot and holds `.part`, and is locked by the process that writes
it. The system drops the lock when that process ends, however it ends: so `sweep` knows what a kill has left.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from filelock import BaseFileLock

__all__ = ["Lock", "atomic", "atomic_folder", "replace_file", "scratch_folder", "sweep", "temporary_folder"]

_PART = re.compile(r"\..+\.[0-9a-f]{8}\.part(\.[^.]*)?")
_KEPT = 40  # characters of a name that the name of its part repeats: file systems allow 255 bytes


@contextmanager
def atomic(path: Path, *, parents: bool = False) -> Iterator[Path]:
    """Yield the path of a new, empty file beside `path`, which takes the place of `path` when the block has ended well.

    The file reaches the disk before it is renamed: a reader, or a run that goes on after a crash, finds the old file
    or the whole new one. An exception in the block removes it. The suffix stays, since libraries read formats from
    it; the mode is what the umask allows. parents: make the folders that are missing. Raises OSError.
    """
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    part, held = _new_part(path)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        if os.name == "nt":  # no open file is renamed there
            held.close()
        part.replace(path)
    finally:
        held.close()
        part.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes | str, *, parents: bool = False) -> None:
    """Put `content` (text as UTF-8) at `path` as `atomic` does. Raises OSError."""
    with atomic(path, parents=parents) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yield a new, empty folder in `parent`, which is made if missing; the folder goes when the block ends.

    name: what its name begins with, behind a dot. Raises OSError.
    """
    import shutil

    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = parent / _part_name(name, "")
        folder.mkdir()
        held = _hold_folder(folder)
        if folder.exists():  # else it was swept before it was held
            break
        _release_folder(held)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _release_folder(held)


@contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """Yield a new, empty folder of this user alone where temporary files go; it goes when the block ends.

    name: what it is for; what killed processes left under it is swept first. Raises OSError.
    """
    import tempfile

    shared = Path(tempfile.gettempdir())
    sweep(shared, name=name)
    with scratch_folder(shared, name) as folder:
        folder.chmod(0o700)
        yield folder


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes the place of `path` when the block has ended well.

    An exception removes it, and what was at `path` stays. The folder above is made if missing. Raises OSError.
    """
    with scratch_folder(path.parent, path.name) as part:
        yield part
        with scratch_folder(path.parent, path.name) as old:  # what was there goes with this folder
            aside = old / path.name
            if path.exists():
                path.rename(aside)
            try:
                part.rename(path)
            except OSError:
                if aside.exists():
                    aside.rename(path)
                raise


def sweep(folder: Path, *, name: str = "", remove: bool = True) -> list[Path]:
    """Remove what killed processes left unfinished in `folder`, and return it; what a living one writes stays.

    Looks at `folder` itself, not below. name: only what was made under it, in a folder that others use as well.
    remove: else only look. Where a file system knows no locks, and for folders
    on Windows, nobody can tell, and nothing is removed. A folder that is not there holds nothing.
    """
    import shutil

    found = []
    with suppress(OSError):
        for path in sorted(entry for entry in folder.iterdir() if _PART.fullmatch(entry.name)):
            if name and not path.name.startswith(_part_stem(name)):
                continue
            with suppress(OSError):  # held, or gone meanwhile
                if path.is_dir() and not path.is_symlink():
                    held = _hold_folder(path, needed=True)
                    if remove:
                        shutil.rmtree(path)
                    _release_folder(held)
                else:
                    with path.open("rb+") as file:
                        _hold(file.fileno())
                        if remove and os.name != "nt":
                            path.unlink()
                    if remove and os.name == "nt":
                        path.unlink()  # refused for what is open elsewhere
                found.append(path)
    return found


class Lock:
    """One process, and one thread of it, at a time: `with Lock(path): ...`.

    path: the file to hold; its folder is made if missing. busy: the sentence of the UsageError that is raised when
    another one holds it; without one, the lock waits. keep: whether the file stays afterwards.
    A killed process holds nothing, though its file stays. Raises OSError where the file cannot be written.
    """

    def __init__(self, path: Path, *, busy: str | None = None, keep: bool = True) -> None:
        self.path = path
        self._busy = busy
        self._keep = keep
        self._lock: BaseFileLock | None = None

    def __repr__(self) -> str:
        return f"Lock({str(self.path)!r})"

    def __enter__(self) -> Lock:
        from filelock import FileLock, Timeout

        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path)
        try:
            lock.acquire(timeout=-1 if self._busy is None else 0)
        except Timeout:
            if not self.path.exists():  # nobody holds it: making it raises what is in the way
                self.path.touch()
            raise UsageError(self._busy or "") from None
        self._lock = lock
        return self

    def __exit__(self, *_: object) -> None:
        assert self._lock is not None
        if not self._keep:
            with suppress(OSError):  # Windows removes no open file
                self.path.unlink()  # while it is held: whoever waits for it notices that it went away
        self._lock.release()
        self._lock = None


def _part_name(stem: str, suffix: str) -> str:
    return f"{_part_stem(stem)}{os.urandom(4).hex()}.part{suffix}"


def _part_stem(stem: str) -> str:
    return f".{stem[:_KEPT]}."


def _new_part(path: Path) -> tuple[Path, IO[bytes]]:
    """Return a new file beside `path`, and the open file that holds its lock."""
    while True:
        part = path.with_name(_part_name(path.stem, path.suffix))
        held = part.open("xb")
        try:
            _hold(held.fileno())
        except BlockingIOError:  # it is being swept
            held.close()
            continue
        except OSError:  # a file system without locks
            return part, held
        if part.exists():  # else it was swept before it was held
            return part, held
        held.close()


def _hold(descriptor: int) -> None:
    """Lock an open file or folder; raises BlockingIOError when another one holds it, OSError where that is unknown."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _hold_folder(folder: Path, *, needed: bool = False) -> int | None:
    """Return the descriptor that holds the folder, None where that cannot be; needed: then raise OSError."""
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        _hold(descriptor)
    except OSError:
        if needed:
            _release_folder(descriptor)
            raise
    return descriptor


def _release_folder(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
