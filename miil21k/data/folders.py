"""Images in class folders: every folder that holds images directly is a class, at any depth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from miil21k.errors import UsageError
from miil21k.hierarchy.custom import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["FolderSource"]


class FolderSource:
    """The images below `root`, folder by folder and file by file in bytewise order (never the locale's).

    keys: the class folders relative to `root`, `/` between parts, sorted bytewise; for nested folders `animal/dog`.
    key_of: int32 [N], the place of each image's folder in `keys`. Hidden files and folders are left out.
    Eleven million names take about 0.5 GB, shared by all loader processes.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        folders = sorted(_class_folders(root), key=lambda found: os.fsencode(found[0]))
        if not folders:
            raise UsageError(f"No images below '{root}': expected one folder per class, {root}/<wnid>/<image>.")
        self.keys: tuple[str, ...] = tuple(key for key, _ in folders)
        counts = [len(names) for _, names in folders]
        self.key_of: NDArray[np.int32] = np.repeat(np.arange(len(folders), dtype=np.int32), counts)
        encoded = [name for _, names in folders for name in names]
        self._ends = np.cumsum([len(name) for name in encoded])
        self._names = b"".join(encoded)

    def __len__(self) -> int:
        return int(self._ends.size)

    def name(self, index: int) -> str:
        """Return the path of image `index` relative to the root, `/` between parts."""
        start = int(self._ends[index - 1]) if index else 0
        file = os.fsdecode(self._names[start : int(self._ends[index])])
        key = self.keys[self.key_of[index]]
        return f"{key}/{file}" if key != "." else file

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`; raises OSError when the file cannot be read."""
        return (self.root / self.name(index)).read_bytes()


def _class_folders(root: Path) -> Iterator[tuple[str, list[bytes]]]:
    """Yield (folder relative to root, its image names as bytes, sorted) for every folder that holds images."""
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        images = sorted(
            os.fsencode(name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122
        )
        if images:
            yield Path(folder).relative_to(root).as_posix(), images
