"""What lies in folders: the entries of one, for every verb, and the images of class folders."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.data.images import read_file
from miil21k.errors import UsageError
from miil21k.suffixes import JUNK_FOLDERS, PassedOver, image_suffixes, suffix_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Entries", "FolderSource", "Identity", "entries_of", "identity_of"]

Identity = tuple[int, int]
# Folders of these names, side by side, are the parts of a data set and no classes.
_PARTS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


class Entries(NamedTuple):
    """names: of images (and shards), and of subfolders, in bytewise order. folders: which of them are subfolders.

    fault: why the folder could not be read to its end; empty when it was.
    """

    names: list[str]
    folders: frozenset[str]
    fault: str


def entries_of(folder: str, passed: PassedOver, *, folders: bool = True, shards: bool = False) -> Entries:
    """Return what `folder` holds; hidden entries are left out, and what is no picture is counted in `passed`.

    folders: subfolders too, without those that systems make. shards: files that end in `.tar` too. A link that leads
    nowhere, or to itself, counts as a file by its name.
    """
    wanted = image_suffixes() | {".tar"} if shards else image_suffixes()
    files, below, fault = [], [], ""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    if folders and entry.name in JUNK_FOLDERS:
                        passed.add_folder(entry.name)
                    elif folders:
                        below.append(entry.name)
                elif suffix_of(entry.name) in wanted:
                    files.append(entry.name)
                else:
                    passed.add(entry.name)
    except OSError as error:
        fault = error.strerror or str(error)
    return Entries(sorted([*files, *below], key=os.fsencode), frozenset(below), fault)


def identity_of(folder: str) -> Identity:
    """Return what tells a folder from all others, by whatever name; raises OSError when it went away."""
    status = os.stat(folder)  # noqa: PTH116 - a name as the user spelled it
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


class FolderSource:
    """The images below `root`, folder by folder and file by file in bytewise order (never the locale's).

    Every folder that holds images directly is a class, at any depth; a link back to a folder around it is left out.
    keys: the class folders relative to `root`, `/` between parts, sorted bytewise; for nested folders `animal/dog`.
    key_of: int32 [N], the place of each image's folder in `keys`. passed: what lies there and is no picture.
    Eleven million names take about 0.5 GB, shared by all loader processes.
    Raises UsageError when there are no images, a folder cannot be read, or `root` holds `train` and `val`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.passed = PassedOver()
        folders = sorted(_class_folders(str(root), ".", self.passed, ()), key=lambda found: os.fsencode(found[0]))
        _refuse_parts(root, [key for key, _ in folders])
        if not folders:
            seen = self.passed.sentence()
            raise UsageError(
                f"No images below '{root}': expected one folder per class, {root}/<wnid>/<image>."
                + (f" {seen}." if seen else "")
            )
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
        """Return the bytes of image `index`; raises ImageError when it is no regular file, or cannot be read."""
        name = self.name(index)
        return read_file(self.root / name, name)


def _class_folders(
    folder: str, key: str, passed: PassedOver, above: tuple[Identity, ...]
) -> Iterator[tuple[str, list[bytes]]]:
    """Yield (folder relative to the root, its image names as bytes, sorted) for every folder that holds images."""
    found = entries_of(folder, passed)
    if found.fault:
        raise UsageError(f"The folder '{folder}' cannot be read: {found.fault}.")
    images = [os.fsencode(name) for name in found.names if name not in found.folders]
    if images:
        yield key, images
    here = (*above, identity_of(folder))
    for name in found.names:
        below = f"{folder}/{name}"
        if name in found.folders and identity_of(below) not in here:
            yield from _class_folders(below, name if key == "." else f"{key}/{name}", passed, here)


def _refuse_parts(root: Path, keys: list[str]) -> None:
    """Raise UsageError when the folders in `root` are the parts of a data set, each with classes of its own."""
    if keys:
        parts = {key.partition("/")[0] for key in keys if "/" in key} if all("/" in key for key in keys) else set()
    else:
        parts = {path.parent.name for path in root.glob("*/*.tar") if path.parent.name in _PARTS}
    if parts and parts <= _PARTS and (len(parts) > 1 or not keys):
        names = sorted(parts)
        raise UsageError(
            f"'{root}' holds {' and '.join(names)}, the parts of a data set: give one of them, such as "
            f"'{root / ('train' if 'train' in parts else names[0])}'."
        )
