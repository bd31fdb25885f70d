"""Samples of one class as ready-made tar blocks, so that a shard is a concatenation."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

import numpy as np

from miil21k.prepare.split import FOLDERS

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.prepare.conversion import Converted
    from miil21k.prepare.members import ClassUnit, Member
    from miil21k.prepare.split import Place
    from miil21k.prepare.workspace import Workspace

__all__ = ["END_OF_ARCHIVE", "PackWriter", "count_samples", "read_sample", "tar_entry"]

END_OF_ARCHIVE = bytes(2 * tarfile.BLOCKSIZE)


def tar_entry(name: str, data: bytes) -> bytes:
    """Return `data` as a tar member whose header depends on nothing but its name and size."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return header + data + bytes(-len(data) % tarfile.BLOCKSIZE)


class PackWriter:
    """Writes one pack per place: samples `<wnid>/<stem>.<suffix>` with `<wnid>/<stem>.cls`, which holds the wnid.

    Dots in the stem become underscores, because a sample's key ends at the first dot.
    """

    def __init__(self, space: Workspace, staging: Path, unit: ClassUnit) -> None:
        self._space = space
        self._staging = staging
        self._unit = unit
        self._ends: dict[Place, list[int]] = {}
        self._keys: set[str] = set()

    def add(self, place: Place, member: Member, converted: Converted) -> str | None:
        """Write the sample; return its name in the shard, None when another one has its key."""
        stem = member.basename.rpartition(".")[0].replace(".", "_")
        key = f"{self._unit.wnid}/{stem}"
        if key in self._keys:
            return None
        self._keys.add(key)
        name = f"{key}{converted.suffix}"
        block = tar_entry(name, converted.data or b"") + tar_entry(f"{key}.cls", self._unit.wnid.encode())
        with (self._staging / place).open("ab") as file:
            file.write(block)
        ends = self._ends.setdefault(place, [0])
        ends.append(ends[-1] + len(block))
        return f"{FOLDERS[place]}/{name}"

    def publish(self) -> dict[str, int]:
        """Move the packs and their positions to the workspace; return their names and sizes in bytes."""
        sizes: dict[str, int] = {}
        for place, ends in self._ends.items():
            positions = self._staging / f"{place}.positions"
            positions.write_bytes(np.array(ends, "<i8").tobytes())
            final = self._space.packs / f"{self._unit.id}.{place}"
            positions.replace(_positions(final))
            (self._staging / place).replace(final)
            sizes |= {final.name: ends[-1], _positions(final).name: 8 * len(ends)}
        return sizes


def count_samples(pack: Path) -> int:
    """Return how many samples `pack` holds."""
    return _positions(pack).stat().st_size // 8 - 1


def read_sample(pack: Path, rank: int) -> bytes:
    """Return the tar blocks of sample `rank` of `pack`."""
    with _positions(pack).open("rb", buffering=0) as file:
        file.seek(8 * rank)
        first, last = np.frombuffer(file.read(16), "<i8").tolist()
    with pack.open("rb", buffering=0) as file:
        file.seek(first)
        return file.read(last - first)


def _positions(pack: Path) -> Path:
    return pack.with_name(f"{pack.name}.positions")
