"""Whether a prepared data set is what it claims to be: release, counts, hashes, broken images."""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from miil21k.data.images import load_picture
from miil21k.errors import ImageError, UsageError
from miil21k.prepare.manifest import file_digest, find_manifest, manifest_name, read_manifest
from miil21k.prepare.releases import compare_with_release
from miil21k.prepare.report import INDEX, VAL_LIST
from miil21k.prepare.split import FOLDERS
from miil21k.prepare.workspace import Workspace, disk_errors, read_json
from miil21k.suffixes import is_image_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Verified", "count_images", "verify"]

_AHEAD = 256  # files that are checked at once; their names wait in memory


class Verified(NamedTuple):
    """layout: folders or webdataset. images: counts per place. classes: kept and small classes found.

    release: see `compare_with_release`. faults: sentences, one per thing that is wrong; empty when all is well.
    checked: how many files were read.
    """

    layout: str
    images: dict[str, int]
    classes: dict[str, int]
    release: dict[str, Any]
    faults: list[str]
    checked: int


class _Expected(NamedTuple):
    """A file below the target, the digest it must have (empty: unknown), and whether to decode it."""

    path: Path
    sha256: str
    decode: bool


def verify(
    target: Path,
    *,
    release: str = "auto",
    decode: bool = False,
    workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Verified:
    """Check the data set at `target`, prepared here or elsewhere in the published layout; return what was found.

    What was prepared here has the layout of its plan: every file is compared by the SHA-256 of the manifest, every
    shard by that of the index, and what neither lists is a fault. Of a data set from elsewhere, which has no such
    lists, every image is decoded. decode: decode in both cases. workers: threads. progress: called with the number of
    files that are checked, and of all there are. A class counts by the name of its folder, whatever its number of
    images.
    Raises UsageError when there is no data set at `target`.
    """
    if not any((target / folder).is_dir() for folder in FOLDERS.values()):
        raise UsageError(f"'{target}' holds no prepared data set: there is no {' or '.join(FOLDERS.values())} in it.")
    with disk_errors(target):
        layout = _layout(target)
        per_class = count_images(target)
        faults = list(_reports(target))
        images = {place: sum(found.values()) for place, found in per_class.items()}
        expected: Iterable[_Expected]
        if (target / INDEX).exists() and layout == "webdataset":
            expected = shards = list(_shards(target, decode, faults))
            total = len(shards)
        elif layout == "folders" and find_manifest(target) is not None:
            expected, total = _files(target, decode, faults), sum(images.values())
        else:
            expected = _all_files(target)
            total = sum(1 for _ in _all_files(target))
        checked = 0
        for checked, fault in enumerate(_checked(expected, workers), 1):
            if fault:
                faults.append(fault)
            if progress:
                progress(checked, total)
    kept = per_class["train"].keys() | per_class["val"].keys()
    classes = {"kept": len(kept), "small": len(per_class["small_class"])}
    return Verified(layout, images, classes, compare_with_release(kept, images, release), faults, checked)


def _layout(target: Path) -> str:
    """Return the layout that the plan of `target` gives; without a plan, that of most of what is there."""
    for path, read in ((target / "summary.json", "plan"), (Workspace(target).root / "plan.json", "options")):
        if path.exists():
            values = read_json(path, read)
            return str(values.get("plan", values)["options"]["format"])
    shards = sum(1 for folder in FOLDERS.values() for _ in (target / folder).glob("*.tar"))
    classes = sum(entry.is_dir() for folder in FOLDERS.values() for entry in _entries(target / folder))
    return "webdataset" if shards > classes else "folders"


def count_images(target: Path) -> dict[str, Counter[str]]:
    """Return the number of images per class (wnid) for each of train, val and small_class."""
    counts: dict[str, Counter[str]] = {}
    for place, folder in FOLDERS.items():
        found = counts[place] = Counter[str]()
        root = target / folder
        for shard in sorted(root.glob("*.tar")):
            found.update(_shard_classes(shard) if shard.is_file() else ())
        for entry in _entries(root):
            if entry.is_dir():
                found[entry.name] = sum(is_image_name(file.name) for file in os.scandir(entry.path))
    return counts


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    return sorted(os.scandir(folder), key=lambda item: item.name) if folder.is_dir() else []


def _shard_classes(shard: Path) -> Iterator[str]:
    try:
        with tarfile.open(shard, "r:") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]
                if is_image_name(info.name):
                    yield info.name.partition("/")[0]
    except tarfile.TarError:
        return  # its digest, or the index, says that it is damaged


def _reports(target: Path) -> Iterator[str]:
    """Yield what is wrong with the manifest, the validation list and the index themselves."""
    unfinished = (Workspace(target).root / "plan.json").exists()
    if not (target / "summary.json").exists():
        if unfinished:
            yield "it is not finished: run the command that began it again"
        return
    summary = read_json(target / "summary.json", "sha256")
    if unfinished and not Workspace(target).is_complete():
        yield "a part of its source was unreadable or damaged: the command that made it tries that part again"
    recorded = summary["sha256"]
    for name in (manifest_name("csv"), manifest_name("parquet"), VAL_LIST, INDEX):
        if name in recorded and not (target / name).exists():
            yield f"{name} is missing"
        elif name in recorded and file_digest(target / name) != recorded[name]:
            yield f"{name} is not the one that was written with this data set"


def _shards(target: Path, decode: bool, faults: list[str]) -> Iterator[_Expected]:
    known = {shard["name"]: shard["sha256"] for shard in read_json(target / INDEX, "shards")["shards"]}
    found = {f"{folder}/{name}" for folder in FOLDERS.values() for name in _names(target / folder)}
    faults += [f"{name} is not in {INDEX}" for name in sorted(found - known.keys())]
    for name in sorted(known):
        yield _Expected(target / name, known[name], decode)


def _files(target: Path, decode: bool, faults: list[str]) -> Iterator[_Expected]:
    manifest = find_manifest(target)
    assert manifest is not None
    classes: set[str] = set()
    for wnid, rows in groupby(read_manifest(manifest), key=lambda row: row.wnid):
        classes.add(wnid)
        names = set()
        for row in rows:
            if row.file:
                names.add(row.file)
                yield _Expected(target / row.file, row.sha256, decode)
        found = (f"{folder}/{wnid}/{name}" for folder in FOLDERS.values() for name in _names(target / folder / wnid))
        faults += [f"{name} is not in the manifest" for name in found if name not in names]
    for folder in FOLDERS.values():
        faults += [f"{folder}/{name} is not in the manifest" for name in _names(target / folder) if name not in classes]


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []  # noqa: PTH208 (names, not paths: a class has many)


def _all_files(target: Path) -> Iterator[_Expected]:
    for folder in FOLDERS.values():
        for parent, subfolders, files in os.walk(target / folder):
            subfolders.sort()
            yield from (_Expected(Path(parent) / name, "", True) for name in sorted(files))


def _checked(expected: Iterable[_Expected], workers: int) -> Iterator[str]:
    """Yield the fault of every file in turn, empty when it is good."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: list[_Expected] = []
        for file in expected:
            waiting.append(file)
            if len(waiting) == _AHEAD:
                yield from pool.map(_fault, waiting)
                waiting = []
        yield from pool.map(_fault, waiting)


def _fault(file: _Expected) -> str:
    name = "/".join(file.path.parts[-3:] if file.path.suffix != ".tar" else file.path.parts[-2:])
    if not file.path.is_file():  # nor a pipe, which would be waited for
        return f"{name} is missing"
    try:
        if file.sha256 and file_digest(file.path) != file.sha256:
            return f"{name} has changed since it was written"
        if file.decode:
            return _undecodable(file.path, name)
    except OSError as error:
        return f"{name} cannot be read: {error.strerror or error}"
    return ""


def _undecodable(path: Path, name: str) -> str:
    try:
        if path.suffix != ".tar":
            load_picture(path, name=name, reduce_to=1)
            return ""
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                content = archive.extractfile(info) if is_image_name(info.name) else None
                if content:
                    load_picture(io.BytesIO(content.read()), name=f"{name}/{info.name}", reduce_to=1)
    except (ImageError, tarfile.TarError) as error:
        return str(error)
    return ""
