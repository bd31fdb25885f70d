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
from miil21k.hierarchy.custom import IMAGE_SUFFIXES
from miil21k.prepare.codec_pillow import Converted
from miil21k.prepare.codecs import open_converter
from miil21k.prepare.manifest import ManifestRow, encode_rows
from miil21k.prepare.members import ClassUnit, MemberReader, list_members, read_ahead
from miil21k.prepare.shards import SampleWriter
from miil21k.prepare.split import FOLDERS, assign_places
from miil21k.prepare.workspace import Workspace, disk_errors

if TYPE_CHECKING:
    from miil21k.prepare.codecs import Converter
    from miil21k.prepare.members import Member
    from miil21k.prepare.options import PrepareOptions
    from miil21k.prepare.split import Assigned, Place

__all__ = ["ClassJob", "prepare_class"]

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_NAME_REFUSED = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)  # by the file system of the target
_JPEG_SUFFIXES = (".jpg", ".jpeg")


@dataclass(frozen=True)
class ClassJob:
    """A class to prepare into `target`."""

    unit: ClassUnit
    target: str
    options: PrepareOptions


class _Output(Protocol):
    def add(self, place: Place, member: Member, converted: Converted) -> tuple[str, str]:
        """Write the image; return its name in the target and "", or "" and the reason why it has none."""

    def publish(self) -> dict[str, int] | None:
        """Move what was written into place; return names and sizes of files that no manifest lists, or None."""


class _FolderOutput:
    """Files below a staging folder, one subfolder per place, moved into the published layout at the end."""

    def __init__(self, space: Workspace, staging: Path, wnid: str) -> None:
        self._space = space
        self._staging = staging
        self._wnid = wnid
        self._places: set[Place] = set()

    def add(self, place: Place, member: Member, converted: Converted) -> tuple[str, str]:
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
        """Move every folder to its place in the target."""
        for place in sorted(self._places):
            self._space.publish(self._staging / place, self._space.target / FOLDERS[place] / self._wnid)


def _write_all(file: int, data: bytes) -> None:
    written = os.write(file, data)
    while written < len(data):  # a nearly full disk takes a part, and refuses the next
        written += os.write(file, data[written:])


def prepare_class(job: ClassJob) -> dict[str, Any]:
    """Return the record of the class: id, places, outcomes, bytes read and written, damage of its archive.

    When this returns, the files are in place and the record is in the journal; a class that is in the journal is not
    done again. Raises PrepareError for a full disk or an unreadable source.
    """
    target = Path(job.target)
    space = Workspace(target)
    staging = space.staging / f"{job.unit.id}.{uuid.uuid4().hex[:8]}"
    with disk_errors(target):
        if space.is_finished(job.unit.id):  # a job that was sent again, because its answer was lost with a node
            return space.read_record(job.unit.id)
        try:
            staging.mkdir(parents=True)
            record = _prepare(job, space, staging)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        if job.unit.spooled:
            job.unit.path.unlink(missing_ok=True)
    return record


def _prepare(job: ClassJob, space: Workspace, staging: Path) -> dict[str, Any]:
    unit, options = job.unit, job.options
    read_ahead(unit)
    listed = list_members(unit)
    assigned = assign_places(listed.members, options.min_images, options.val_per_class, repeated=unit.serial > 1)
    packed = options.format == "webdataset"
    output: _Output = SampleWriter(space, staging, unit) if packed else _FolderOutput(space, staging, unit.wnid)
    converter = _converter(options)
    rows: dict[int, ManifestRow] = {}
    with MemberReader(unit) as reader:
        # Files are read in the order in which they lie on the disk, and listed in bytewise order.
        for index in sorted(range(len(assigned)), key=lambda position: assigned[position].member.offset):
            found = assigned[index]
            if found.place != "failed" and found.member.size > options.max_bytes:
                found = found._replace(place="failed", reason="too_large")
            rows[index] = _member(found, unit.wnid, reader, converter, output)
    samples = output.publish()
    ordered = [rows[index] for index in range(len(assigned))]
    replace_file(space.units / f"{unit.id}.csv", encode_rows(ordered))
    kept = any(found.place in ("train", "val") for found in assigned)
    record = {"kept": kept, "damage": listed.damage, "samples": samples, **_record(unit, ordered)}
    space.record(unit.id, record)
    return record


def _member(found: Assigned, wnid: str, reader: MemberReader, converter: Converter, output: _Output) -> ManifestRow:
    member = found.member
    if found.place in ("duplicate", "failed"):
        return _row(found, wnid, found.reason or "replaced")
    try:
        data = reader.read(member)
    except OSError:
        return _row(found, wnid, "unreadable")
    converted = converter.convert(data) if len(data) == member.size else Converted("archive_cut")
    if converted.data is not None and converted.suffix not in IMAGE_SUFFIXES:
        converted = Converted("unsupported_format", converted.width, converted.height)
    if converted.data is None:
        return _row(found, wnid, converted.outcome, converted)
    name, refused = output.add(found.place, member, converted)
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
