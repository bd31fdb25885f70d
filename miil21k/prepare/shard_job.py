"""One shard out of the packs: a unit that is done or not done, never half."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.files import replace_file
from miil21k.prepare.packs import END_OF_ARCHIVE, count_samples, read_sample
from miil21k.prepare.shuffle import shuffled
from miil21k.prepare.split import FOLDERS
from miil21k.prepare.workspace import Workspace, disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miil21k.prepare.split import Place

__all__ = ["ShardJob", "shard_jobs", "write_shard"]


@dataclass(frozen=True)
class ShardJob:
    """Shard `number` of `place`: `size` samples (fewer in the last) of the order that `seed` gives."""

    target: str
    place: Place
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


def shard_jobs(target: Path, counts: dict[Place, int], size: int, seed: int) -> Iterator[ShardJob]:
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
    folder = Workspace(Path(job.target)).packs
    packs, starts = _packs(folder, job.place, folder.stat().st_mtime_ns)
    count = starts[-1]
    positions = np.arange(job.number * job.size, min((job.number + 1) * job.size, count), dtype=np.int64)
    samples = shuffled(positions, count, job.seed).tolist()
    digest = hashlib.sha256()
    size = 0
    with path.open("wb") as file:
        for block in _blocks(packs, starts, samples):
            digest.update(block)
            size += file.write(block)
    return {"name": job.name, "place": job.place, "images": len(samples), "bytes": size, "sha256": digest.hexdigest()}


def _blocks(packs: tuple[str, ...], starts: tuple[int, ...], samples: list[int]) -> Iterator[bytes]:
    """Yield the tar blocks of `samples` (ranks over all packs), then the end of the archive."""
    for sample in samples:
        index = bisect_right(starts, sample) - 1
        yield read_sample(packs[index], sample - starts[index])
    yield END_OF_ARCHIVE


@lru_cache(maxsize=4)
def _packs(folder: Path, place: Place, _changed: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the packs of `place` in bytewise order, and the rank of the first sample of each and of the end."""
    found = sorted(folder.glob(f"*.{place}"))
    return tuple(map(str, found)), tuple(accumulate(map(count_samples, found), initial=0))
