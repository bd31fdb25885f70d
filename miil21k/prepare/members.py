"""What one class holds: every member of its tar or folder, harmless or not, and how to read it."""

from __future__ import annotations

import errno
import os
import re
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, NamedTuple

from miil21k.errors import PrepareError
from miil21k.suffixes import image_suffixes, suffix_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["ClassUnit", "Member", "MemberList", "MemberReader", "list_members", "read_ahead"]

_BLOCK = tarfile.BLOCKSIZE
_NO_HEADER = bytes(_BLOCK)
# Places in the header of a member (POSIX.1-1988 "ustar", and GNU tar's for members that need no more).
_NAME_BYTES, _TYPE, _PREFIX = 100, 156, 345
_SIZE, _CHECKSUM, _CHECKSUM_FIELD = slice(124, 135), slice(148, 154), slice(148, 156)
_OCTAL = re.compile(rb"[0-7]+")
_CONTROL = re.compile(r"[\x00-\x1f]")


@dataclass(frozen=True)
class ClassUnit:
    """The images of one class, the unit of work.

    wnid: the class. serial: 1, or more when the source names the class again. path: its folder, its tar, or the
    archive in which its tar lies at `offset` with `size` bytes. spooled: `path` is a copy to remove when done.
    reached: the share of the source up to the end of this class, 0 to 1. stamp: sizes and times of the files that the
    class lies in; while it stays the same, so does the class.
    """

    wnid: str
    path: Path
    offset: int = 0
    size: int = 0
    serial: int = 1
    spooled: bool = False
    reached: float = 0.0
    stamp: str = ""

    @property
    def id(self) -> str:
        """What the journal calls the unit."""
        return self.wnid if self.serial == 1 else f"{self.wnid}~{self.serial}"


class Member(NamedTuple):
    """A file of a class. name: as the source has it. offset: bytes into the file that holds it.

    fault: why it cannot be an image, empty when it can.
    """

    name: str
    size: int
    offset: int
    fault: str = ""

    @property
    def basename(self) -> str:
        """The name without folders."""
        return self.name.rpartition("/")[2]


class MemberList(NamedTuple):
    """The members in source order; `damage` says where the archive breaks off, empty when it is whole."""

    members: list[Member]
    damage: str


def read_ahead(unit: ClassUnit) -> None:
    """Let the system fetch the class tar as a whole, where it can: headers alone are many small reads."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError), unit.path.open("rb") as file:  # what is wrong with it is said where it is read
            os.posix_fadvise(file.fileno(), unit.offset, unit.size, os.POSIX_FADV_WILLNEED)


def list_members(unit: ClassUnit) -> MemberList:
    """Return every member of `unit` (folders excepted); reads headers only.

    A tar that the disk fails to give is damage. Raises PrepareError for one that is gone or may not be read.
    """
    try:
        if unit.path.is_dir():
            return MemberList(list(_folder_members(unit.path)), "")
        with unit.path.open("rb", buffering=0) as file:
            plain = _plain_members(file, unit)
            return _tar_members(file, unit) if plain is None else MemberList(plain, "")
    except OSError as error:
        if error.errno == errno.EIO:
            return MemberList([], f"unreadable ({error.strerror})")
        raise PrepareError(f"Cannot read '{unit.path}': {error.strerror or error}.") from None


def _plain_members(file: IO[bytes], unit: ClassUnit) -> list[Member] | None:
    """Return the members of a whole tar that holds ordinary files with short names and nothing else, else None.

    That is what per-class tars are, and tarfile takes ten times as long for them. It decides on all others.
    """
    members: list[Member] = []
    at, end = unit.offset, unit.offset + unit.size
    while at + _BLOCK <= end:
        file.seek(at)
        header = file.read(_BLOCK)
        if header == _NO_HEADER:
            return members
        if len(header) < _BLOCK or not _is_plain(header):
            return None
        name = header[:_NAME_BYTES].partition(b"\0")[0].decode("utf-8", "surrogateescape")
        size = int(header[_SIZE], 8)
        if name.endswith("/") or at + _BLOCK + size > end:
            return None
        members.append(Member(name, size, at + _BLOCK, _name_fault(name)))
        at += _BLOCK + size + -size % _BLOCK
    return None


def _is_plain(header: bytes) -> bool:
    """Say whether the header is of an ordinary file, with a name of at most 100 bytes and a size in digits."""
    if header[_TYPE] not in b"0\0" or header[_PREFIX] or not _OCTAL.fullmatch(header[_SIZE]):
        return False
    if not _OCTAL.fullmatch(header[_CHECKSUM]):
        return False
    # The checksum counts itself as eight spaces.
    total = sum(header) - sum(header[_CHECKSUM_FIELD]) + 8 * ord(" ")
    return int(header[_CHECKSUM], 8) == total


def _folder_members(folder: Path) -> Iterator[Member]:
    for entry in sorted(os.scandir(folder), key=lambda found: os.fsencode(found.name)):
        if os.path.isdir(entry.path):  # noqa: PTH112 - false, and no error, for a link to itself
            yield Member(f"{entry.name}/", 0, 0, "not_a_file")
        elif not os.path.isfile(entry.path):  # noqa: PTH113 - a link to nowhere or to itself, a pipe, a device
            yield Member(entry.name, 0, 0, "not_a_file")
        else:
            yield Member(entry.name, entry.stat().st_size, 0, _name_fault(entry.name))


def _tar_members(file: IO[bytes], unit: ClassUnit) -> MemberList:
    members: list[Member] = []
    end = unit.offset + unit.size
    file.seek(unit.offset)
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            while (info := archive.next()) is not None and info.offset < end:
                archive.members.clear()  # type: ignore[attr-defined] # tarfile keeps them all, we need each once
                if not info.isdir():
                    members.append(_tar_member(info, end))
            where = info.offset if info is not None else archive.offset
    except (tarfile.TarError, EOFError) as error:
        return MemberList(members, f"cut off after {len(members)} members ({error})")
    return MemberList(members, _damage(file, where, end, len(members)))


def _damage(file: IO[bytes], where: int, end: int, count: int) -> str:
    """Return what is wrong with the end; tarfile takes a damaged header in the middle for the end in silence."""
    if where + _BLOCK > end:
        return f"cut off after {count} members (no end mark)"
    file.seek(where)
    return f"damaged after {count} members (no tar header)" if file.read(_BLOCK).strip(b"\0") else ""


def _tar_member(info: tarfile.TarInfo, end: int) -> Member:
    if not info.isreg() or info.issparse():
        fault = "link" if info.issym() or info.islnk() else "not_a_file"
    elif info.offset_data + info.size > end:
        fault = "archive_cut"
    else:
        fault = _name_fault(info.name)
    return Member(info.name, info.size, info.offset_data, fault)


def _name_fault(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        return "unsafe_path"
    if not parts or parts[-1].startswith("."):
        return "hidden_name"
    if _CONTROL.search(name):
        return "unsafe_path"  # a line break in a name would break every list of files
    return "" if suffix_of(parts[-1]) in image_suffixes() else "not_an_image_name"


class MemberReader:
    """Reads members of one unit; a context manager that holds the archive open."""

    def __init__(self, unit: ClassUnit) -> None:
        self._folder = unit.path if unit.path.is_dir() else None
        self._file = None if self._folder else unit.path.open("rb", buffering=0)

    def __enter__(self) -> MemberReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, member: Member) -> bytes:
        """Return the bytes of `member`; fewer than its size when the source is cut off. Raises OSError."""
        if self._file is None:
            assert self._folder is not None
            return (self._folder / member.name).read_bytes()
        self._file.seek(member.offset)
        data = self._file.read(member.size)
        while len(data) < member.size and (more := self._file.read(member.size - len(data))):
            data += more
        return data
