"""One class from source to target: the unit that is done or not done, never half."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from miil21k.files import replace_file
from miil21k.prepare.codec_pillow import Converted
from miil21k.prepare.codecs import open_converter
from miil21k.prepare.manifest import ManifestRow, encode_rows
from miil21k.prepare.members import ClassUnit, MemberReader, list_members, read_ahead
from miil21k.prepare.shards import SampleWriter
from miil21k.prepare.split import FOLDERS, assign_places
from miil21k.prepare.workspace import Workspace, disk_errors
from miil21k.suffixes import image_suffixes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miil21k.prepare.codecs import Converter
    from miil21k.prepare.members import Member, MemberList
    from miil21k.prepare.options import PrepareOptions
    from miil21k.prepare.split import Assigned, SplitPlace

__all__ = ["ClassJob", "prepare_class"]

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_NAME_REFUSED = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)  # by the file system of the target
_JPEG_SUFFIXES = (".jpg", ".jpeg")
UNREADABLE = "unreadable"  # what the disk did not give this time


@dataclass(frozen=True)
class ClassJob:
    """A class to prepare into `target`."""

    unit: ClassUnit
    target: str
    options: PrepareOptions


class _Output(Protocol):
    def add(self, place: SplitPlace, member: Member, converted: Converted) -> tuple[str, str]:
        """Write the image; return its name in the target and "", or "" and the reason why it has none."""

    def publish(self) -> dict[str, int] | None:
        """Move what was written into place; return names and sizes of files that no manifest lists, or None."""


class _FolderOutput:
    """Files below a staging folder, one subfolder per place, moved into the published layout at the end."""

    def __init__(self, space: Workspace, staging: Path, wnid: str) -> None:
        self._space = space
        self._staging = staging
        self._wnid = wnid
        self._places: set[SplitPlace] = set()

    def add(self, place: SplitPlace, member: Member, converted: Converted) -> tuple[str, str]:
        """Write the image under its own name, with .JPEG behind it when it has become one."""
        name = member.basename
        if converted.outcome == "resized" and not name.lower().endswith(_JPEG_SUFFIXES):
            name += ".JPEG"
        if place not in self._places:
            (self._staging / place).mkdir()
            self._places.add(place)
        try:
            file = os.open(f"{self._staging}/{place}/{name}", _NEW_FILE, 0o666)
        except FileExistsError:
            return "", "name_taken"
        except OSError as error:
            if error.errno in _NAME_REFUSED:
                return "", "name_refused"
            raise
        try:
            _write_all(file, converted.data or b"")
        finally:
            os.close(file)
        return f"{FOLDERS[place]}/{self._wnid}/{name}", ""

    def publish(self) -> None:
        """Move every folder to its place in the target; what an earlier attempt left in another place goes."""
        for place, folder in FOLDERS.items():
            final = self._space.target / folder / self._wnid
            if place in self._places:
                self._space.publish(self._staging / place, final)
            elif final.exists():
                shutil.rmtree(final)


def _write_all(file: int, data: bytes) -> None:
    written = os.write(file, data)
    while written < len(data):  # a nearly full disk takes a part, and refuses the next
        written += os.write(file, data[written:])


def prepare_class(job: ClassJob) -> dict[str, Any]:
    """Return the record of the class: id, places, outcomes, bytes read and written, damage of its archive.

    When this returns, the files are in place and the record is in the journal. A class that is in the journal is not
    done again, unless a part of it could not be read, or its source has changed; where the source only looks as if it
    had, the record is as good as before (`unchanged`). Raises PrepareError for a full disk or an unreadable source.
    """
    target = Path(job.target)
    space = Workspace(target)
    staging = space.staging / f"{job.unit.id}.{uuid.uuid4().hex[:8]}"
    with disk_errors(target):
        record = space.find_record(job.unit.id)
        if record is not None and _is_unchanged(job, space, record):
            record = {**record, "unchanged": True}
        else:
            space.forget(job.unit.id)
            try:
                staging.mkdir(parents=True)
                record = _prepare(job, space, staging)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        if job.unit.spooled:
            job.unit.path.unlink(missing_ok=True)
    return record


def _is_unchanged(job: ClassJob, space: Workspace, record: dict[str, Any]) -> bool:
    """Say whether the class is still what `record` was made from; then its new stamp is noted."""
    if record["again"]:
        return False
    if record["stamp"] == job.unit.stamp:  # a job that was sent again, because its answer was lost with a node
        return True
    listed, assigned = _listed(job.unit, job.options)
    digest = hashlib.sha256(listed.damage.encode())
    for _, found, data in _contents(job, assigned):
        _add(digest, found, data)
    if digest.hexdigest() != record["digest"]:
        return False
    space.record(job.unit.id, {**record, "stamp": job.unit.stamp})
    return True


def _listed(unit: ClassUnit, options: PrepareOptions) -> tuple[MemberList, list[Assigned]]:
    read_ahead(unit)
    listed = list_members(unit)
    return listed, assign_places(listed.members, options.min_images, options.val_per_class, repeated=unit.serial > 1)


def _contents(job: ClassJob, assigned: list[Assigned]) -> Iterator[tuple[int, Assigned, bytes | None]]:
    """Yield every member with its index and its bytes, None where none are wanted or can be had.

    In the order in which they lie on the disk; `assigned` is in bytewise order.
    """
    with MemberReader(job.unit) as reader:
        for index in sorted(range(len(assigned)), key=lambda position: assigned[position].member.offset):
            found, data = assigned[index], None
            if found.place in FOLDERS:
                if found.member.size > job.options.max_bytes:
                    found = found._replace(place="failed", reason="too_large")
                else:
                    try:
                        data = reader.read(found.member)
                    except OSError:
                        found = found._replace(place="failed", reason=UNREADABLE)
            yield index, found, data


def _add(digest: hashlib._Hash, found: Assigned, data: bytes | None) -> None:
    digest.update(f"{found.member.name}\0{found.member.size}\0{found.reason}\0".encode("utf-8", "surrogateescape"))
    digest.update(data or b"")


def _prepare(job: ClassJob, space: Workspace, staging: Path) -> dict[str, Any]:
    unit, options = job.unit, job.options
    listed, assigned = _listed(unit, options)
    packed = options.format == "webdataset"
    output: _Output = SampleWriter(space, staging, unit) if packed else _FolderOutput(space, staging, unit.wnid)
    converter = _converter(options)
    rows: dict[int, ManifestRow] = {}
    digest = hashlib.sha256(listed.damage.encode())
    for index, found, data in _contents(job, assigned):
        _add(digest, found, data)
        rows[index] = _member(found, unit.wnid, data, converter, output)
    samples = None if unit.serial > 1 else output.publish()
    ordered = [rows[index] for index in range(len(assigned))]
    replace_file(space.units / f"{unit.id}.csv", encode_rows(ordered))
    kept = any(found.place in ("train", "val") for found in assigned)
    record = {"kept": kept, "damage": listed.damage, "samples": samples, **_record(unit, ordered)}
    unread = sum(row.outcome == UNREADABLE for row in ordered)
    record |= {"unreadable": unread, "again": bool(unread or listed.damage)}
    space.record(unit.id, {**record, "stamp": unit.stamp, "digest": digest.hexdigest()})
    return record


def _member(found: Assigned, wnid: str, data: bytes | None, converter: Converter, output: _Output) -> ManifestRow:
    if data is None:
        return _row(found, wnid, found.reason or "replaced")
    whole = len(data) == found.member.size
    converted = converter.convert(data, found.member.basename) if whole else Converted("archive_cut")
    if converted.data is not None and converted.suffix not in image_suffixes():
        converted = Converted("unsupported_format", converted.width, converted.height)
    if converted.data is None:
        return _row(found, wnid, converted.outcome, converted)
    name, refused = output.add(found.place, found.member, converted)
    return _row(found, wnid, refused or converted.outcome, converted, name)


def _row(found: Assigned, wnid: str, outcome: str, converted: Converted | None = None, file: str = "") -> ManifestRow:
    written = converted.data or b"" if converted and file else b""
    return ManifestRow(
        wnid=wnid,
        source=found.member.name,
        place=found.place if file or found.place == "duplicate" else "failed",
        outcome=outcome,
        width=converted.width if converted else 0,
        height=converted.height if converted else 0,
        source_bytes=found.member.size,
        bytes=len(written),
        sha256=hashlib.sha256(written).hexdigest() if file else "",
        file=file,
    )


def _record(unit: ClassUnit, rows: list[ManifestRow]) -> dict[str, Any]:
    return {
        "id": unit.id,
        "wnid": unit.wnid,
        "reached": unit.reached,
        "members": len(rows),
        "places": dict(sorted(Counter(row.place for row in rows).items())),
        "outcomes": dict(sorted(Counter(f"{row.place}:{row.outcome}" for row in rows).items())),
        "source_bytes": sum(row.source_bytes for row in rows),
        "bytes": sum(row.bytes for row in rows),
    }


@lru_cache(maxsize=1)
def _converter(options: PrepareOptions) -> Converter:
    return open_converter(options)  # its buffer serves all classes of a worker
