"""What lies in folders: the entries of one, for every verb, and the images of class folders."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.data.names import Names
from miil21k.data.opening import read_file
from miil21k.errors import UsageError
from miil21k.suffixes import JUNK_FOLDERS, PassedOver, document_suffixes, image_suffixes, suffix_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Entries", "FolderSource", "Identity", "entries_of", "identity_of", "part_folders"]

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


def entries_of(
    folder: str, passed: PassedOver, *, folders: bool = True, shards: bool = False, documents: bool = False
) -> Entries:
    """Return what `folder` holds; hidden entries are left out, and what is no picture is counted in `passed`.

    folders: subfolders too, without those that systems make. shards: files that end in `.tar` too. documents: files
    too that hold pages or frames. A link that leads nowhere, or to itself, counts as a file by its name.
    """
    wanted = image_suffixes()
    if shards:
        wanted = wanted | {".tar"}
    if documents:
        wanted = wanted | document_suffixes()
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
    Raises UsageError when there are no images, or a folder cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.called = "class folders"
        self.label_sets, self.weights = None, None
        self.passed = PassedOver(single=True)
        folders = sorted(_class_folders(str(root), ".", self.passed, ()), key=lambda found: os.fsencode(found[0]))
        if not folders:
            seen = self.passed.sentence()
            raise UsageError(
                f"No images below '{root}': expected one folder per class, {root}/<wnid>/<image>."
                + (f" {seen}." if seen else "")
            )
        self.keys: tuple[str, ...] = tuple(key for key, _ in folders)
        counts = [len(names) for _, names in folders]
        self.key_of: NDArray[np.int32] = np.repeat(np.arange(len(folders), dtype=np.int32), counts)
        self._names = Names(name for _, names in folders for name in names)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the path of image `index` relative to the root, `/` between parts."""
        key = self.keys[self.key_of[index]]
        return f"{key}/{self._names[index]}" if key != "." else self._names[index]

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


def part_folders(root: Path) -> dict[str, Path]:
    """Return the folders in `root` that are the parts of a data set, each with classes or shards of its own, by name.

    They are called `train`, `val`, `test` or the like, all of them, and are several, or hold shards; else there are
    none, and a folder of such a name is a class of things.
    """
    names = entries_of(str(root), PassedOver()).names
    if not names or not _PARTS.issuperset(names):
        return {}
    inside = {name: entries_of(f"{root}/{name}", PassedOver(), shards=True) for name in names}
    shards = any(suffix_of(name) == ".tar" for each in inside.values() for name in each.names)
    if len(inside) == 1 and not shards:
        return {}
    if any(suffix_of(name) in image_suffixes() for each in inside.values() for name in each.names):
        return {}
    return {name: root / name for name in inside}
