"""Images in tar shards of the WebDataset layout, read by offset so that any image can be had at any time.

A sample is `<key>.jpg` (any image format) with `<key>.cls` (a text file that holds the wnid) or `<key>.json` (with
the wnid under `wnid`, `class_id` or `synset`). Random access makes shuffling, resuming and splitting over processes
the same as for folders; the shards must lie on a file system, not behind a pipe.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
import zipfile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.errors import UsageError
from miil21k.files import atomic
from miil21k.hierarchy.custom import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["ShardIndex", "ShardSource", "index_shard"]

LABEL_FIELDS = ("wnid", "class_id", "synset")


class ShardIndex(NamedTuple):
    """Where the images of one shard lie: `names` UTF-8 bytes [N], `keys` (class keys) str [N], and int64 [N]."""

    names: NDArray[np.bytes_]
    keys: NDArray[np.str_]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]


def index_shard(path: Path, cache: Path | None = None) -> ShardIndex:
    """Return the index of the shard at `path`, from the folder `cache` when this very file was indexed before.

    Raises UsageError when the file is no tar file, or an image in it has no label, or a label that is no wnid.
    """
    stat = path.stat()
    stamp = f"{path.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}"
    stored = cache / f"{hashlib.sha256(stamp.encode()).hexdigest()[:32]}.npz" if cache else None
    if stored is not None and stored.exists():
        try:
            with np.load(stored, allow_pickle=False) as arrays:
                return ShardIndex(*(arrays[field] for field in ShardIndex._fields))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            stored.unlink(missing_ok=True)  # a damaged index is rebuilt
    index = _scan(path)
    if stored is not None:
        with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
            _store(stored, index)
    return index


def _store(path: Path, index: ShardIndex) -> None:
    with atomic(path, parents=True) as part, part.open("wb") as file:
        np.savez(file, **index._asdict())


def _scan(path: Path) -> ShardIndex:
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                suffix = suffix.lower()
                if f".{suffix}" in IMAGE_SUFFIXES:
                    images[key] = (member.name, member.offset_data, member.size)
                elif suffix == "cls" or (suffix == "json" and key not in labels):
                    content = archive.extractfile(member)
                    wnid = _label(content.read() if content else b"", suffix)
                    if wnid:
                        labels[key] = wnid
    except tarfile.TarError as error:
        raise UsageError(f"'{path}' is not a plain tar file ({error}); shards are uncompressed .tar files.") from None
    for key, (name, _, _) in images.items():
        _check_label(path, name, labels.get(key, ""))
    found = list(images.values())
    return ShardIndex(
        np.array([name.encode() for name, _, _ in found], dtype=np.bytes_),
        np.array([labels[key] for key in images], dtype=np.str_),
        np.array([offset for _, offset, _ in found], dtype=np.int64),
        np.array([size for _, _, size in found], dtype=np.int64),
    )


def _label(content: bytes, suffix: str) -> str:
    text = content.decode("utf-8", errors="replace").strip()
    if suffix == "cls":
        return text
    try:
        fields = json.loads(text)
    except ValueError:
        return ""
    if not isinstance(fields, dict):
        return ""
    return next((str(fields[name]) for name in LABEL_FIELDS if fields.get(name)), "")


def _check_label(path: Path, name: str, label: str) -> None:
    if not label:
        raise UsageError(
            f"'{name}' in {path} has no label: beside it must lie a .cls with the wnid, or a .json with 'wnid'."
        )
    if label.isdecimal():
        raise UsageError(
            f"'{name}' in {path} is labelled by the index {label}, which does not say in which label space; "
            "write the wnid into the .cls file, or as 'wnid' into the .json file."
        )


class ShardSource:
    """The images of tar shards, in the order of the shards and then of the files in them.

    keys: the class keys found, sorted bytewise. key_of: int32 [N], the place of each image's key in `keys`.
    """

    def __init__(self, shards: Sequence[Path], cache: Path | None = None) -> None:
        self.shards = tuple(shards)
        indices = [index_shard(path, cache) for path in self.shards]
        self._counts = np.cumsum([0, *(index.names.size for index in indices)])
        self._names = [index.names for index in indices]
        self._offsets = np.concatenate([index.offsets for index in indices])
        self._sizes = np.concatenate([index.sizes for index in indices])
        keys, key_of = np.unique(np.concatenate([index.keys for index in indices]), return_inverse=True)
        self.keys: tuple[str, ...] = tuple(str(key) for key in keys)
        self.key_of: NDArray[np.int32] = key_of.astype(np.int32)

    def __len__(self) -> int:
        return int(self._offsets.size)

    def _place(self, index: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._counts, index, side="right")) - 1
        return shard, index - int(self._counts[shard])

    def name(self, index: int) -> str:
        """Return `SHARD.tar/FILE` of image `index`."""
        shard, row = self._place(index)
        return f"{self.shards[shard].name}/{self._names[shard][row].decode()}"

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`; raises OSError when the shard cannot be read."""
        shard, _ = self._place(index)
        with io.FileIO(self.shards[shard]) as file:
            file.seek(int(self._offsets[index]))
            return file.read(int(self._sizes[index]))
