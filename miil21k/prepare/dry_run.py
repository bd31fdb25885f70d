"""What a run would do, and the space it would take, without writing anything."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.errors import PrepareError
from miil21k.files import temporary_folder
from miil21k.prepare.codecs import open_converter, with_codec
from miil21k.prepare.manifest import require_manifest_format
from miil21k.prepare.members import MemberReader, list_members
from miil21k.prepare.releases import compare_with_release
from miil21k.prepare.run import make_plan
from miil21k.prepare.sources import open_raw
from miil21k.prepare.split import FOLDERS, PLACES, assign_places
from miil21k.prepare.workspace import ENTRIES, Workspace, disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.prepare.members import ClassUnit
    from miil21k.prepare.options import PrepareOptions
    from miil21k.prepare.split import Assigned

__all__ = ["dry_run"]

_SAMPLES = 256
_SAMPLES_PER_CLASS = 4
_BLOCK = 4096  # what a file takes on common file systems is a multiple of this
_SHARD_OVERHEAD = 512 + 256 + 1024  # header, half a block of padding, and the .cls of a sample


def dry_run(
    source: str,
    target: Path,
    options: PrepareOptions,
    release: str = "auto",
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Return what `prepare` would do: classes and images per place, comparison with the release, and space.

    Only headers are read, and up to 256 images converted in memory to estimate `bytes` (of the result) and
    `peak_bytes` (at most on the disk: shards are written from samples as large as themselves); `free_bytes` is what the
    disk of `target` has, and `finished` how many classes an earlier run has done. A compressed archive is
    read to its end, with one class at a time in the folder for temporary files. Broken images are found by the real
    run only, so `failed` here counts what shows in names and headers. progress: called with `members` and `reached` of
    every class. Raises like `prepare`.
    """
    options = with_codec(options)
    require_manifest_format(options.manifest)
    opened, space = open_raw(source), Workspace(target)
    plan = make_plan(opened, target, options, release)
    with disk_errors(target):
        done = space.check(plan)
        disk = next(found for found in (target, *target.absolute().parents) if found.exists())
        if not os.access(disk, os.W_OK | os.X_OK):
            raise PrepareError(f"Cannot write '{target}': '{disk}' does not permit it.")
        finished = sum(1 for _ in space.units.glob(ENTRIES))
    converter = open_converter(options)
    images: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    damaged: dict[str, str] = {}
    kept: list[str] = []
    sizes: list[int] = []
    ignored: list[str] = []
    classes = 0
    with disk_errors(Path(source)), temporary_folder("miil21k-dry-run") as spool:
        for unit in opened.units(spool, lambda _: False, ignored):
            listed = list_members(unit)
            if listed.damage:
                damaged[unit.id] = listed.damage
            assigned = assign_places(
                listed.members, options.min_images, options.val_per_class, repeated=unit.serial > 1
            )
            images.update(found.place for found in assigned)
            outcomes.update(
                f"{found.place}:{found.reason or 'replaced'}"
                for found in assigned
                if found.place in ("failed", "duplicate")
            )
            classes += unit.serial == 1
            if any(found.place in ("train", "val") for found in assigned):
                kept.append(unit.wnid)
            if len(sizes) < _SAMPLES:
                sizes += [
                    len(converter.convert(data, name).data or b"")
                    for name, data in _sampled(unit, assigned, options.max_bytes)
                ]
            if unit.spooled:
                unit.path.unlink()
            if progress:
                progress({"members": len(assigned), "reached": unit.reached})
    written = images["train"] + images["val"] + images["small_class"]
    packed = options.format == "webdataset"
    each = sum(size + _SHARD_OVERHEAD if packed else -(-size // _BLOCK) * _BLOCK for size in sizes) / max(1, len(sizes))
    return {
        "classes": {"total": classes, "kept": len(kept), "small": classes - len(kept)},
        "finished": classes if done else finished,
        "members": sum(images.values()),
        "images": {place: images[place] for place in PLACES if images[place]},
        "outcomes": dict(sorted(outcomes.items())),
        "release": compare_with_release(kept, images, release),
        "damaged_archives": damaged,
        "ignored": sorted(ignored),
        "sampled": len(sizes),
        "bytes": round(written * each),
        "peak_bytes": round(written * each * (2 if packed else 1)),
        "free_bytes": shutil.disk_usage(disk).free,
    }


def _sampled(unit: ClassUnit, assigned: list[Assigned], max_bytes: int) -> list[tuple[str, bytes]]:
    """Return names and bytes of a few images of the class, evenly spread over its names."""
    images = [found.member for found in assigned if found.place in FOLDERS and found.member.size <= max_bytes]
    step = max(1, len(images) // _SAMPLES_PER_CLASS)
    with MemberReader(unit) as reader:
        return [(member.basename, reader.read(member)) for member in images[::step][:_SAMPLES_PER_CLASS]]
