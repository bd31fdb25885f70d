"""Shards: every class is first written as samples in ready-made tar blocks; a shard is a shuffled row of them."""

from __future__ import annotations

import hashlib
import json
import struct
import tarfile
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.files import replace_file
from miil21k.prepare.split import FOLDERS
from miil21k.prepare.workspace import ENTRIES, Workspace, disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from miil21k.prepare.codec_pillow import Converted
    from miil21k.prepare.members import ClassUnit, Member
    from miil21k.prepare.split import SplitPlace

__all__ = [
    "SampleWriter",
    "ShardJob",
    "drop_outdated_shards",
    "read_sample",
    "shard_jobs",
    "shuffled",
    "tar_entry",
    "write_shard",
]

_EMPTY_HEADER = tarfile.TarInfo().tobuf(tarfile.PAX_FORMAT)
_NAME_BYTES, _SIZE, _CHECKSUM, _LARGEST = 100, slice(124, 135), slice(148, 155), 8**11 - 1  # POSIX.1-1988 "ustar"
_WAITING_BYTES = 1 << 20  # of samples, before they are written
_SUFFIX = ".positions"  # of the file beside it with the offset of each sample, and of the end
_POSITIONS = struct.Struct("<2q")
_END_OF_ARCHIVE = bytes(2 * tarfile.BLOCKSIZE)
_ROUNDS = 6  # of the shuffle


def tar_entry(name: str, data: bytes) -> bytes:
    """Return `data` as a tar member whose header depends on nothing but its name and size."""
    return b"".join((_header(name, len(data)), data, bytes(-len(data) % tarfile.BLOCKSIZE)))


def _header(name: str, size: int) -> bytes:
    """Return what tarfile writes; a short name in ASCII is put into a ready header, which takes a sixth of the time."""
    if not name.isascii() or len(name) > _NAME_BYTES or size > _LARGEST:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    header = bytearray(_EMPTY_HEADER)
    header[: len(name)] = name.encode()
    header[_SIZE] = b"%011o" % size
    header[_CHECKSUM] = b" " * 7
    header[_CHECKSUM] = b"%06o\0" % sum(header)
    return bytes(header)


class SampleWriter:
    """Writes one file of samples per place: `<wnid>/<stem>.<suffix>` with `<wnid>/<stem>.cls`, which holds the wnid.

    Dots in the stem become underscores, because a sample's key ends at the first dot.
    """

    def __init__(self, space: Workspace, staging: Path, unit: ClassUnit) -> None:
        self._space = space
        self._staging = staging
        self._unit = unit
        self._ends: dict[SplitPlace, list[int]] = {}
        self._waiting: dict[SplitPlace, list[bytes]] = {}
        self._waiting_bytes = 0
        self._keys: set[str] = set()

    def add(self, place: SplitPlace, member: Member, converted: Converted) -> tuple[str, str]:
        """Write the sample; return its name and "", or "" and why it has none: another one has its key."""
        stem = member.basename.rpartition(".")[0].replace(".", "_")
        key = f"{self._unit.wnid}/{stem}"
        if key in self._keys:
            return "", "name_taken"
        self._keys.add(key)
        name = f"{key}{converted.suffix}"
        block = tar_entry(name, converted.data or b"") + tar_entry(f"{key}.cls", self._unit.wnid.encode())
        ends = self._ends.setdefault(place, [0])
        ends.append(ends[-1] + len(block))
        self._waiting.setdefault(place, []).append(block)
        self._waiting_bytes += len(block)
        if self._waiting_bytes >= _WAITING_BYTES:
            self._write()
        return f"{FOLDERS[place]}/{name}", ""

    def _write(self) -> None:
        for place, blocks in self._waiting.items():
            with (self._staging / place).open("ab") as file:
                file.write(b"".join(blocks))
        self._waiting.clear()
        self._waiting_bytes = 0

    def publish(self) -> dict[str, int]:
        """Move the files and their positions to the workspace; return their names and sizes in bytes."""
        self._write()
        sizes: dict[str, int] = {}
        for place, ends in self._ends.items():
            positions = self._staging / f"{place}.positions"
            positions.write_bytes(np.array(ends, "<i8").tobytes())
            final = self._space.samples / f"{self._unit.id}.{place}"
            positions.replace(_positions(final))
            (self._staging / place).replace(final)
            sizes |= {final.name: ends[-1], _positions(final).name: 8 * len(ends)}
        for place in FOLDERS.keys() - self._ends:  # what an earlier attempt left
            left = self._space.samples / f"{self._unit.id}.{place}"
            left.unlink(missing_ok=True)
            _positions(left).unlink(missing_ok=True)
        return sizes


def _count_samples(file: Path) -> int:
    return _positions(file).stat().st_size // 8 - 1


def read_sample(path: str, rank: int) -> bytes:
    """Return the tar blocks of sample `rank` of the file at `path`."""
    first, last = _POSITIONS.unpack(_read(f"{path}{_SUFFIX}", 8 * rank, _POSITIONS.size))
    return _read(path, first, last - first)


def _read(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (a shard has thousands of samples)
        file.seek(offset)
        return file.read(size)


def _positions(file: Path) -> Path:
    return file.with_name(f"{file.name}{_SUFFIX}")


@dataclass(frozen=True)
class ShardJob:
    """Shard `number` of `place`: `size` samples (fewer in the last) of the order that `seed` gives."""

    target: str
    place: SplitPlace
    number: int
    size: int
    seed: int

    @property
    def name(self) -> str:
        """The shard's path below the target."""
        return f"{FOLDERS[self.place]}/{FOLDERS[self.place]}-{self.number:06d}.tar"

    @property
    def record(self) -> Path:
        """Where its journal entry lies."""
        return Workspace(Path(self.target)).shards / f"{self.place}-{self.number:06d}.json"


def drop_outdated_shards(space: Workspace) -> None:
    """Remove every shard when a class has changed since they were begun: each holds samples of all classes."""
    digest = hashlib.sha256()
    for record in space.records():
        digest.update((space.units / f"{record['id']}.csv").read_bytes())
    noted, now = space.root / "shards_of", digest.hexdigest()
    if noted.exists() and noted.read_text() == now:
        return
    for entry in space.shards.glob(ENTRIES):
        entry.unlink()
    for folder in FOLDERS.values():
        for shard in (space.target / folder).glob(f"{folder}-*.tar"):
            shard.unlink()
    replace_file(noted, now)


def shard_jobs(target: Path, counts: dict[SplitPlace, int], size: int, seed: int) -> Iterator[ShardJob]:
    """Yield the shards that are not written yet; counts: samples per place."""
    for place, count in counts.items():
        for number in range(-(-count // size)):
            job = ShardJob(str(target), place, number, size, seed)
            if not job.record.exists():
                yield job


def write_shard(job: ShardJob) -> dict[str, Any]:
    """Return the record of the shard (name, place, images, bytes, sha256), which is then in place.

    Raises PrepareError for a full disk.
    """
    target = Path(job.target)
    final = target / job.name
    with disk_errors(target):
        final.parent.mkdir(parents=True, exist_ok=True)
        staged = Workspace(target).staging / final.name
        try:
            record = _write(job, staged)
            staged.replace(final)
        finally:
            staged.unlink(missing_ok=True)
        replace_file(job.record, json.dumps(record).encode())
    return record


def _write(job: ShardJob, path: Path) -> dict[str, Any]:
    folder = Workspace(Path(job.target)).samples
    files, starts = _sample_files(folder, job.place, folder.stat().st_mtime_ns)
    count = starts[-1]
    positions = np.arange(job.number * job.size, min((job.number + 1) * job.size, count), dtype=np.int64)
    samples = shuffled(positions, count, job.seed).tolist()
    digest = hashlib.sha256()
    size = 0
    with path.open("wb") as file:
        for block in _blocks(files, starts, samples):
            digest.update(block)
            size += file.write(block)
    return {"name": job.name, "place": job.place, "images": len(samples), "bytes": size, "sha256": digest.hexdigest()}


def _blocks(files: tuple[str, ...], starts: tuple[int, ...], samples: list[int]) -> Iterator[bytes]:
    """Yield the tar blocks of `samples` (ranks over all packs), then the end of the archive."""
    for sample in samples:
        index = bisect_right(starts, sample) - 1
        yield read_sample(files[index], sample - starts[index])
    yield _END_OF_ARCHIVE


@lru_cache(maxsize=4)
def _sample_files(folder: Path, place: SplitPlace, _changed: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the files of samples of `place` in bytewise order, and the rank of the first of each and of the end."""
    found = sorted(folder.glob(f"*.{place}"))
    return tuple(map(str, found)), tuple(accumulate(map(_count_samples, found), initial=0))


def shuffled(positions: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Return which of `count` things stand at `positions` of the order that `seed` gives; int64, same shape.

    A bijection of 0 .. count - 1: a Feistel network on the next even number of bits, walked again from values that
    fall outside (at most 4 times as many).
    """
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    keys = np.random.default_rng([seed, count]).integers(0, 1 << 62, _ROUNDS, dtype=np.uint64)
    values = positions.astype(np.uint64)
    outside = np.ones(values.shape, bool)
    while outside.any():
        values[outside] = _encrypt(values[outside], keys, np.uint64(half))
        outside = values >= count
    return values.astype(np.int64)


def _encrypt(values: NDArray[np.uint64], keys: NDArray[np.uint64], half: np.uint64) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return well scattered bits (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
