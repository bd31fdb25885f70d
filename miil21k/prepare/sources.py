"""Where classes come from: the outer archive, a folder of per-class tars, or class folders."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from miil21k.errors import PrepareError, UsageError
from miil21k.prepare.members import ClassUnit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["RawSource", "open_raw"]

Kind = Literal["archive", "stream", "tars", "folders"]
_STREAM_BLOCK = 1 << 17  # bytes that are decompressed at once; a tenth faster than the default
_CLASS_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class RawSource:
    """A place that holds classes.

    kind: `archive` (an uncompressed outer tar, read at any offset), `stream` (a compressed one, read from front to
    back), `tars` (a folder of per-class tars) or `folders` (class folders).
    """

    path: Path
    kind: Kind

    def identity(self) -> dict[str, Any]:
        """Return what a resumed run must find again, as JSON values; `bytes`, when all is done, too."""
        size = self.path.stat().st_size if self.path.is_file() else None
        return {"name": self.path.name, "kind": self.kind, "bytes": size}

    def units(self, spool: Path, finished: Callable[[ClassUnit], bool], ignored: list[str]) -> Iterator[ClassUnit]:
        """Yield the classes in source order, those that are `finished` left out; each is asked about once.

        spool: a folder for one class tar at a time out of a compressed archive; the taker removes it.
        ignored: gets the names of what is no class. Raises PrepareError when the source is cut off, UsageError when
        it holds no class.
        """
        seen: dict[str, int] = {}
        for found in self._classes(ignored):
            serial = seen[found.wnid] = seen.get(found.wnid, 0) + 1
            unit = ClassUnit(
                found.wnid, found.path, found.offset, found.size, serial, reached=found.reached, stamp=found.stamp
            )
            if finished(unit):
                continue
            yield _spool(found, unit, spool, sum(seen.values()) - 1) if found.content else unit
        if not seen:
            raise UsageError(
                f"'{self.path}' holds no class: give the outer archive, a folder of per-class tars (<wnid>.tar, not "
                "compressed), or a folder of class folders."
            )

    def _classes(self, ignored: list[str]) -> Iterator[_ClassFile]:
        if self.kind in ("archive", "stream"):
            return _archive_classes(self.path, self.kind == "stream", ignored)
        return _folder_classes(self.path, self.kind == "tars", ignored)


@dataclass(frozen=True)
class _ClassFile:
    wnid: str
    path: Path
    offset: int = 0
    size: int = 0
    reached: float = 0.0
    stamp: str = ""
    content: IO[bytes] | None = None  # of the class tar, and the file that it is decompressed from
    compressed: IO[bytes] | None = None


def open_raw(path: str) -> RawSource:
    """Return the source at `path`, whose paths are absolute: other processes, and machines, have other folders.

    Raises UsageError when it is none, PrepareError when it cannot be read.
    """
    root = Path(path).absolute()
    if root.is_dir():
        return RawSource(root, "tars" if any(root.glob("*.tar")) else "folders")
    if not root.exists():
        raise UsageError(f"There is no '{path}'.")
    if not root.is_file():  # to open a pipe is to wait for its writer
        raise UsageError(f"'{path}' is a pipe, a socket or a device: give the outer archive or a folder.")
    try:
        with root.open("rb") as file:  # tarfile would say that it is no tar
            file.read(1)
    except OSError as error:
        raise PrepareError(f"Cannot read '{path}': {error.strerror or error}.") from None
    kinds: tuple[tuple[str, Kind], ...] = (("r:", "archive"), ("r|*", "stream"))
    for mode, kind in kinds:
        if _opens(root, mode):
            return RawSource(root, kind)
    raise UsageError(
        f"'{path}' is no tar archive with anything in it, compressed or not: give the outer archive or a folder."
    )


def _opens(path: Path, mode: str) -> bool:
    try:
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
            return archive.next() is not None
    except (tarfile.TarError, EOFError, OSError, zlib.error):
        return False


def _class_name(name: str) -> str | None:
    base = name.rpartition("/")[2]
    stem = base.removesuffix(".tar")
    return stem if base.endswith(".tar") and _CLASS_NAME.fullmatch(stem) else None


def _archive_classes(path: Path, stream: bool, ignored: list[str]) -> Iterator[_ClassFile]:
    total, stamp = path.stat().st_size, _stamp(path.stat())
    count = 0
    try:
        with path.open("rb") as file, _open_tar(file, stream) as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]
                wnid = _class_name(info.name) if info.isreg() else None
                if wnid is None:
                    if not info.isdir():
                        ignored.append(info.name)
                    continue
                if not stream and info.offset_data + info.size > total:
                    raise _cut(path, count, f"'{info.name}' goes on behind the end")
                if stream:
                    yield _ClassFile(wnid, path, stamp=stamp, content=archive.extractfile(info), compressed=file)
                else:
                    end = info.offset_data + info.size
                    place = f"{stamp} at {info.offset_data}"
                    yield _ClassFile(wnid, path, info.offset_data, info.size, end / total, place)
                count += 1
            _check_end(path, archive.offset, stream, count)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise _cut(path, count, str(error)) from None


def _open_tar(file: IO[bytes], stream: bool) -> tarfile.TarFile:
    if stream:
        return tarfile.open(fileobj=file, mode="r|*", bufsize=_STREAM_BLOCK)
    return tarfile.open(fileobj=file, mode="r:")


def _check_end(path: Path, offset: int, stream: bool, count: int) -> None:
    if stream:
        return  # an early end of compressed data raises by itself
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or len(block) < tarfile.BLOCKSIZE:
        raise _cut(path, count, "no end mark")


def _cut(path: Path, count: int, why: str) -> PrepareError:
    classes = "1 class" if count == 1 else f"{count:,} classes"
    return PrepareError(
        f"'{path}' is cut off or damaged after {classes} ({why}): get it again and run the same command; finished "
        "classes are kept."
    )


def _spool(found: _ClassFile, unit: ClassUnit, spool: Path, count: int) -> ClassUnit:
    """Copy a class tar out of the stream; count: of classes before it."""
    assert found.content is not None
    assert found.compressed is not None
    spool.mkdir(parents=True, exist_ok=True)
    copy = spool / f"{unit.id}.tar"
    try:
        with copy.open("wb") as file:
            shutil.copyfileobj(found.content, file, 1 << 20)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        copy.unlink()
        raise _cut(found.path, count, str(error)) from None
    reached = found.compressed.tell() / found.path.stat().st_size
    return replace(unit, path=copy, offset=0, size=copy.stat().st_size, reached=reached, spooled=True)


def _folder_classes(root: Path, tars: bool, ignored: list[str]) -> Iterator[_ClassFile]:
    entries = sorted(os.scandir(root), key=lambda found: os.fsencode(found.name))
    for number, entry in enumerate(entries, 1):
        path = Path(entry.path)
        name = _class_name(entry.name) if tars else entry.name
        of_kind = entry.is_file() if tars else entry.is_dir()
        if of_kind and name is not None and _CLASS_NAME.fullmatch(name):
            stamp = _stamp(entry.stat()) if tars else _folder_stamp(path)
            yield _ClassFile(name, path, 0, entry.stat().st_size if tars else 0, number / len(entries), stamp)
        else:
            ignored.append(entry.name)


def _stamp(found: os.stat_result) -> str:
    return f"{found.st_size} bytes of {found.st_mtime_ns}"


def _folder_stamp(folder: Path) -> str:
    """Return a digest of the names, sizes and times of all files in `folder`."""
    digest = hashlib.sha256()
    for entry in sorted(os.scandir(folder), key=lambda found: os.fsencode(found.name)):
        try:
            found = entry.stat()
        except OSError:  # a link to nowhere
            found = entry.stat(follow_symlinks=False)
        digest.update(os.fsencode(entry.name) + f"\0{_stamp(found)}\0".encode())
    return digest.hexdigest()
