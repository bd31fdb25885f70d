"""One run at a time writes an output."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from filelock import FileLock

__all__ = ["lock_path", "locked"]


def lock_path(output: Path) -> Path:
    """Return the file beside `output` that a run holds while it writes; a killed run leaves it, but no longer held."""
    return output.with_name(f"{output.name}.lock")


@contextmanager
def locked(outputs: Iterable[str | Path]) -> Iterator[None]:
    """Keep other runs from writing `outputs` while the context is open.

    An output whose folder does not exist is left to whoever opens it. Raises UsageError when another run holds one.
    """
    if not (wanted := list(outputs)):
        yield
        return
    from filelock import FileLock, Timeout

    with ExitStack() as held:
        for output in wanted:
            path = lock_path(Path(output))
            if not path.parent.is_dir():
                continue
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise UsageError(
                    f"Another run is writing '{output}': wait for it, stop it, or give another output."
                ) from None
            held.callback(_release, lock, path)
        yield


def _release(lock: FileLock, path: Path) -> None:
    with suppress(OSError):  # Windows removes no open file; filelock does it there after the release
        path.unlink()  # while it is held: whoever waits for it notices that it went away
    lock.release()
