"""The images of a selection, copied into tar shards in a shuffled order: what training at scale reads in one go.

A shard is written whole or not at all, and one that is there is not written again, so an interrupted copy goes on.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.data.lists import ListSource, read_list
from miil21k.data.threads import in_order
from miil21k.errors import ImageError, UsageError
from miil21k.files import atomic, replace_file
from miil21k.prepare.shards import shuffled, tar_entry
from miil21k.records import read_json
from miil21k.store.integrity import sha256_of
from miil21k.suffixes import suffix_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["pack"]

_END = bytes(1024)  # of an archive


class Packed(NamedTuple):
    """A shard: its name, how many images it holds, how many could not be read, and its bytes."""

    name: str
    images: int
    unreadable: int
    bytes: int


def pack(
    path: Path,
    folder: Path,
    size: int,
    *,
    root: Path | None = None,
    workers: int = 4,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Copy the images of the list at `path` into shards of `size` in `folder`; returns what is there.

    A sample is `<wnid>/<row>.jpg` (or what the image is) with `<wnid>/<row>.cls`, the row being that of the list; an
    image that stands for several classes is copied for each. `index.json` names the shards, and `miil21k train` takes
    it. root: where the list's paths start, if not here. workers: shards that are written at a time. An image that
    cannot be read is left out and counted. Raises UsageError for images that are missing, and for a folder of shards
    of another list or size.
    """
    facts = {"list_sha256": sha256_of(path), "shard_size": size}
    begun, index = folder / "plan.json", folder / "index.json"
    if begun.exists() and read_json(begun, dict) != facts:
        raise UsageError(f"'{folder}' holds shards of another list, or of another size: give another folder.")
    if index.exists():
        return dict(read_json(index, dict))
    source = ListSource(read_list(path), Path.cwd() if root is None else root)
    if any(folder.glob("*.tar")) and not begun.exists():
        raise UsageError(f"'{folder}' holds shards already: give another folder.")
    replace_file(begun, json.dumps(facts), parents=True)
    shards: list[Packed] = []
    count = -(-len(source) // size)
    for shard in in_order(partial(_write, source, folder, size), range(count), workers, "miil21k-pack"):
        shards.append(shard)
        say(f"{len(shards):,} of {count:,} shards, {sum(done.images for done in shards):,} images")
    content = {
        **facts,
        "images": sum(shard.images for shard in shards),
        "unreadable": sum(shard.unreadable for shard in shards),
        "shards": [shard._asdict() for shard in shards],
    }
    replace_file(index, json.dumps(content, indent=1) + "\n")
    return content


def _write(source: ListSource, folder: Path, size: int, number: int) -> Packed:
    """Write shard `number`, unless it is there."""
    path = folder / f"selected-{number:06d}.tar"
    note = folder / f"selected-{number:06d}.json"
    if path.exists() and note.exists():
        return Packed(**read_json(note, dict))
    total = len(source)
    rows = shuffled(np.arange(number * size, min(total, (number + 1) * size)), total, 0)
    lost = 0
    with atomic(path) as part, part.open("wb") as file:
        for row in rows.tolist():
            try:
                content = source.read(row)
            except (OSError, ImageError):
                lost += 1
                continue
            wnid = source.keys[source.key_of[row]]
            stem = f"{wnid}/{row:012d}"
            file.write(tar_entry(f"{stem}{suffix_of(source.name(row)) or '.jpg'}", content))
            file.write(tar_entry(f"{stem}.cls", wnid.encode()))
        file.write(_END)
    done = Packed(path.name, len(rows) - lost, lost, path.stat().st_size)
    replace_file(note, json.dumps(done._asdict()))
    return done
