"""What is written beside the images: manifest, validation list, shard index, summary."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from miil21k.errors import PrepareError
from miil21k.files import replace_file
from miil21k.prepare.manifest import ManifestWriter, decode_rows, file_digest, manifest_name
from miil21k.prepare.releases import compare_with_release
from miil21k.prepare.split import FOLDERS, PLACES
from miil21k.prepare.workspace import ENTRIES, read_json

if TYPE_CHECKING:
    from miil21k.prepare.workspace import Workspace

__all__ = ["INDEX", "VAL_LIST", "write_report"]

VAL_LIST = "val_images.txt"
INDEX = "index.json"


def write_report(space: Workspace, plan: dict[str, Any], ignored: list[str]) -> dict[str, Any]:
    """Write manifest, validation list, index (of shards) and summary, the summary last; return the summary.

    Raises PrepareError when the manifest does not add up to what the journal counted.
    """
    totals, kept, small, damaged, unreadable = _totals(space)
    manifest = _write_manifest(space, plan["options"]["manifest"])
    if manifest["places"] != totals["places"]:
        raise PrepareError(
            f"The manifest has {manifest['places']} images, the journal {totals['places']}: files in '{space.root}' "
            f"were changed; remove '{space.target}' and begin again."
        )
    digests = manifest["sha256"]
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
        "unreadable": unreadable,
        "ignored": sorted(ignored),
        "sha256": digests,
    }
    shards = [read_json(path, "name") for path in sorted(space.shards.glob(ENTRIES))]
    if shards:
        index = {"images": {p: manifest["places"][p] for p in FOLDERS}, "shards": shards}
        replace_file(space.target / INDEX, _json(index))
        digests[INDEX] = hashlib.sha256(_json(index)).hexdigest()
    _flush()
    replace_file(space.summary, _json(summary))
    return summary


def _flush() -> None:
    """Let everything reach the disk: with the summary the data set counts as whole."""
    if hasattr(os, "sync"):
        os.sync()


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, ensure_ascii=True) + "\n").encode()


def _totals(
    space: Workspace,
) -> tuple[dict[str, Counter[str]], list[str], list[str], dict[str, str], dict[str, int]]:
    totals: dict[str, Counter[str]] = {"places": Counter(), "outcomes": Counter(), "bytes": Counter()}
    kept: list[str] = []
    small: list[str] = []
    damaged: dict[str, str] = {}
    unreadable: dict[str, int] = {}
    for record in space.records():
        totals["places"].update(record["places"])
        totals["outcomes"].update(record["outcomes"])
        totals["bytes"].update(source=record["source_bytes"], written=record["bytes"])
        if record["damage"]:
            damaged[record["id"]] = record["damage"]
        if record["unreadable"]:
            unreadable[record["id"]] = record["unreadable"]
        if record["id"] == record["wnid"]:
            (kept if record["kept"] else small).append(record["wnid"])
    return totals, kept, small, damaged, unreadable


def _write_manifest(space: Workspace, kind: str) -> dict[str, Any]:
    """Join the rows of all classes, and list the validation images; return counts and digests of both files."""
    places: Counter[str] = Counter()
    manifest, names = space.staging / manifest_name(kind), space.staging / VAL_LIST
    with ManifestWriter(manifest, kind) as writer, names.open("wb") as val:
        for record in space.records():
            lines = (space.units / f"{record['id']}.csv").read_bytes()
            rows = list(decode_rows(lines))
            writer.add(lines, rows)
            places.update(row.place for row in rows)
            listed = [f"{row.wnid}/{row.source.rpartition('/')[2]}\n" for row in rows if row.place == "val"]
            val.write("".join(listed).encode("utf-8", "surrogateescape"))
    digests = {staged.name: file_digest(staged) for staged in (manifest, names)}
    for staged in (manifest, names):
        staged.replace(space.target / staged.name)
    return {"places": places, "sha256": digests}
