"""What is written beside the images: manifest, validation list, shard index, summary."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

from miil21k.errors import PrepareError
from miil21k.prepare.class_job import COLUMNS, ManifestRow
from miil21k.prepare.releases import compare_with_release
from miil21k.prepare.split import FOLDERS, PLACES
from miil21k.prepare.workspace import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from miil21k.prepare.workspace import Workspace

__all__ = ["INDEX", "MANIFEST", "VAL_LIST", "read_manifest", "write_report"]

MANIFEST = "manifest.csv"
VAL_LIST = "val_images.txt"
INDEX = "index.json"


def read_manifest(path: Path) -> Iterator[ManifestRow]:
    """Yield the rows of the manifest at `path`. Raises PrepareError when it has other columns."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != COLUMNS:
            raise PrepareError(f"'{path}' is no manifest of this version: its columns are not {', '.join(COLUMNS)}.")
        for row in rows:
            if len(row) != len(COLUMNS) or not all(number.isdecimal() for number in row[4:8]):
                raise PrepareError(f"'{path}' is damaged at line {rows.line_num}.")
            yield ManifestRow(*row[:4], *map(int, row[4:8]), *row[8:])  # type: ignore[arg-type]


def write_report(space: Workspace, plan: dict[str, Any], ignored: list[str]) -> dict[str, Any]:
    """Write manifest, validation list, index (of shards) and summary, the summary last; return the summary.

    Raises PrepareError when the manifest does not add up to what the journal counted.
    """
    totals, kept, small, damaged = _totals(space)
    manifest = _write_manifest(space)
    if manifest["places"] != totals["places"]:
        raise PrepareError(
            f"The manifest has {manifest['places']} images, the journal {totals['places']}: files in '{space.root}' "
            f"were changed; remove '{space.target}' and begin again."
        )
    digests = {MANIFEST: manifest["sha256"], VAL_LIST: manifest["val_sha256"]}
    summary = {
        "plan": plan,
        "classes": {"total": len(kept) + len(small), "kept": len(kept), "small": len(small)},
        "members": sum(totals["places"].values()),
        "images": {place: totals["places"][place] for place in PLACES if totals["places"][place]},
        "outcomes": dict(sorted(totals["outcomes"].items())),
        "source_bytes": totals["bytes"]["source"],
        "bytes": totals["bytes"]["written"],
        "release": compare_with_release(kept, totals["places"], plan["release"]["expected"]),
        "damaged_archives": damaged,
        "ignored": sorted(ignored),
        "sha256": digests,
    }
    shards = [json.loads(path.read_bytes()) for path in sorted(space.shards.glob("*.json"))]
    if shards:
        index = {"images": {p: manifest["places"][p] for p in FOLDERS}, "shards": shards}
        write_atomically(space.target / INDEX, _json(index))
        digests[INDEX] = hashlib.sha256(_json(index)).hexdigest()
    write_atomically(space.summary, _json(summary))
    return summary


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, ensure_ascii=True) + "\n").encode()


def _totals(space: Workspace) -> tuple[dict[str, Counter[str]], list[str], list[str], dict[str, str]]:
    totals: dict[str, Counter[str]] = {"places": Counter(), "outcomes": Counter(), "bytes": Counter()}
    kept: list[str] = []
    small: list[str] = []
    damaged: dict[str, str] = {}
    for record in space.records():
        totals["places"].update(record["places"])
        totals["outcomes"].update(record["outcomes"])
        totals["bytes"].update(source=record["source_bytes"], written=record["bytes"])
        if record["damage"]:
            damaged[record["id"]] = record["damage"]
        if record["id"] == record["wnid"]:
            (kept if record["kept"] else small).append(record["wnid"])
    return totals, kept, small, damaged


def _write_manifest(space: Workspace) -> dict[str, Any]:
    """Join the rows of all classes, and list the validation images; return counts and digests of both files."""
    places: Counter[str] = Counter()
    whole, listed = hashlib.sha256(), hashlib.sha256()
    manifest, names = space.staging / MANIFEST, space.staging / VAL_LIST
    with manifest.open("wb") as rows, names.open("wb") as val:
        header = (",".join(COLUMNS) + "\n").encode()
        rows.write(header)
        whole.update(header)
        for record in space.records():
            piece = (space.units / f"{record['id']}.csv").read_bytes()
            rows.write(piece)
            whole.update(piece)
            for row in csv.reader(io.StringIO(piece.decode("utf-8", "surrogateescape"), newline="")):
                found = ManifestRow(*row)  # type: ignore[arg-type]
                places[found.place] += 1
                if found.place == "val":
                    line = f"{found.wnid}/{found.source.rpartition('/')[2]}\n".encode("utf-8", "surrogateescape")
                    val.write(line)
                    listed.update(line)
    for staged in (manifest, names):
        shutil.move(staged, space.target / staged.name)
    return {"places": places, "sha256": whole.hexdigest(), "val_sha256": listed.hexdigest()}
