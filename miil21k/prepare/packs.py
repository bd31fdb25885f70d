"""Samples of one class as ready-made tar blocks, so that a shard is a concatenation."""

from __future__ import annotations

import os
import struct
import tarfile
from typing import TYPE_CHECKING

import numpy as np

from miil21k.prepare.split import FOLDERS

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.prepare.codec_pillow import Converted
    from miil21k.prepare.members import ClassUnit, Member
    from miil21k.prepare.split import Place
    from miil21k.prepare.workspace import Workspace

__all__ = ["END_OF_ARCHIVE", "PackWriter", "count_samples", "read_sample", "tar_entry"]

_EMPTY_HEADER = tarfile.TarInfo().tobuf(tarfile.PAX_FORMAT)
_NAME_BYTES, _SIZE, _CHECKSUM, _LARGEST = 100, slice(124, 135), slice(148, 155), 8**11 - 1  # POSIX.1-1988 "ustar"
_WAITING_BYTES = 1 << 20  # of samples, before they are written
_SUFFIX = ".positions"  # of the file with the offsets of a pack's samples
_POSITIONS = struct.Struct("<2q")
END_OF_ARCHIVE = bytes(2 * tarfile.BLOCKSIZE)


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


class PackWriter:
    """Writes one pack per place: samples `<wnid>/<stem>.<suffix>` with `<wnid>/<stem>.cls`, which holds the wnid.

    Dots in the stem become underscores, because a sample's key ends at the first dot.
    """

    def __init__(self, space: Workspace, staging: Path, unit: ClassUnit) -> None:
        self._space = space
        self._staging = staging
        self._unit = unit
        self._ends: dict[Place, list[int]] = {}
        self._waiting: dict[Place, list[bytes]] = {}
        self._waiting_bytes = 0
        self._keys: set[str] = set()

    def add(self, place: Place, member: Member, converted: Converted) -> tuple[str, str]:
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
        """Move the packs and their positions to the workspace; return their names and sizes in bytes."""
        self._write()
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


def read_sample(pack: str, rank: int) -> bytes:
    """Return the tar blocks of sample `rank` of the pack at `pack`."""
    first, last = _POSITIONS.unpack(_read(f"{pack}{_SUFFIX}", 8 * rank, _POSITIONS.size))
    return _read(pack, first, last - first)


def _read(path: str, offset: int, size: int) -> bytes:
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        return os.pread(file, size, offset)
    finally:
        os.close(file)


def _positions(pack: Path) -> Path:
    return pack.with_name(f"{pack.name}{_SUFFIX}")
