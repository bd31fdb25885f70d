"""Images in tar shards of the WebDataset layout, read by offset so that any image can be had at any time.

A sample is `<key>.jpg` (any image format) with `<key>.cls` (a text file that holds the wnid, a name or the number of a
class) or `<key>.json` (with one of these under `wnid`, `class_id` or `synset`); a key may hold dots.
Random access makes shuffling, resuming and splitting over processes
the same as for folders; the shards must lie on a file system, not behind a pipe.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.data.names import label_order
from miil21k.data.tar_inputs import Members, expand_braces, has_braces, indexed_shards, is_index, read_member
from miil21k.errors import UsageError
from miil21k.files import atomic
from miil21k.records import StrictJsonError, parse
from miil21k.suffixes import PassedOver, is_image_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["ShardIndex", "ShardSource", "index_shard", "named_shards"]

_LAYOUT = 3  # of stored indices; another number makes them anew
LABEL_FIELDS = ("wnid", "class_id", "synset")


class ShardIndex(NamedTuple):
    """Where the images of one shard lie: `names` UTF-8 bytes [N], `keys` (class keys) str [N], and int64 [N]."""

    names: NDArray[np.bytes_]
    keys: NDArray[np.str_]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]


def index_shard(path: Path, cache: Path | None = None) -> ShardIndex:
    """Return the index of the shard at `path`, from the folder `cache` when this very file was indexed before.

    Raises UsageError when the file is no tar file, or an image in it has no label.
    """
    stat = path.stat()
    stamp = f"{_LAYOUT}\n{path.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}"
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


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


def _scan(path: Path) -> ShardIndex:
    images: list[_Member] = []
    labels: dict[str, str] = {}
    try:
        with path.open("rb") as file:
            members = Members(file)
            for info in members:
                stem, _, suffix = info.name.rpartition(".")
                if not info.isreg() or stem.rpartition("/")[2].startswith("."):
                    continue
                if is_image_name(info.name):
                    images.append(_Member(info.name, info.offset_data, info.size))
                elif suffix.lower() == "cls" or (suffix.lower() == "json" and stem not in labels):
                    wnid = _label(read_member(file, info), suffix.lower(), f"'{info.name}' in {path}")
                    if wnid:
                        labels[stem] = wnid
    except OSError as error:
        raise UsageError(f"The shard '{path}' cannot be read: {error.strerror or error}.") from None
    if members.fault:
        raise UsageError(f"The shard '{path}' {members.fault}.")
    kept = _labelled(path, images, labels)
    return ShardIndex(
        np.array([_encoded(image.name) for image, _ in kept], dtype=np.bytes_),
        np.array([label for _, label in kept], dtype=np.str_),
        np.array([image.offset for image, _ in kept], dtype=np.int64),
        np.array([image.size for image, _ in kept], dtype=np.int64),
    )


def _labelled(path: Path, images: Iterable[_Member], labels: dict[str, str]) -> list[tuple[_Member, str]]:
    """Return the images with their labels, in order; raises UsageError for one without, or two of one key.

    The key of an image is the longest stem of its name that has a label: `a.2021.05.jpg` belongs to `a.2021.05.cls`
    before `a.cls`. An image whose whole stem is the key owns it, and others of that key (`a.mask.png` beside `a.jpg`)
    are left out.
    """
    images = list(images)
    keys = [next((stem for stem in _stems(image.name) if stem in labels), None) for image in images]
    owners: dict[str, _Member] = {}
    for image, key in sorted(zip(images, keys, strict=True), key=lambda pair: not _owns(*pair)):
        if key is None:
            raise UsageError(
                f"'{image.name}' in {path} has no label: beside it must lie a .cls with its class, or a .json with "
                "'wnid'."
            )
        other = owners.setdefault(key, image)
        if other is not image and _owns(image, key) == _owns(other, key):
            raise UsageError(
                f"'{other.name}' and '{image.name}' in {path} are two images of one sample, '{key}': give each a "
                "label of its own."
            )
    return [(image, labels[key]) for image, key in zip(images, keys, strict=True) if key and owners[key] is image]


def _stems(name: str) -> Iterator[str]:
    """Yield the stems of a name, the longest first: a/b.c.jpg gives a/b.c and a/b."""
    folder, slash, base = name.rpartition("/")
    while "." in base:
        base = base.rpartition(".")[0]
        if base:
            yield f"{folder}{slash}{base}"


def _owns(image: _Member, key: str | None) -> bool:
    return image.name.rpartition(".")[0] == key


def _label(content: bytes, suffix: str, where: str) -> str:
    if suffix == "cls":
        return content.decode("utf-8", errors="replace").strip()
    try:
        fields = parse(content)
    except StrictJsonError as error:
        raise UsageError(f"{where} cannot be read: {error.found}.") from None
    if not isinstance(fields, dict):
        return ""
    return next((str(fields[name]) for name in LABEL_FIELDS if fields.get(name) not in (None, "")), "")


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def named_shards(path: str) -> Iterator[Path]:
    """Yield the shards that a name, a glob, a pattern with braces or an index stands for.

    Raises UsageError when there is none of a part of a pattern.
    """
    if is_index(path):
        yield from map(Path, indexed_shards(path))
    elif Path(path).exists() or not has_braces(path):
        yield from map(Path, [path] if Path(path).exists() else sorted(glob.glob(path)))  # noqa: PTH207 (it may be absolute)
    else:
        for part in expand_braces(path):
            found = list(named_shards(part))
            if not found:
                raise UsageError(f"There is no shard '{part}', which '{path}' names.")
            yield from found


class ShardSource:
    """The images of tar shards, in the order of the shards and then of the files in them.

    keys: the class keys found, whole numbers by value, others bytewise. key_of: int32 [N], the place of each
    image's key in `keys`.
    """

    def __init__(self, shards: Sequence[Path], cache: Path | None = None) -> None:
        self.shards = tuple(shards)
        self.called = "labels"
        self.label_sets, self.weights = None, None
        self.passed = PassedOver()
        indices = [index_shard(path, cache) for path in self.shards]
        self._counts = np.cumsum([0, *(index.names.size for index in indices)])
        self._names = [index.names for index in indices]
        self._offsets = np.concatenate([index.offsets for index in indices])
        self._sizes = np.concatenate([index.sizes for index in indices])
        keys, key_of = np.unique(np.concatenate([index.keys for index in indices]), return_inverse=True)
        found = [str(key) for key in keys]
        self.keys: tuple[str, ...] = tuple(sorted(found, key=label_order))
        place = {key: index for index, key in enumerate(self.keys)}
        self.key_of: NDArray[np.int32] = np.array([place[key] for key in found], np.int32)[key_of]

    def __len__(self) -> int:
        return int(self._offsets.size)

    def _place(self, index: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._counts, index, side="right")) - 1
        return shard, index - int(self._counts[shard])

    def name(self, index: int) -> str:
        """Return `SHARD.tar/FILE` of image `index`."""
        shard, row = self._place(index)
        return f"{self.shards[shard].name}/{self._names[shard][row].decode('utf-8', 'surrogateescape')}"

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`; raises OSError when the shard cannot be read."""
        shard, _ = self._place(index)
        with io.FileIO(self.shards[shard]) as file:
            file.seek(int(self._offsets[index]))
            return file.read(int(self._sizes[index]))
