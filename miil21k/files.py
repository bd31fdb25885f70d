"""Files that are seen whole or not at all."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["replace_file", "replacing"]


@contextmanager
def replacing(path: Path, *, parents: bool = False) -> Iterator[Path]:
    """Yield the path of a new file beside `path`, which takes the place of `path` when the block has ended well.

    The file reaches the disk before it is renamed: a reader, or a run that goes on after a crash, finds the old file
    or the whole new one. An exception in the block removes it. The suffix stays, since libraries read formats from
    it. parents: make the folders that are missing. Raises OSError.
    """
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}.part{path.suffix}")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes | str, *, parents: bool = False) -> None:
    """Put `content` (text as UTF-8) at `path` as `replacing` does. Raises OSError."""
    with replacing(path, parents=parents) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
