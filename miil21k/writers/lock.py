"""One run at a time writes an output."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.files import Lock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["lock_path", "locked"]


def lock_path(output: Path) -> Path:
    """Return the file beside `output` that a run holds while it writes; a killed run leaves it, but no longer held."""
    return output.with_name(f"{output.name}.lock")


@contextmanager
def locked(outputs: Iterable[str | Path]) -> Iterator[None]:
    """Keep other runs from writing `outputs` while the context is open.

    An output whose folder does not exist is left to whoever opens it. Raises UsageError when another run holds one.
    """
    with ExitStack() as held:
        for output in outputs:
            path = lock_path(Path(output))
            if path.parent.is_dir():
                busy = f"Another run is writing '{output}': wait for it, stop it, or give another output."
                held.enter_context(Lock(path, busy=busy, keep=False))
        yield
