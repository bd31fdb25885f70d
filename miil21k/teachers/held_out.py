"""Images that were selected although they must not be trained on: found by their bytes, whatever they are called."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from miil21k.data.tar_inputs import Members, is_shard
from miil21k.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from miil21k.data.datasets import ClassImages

__all__ = ["in_both"]


def in_both(inputs: Iterable[str], held_out: ClassImages) -> list[str]:
    """Return, sorted, which inputs (files, and members of shards as `SHARD.tar/MEMBER`) have the bytes of such images.

    Every held-out image is read; of the inputs only those that are exactly as long as one of them. Others, a URL say,
    are left out. Holds the names of the members.
    """
    digests: set[bytes] = set()
    sizes: set[int] = set()
    for index in range(len(held_out)):
        with suppress(OSError, ImageError):  # an unreadable image is trained on by nobody
            content = held_out.read(index)
            digests.add(_digest(content))
            sizes.add(len(content))
    found: set[str] = set()
    members: dict[str, set[str]] = {}
    for name in inputs:
        shard, mark, member = name.partition(".tar/")
        if mark and is_shard(f"{shard}.tar"):
            members.setdefault(f"{shard}.tar", set()).add(member)
        elif name not in found:
            with suppress(OSError):
                if os.stat(name).st_size in sizes and _digest(_content(name)) in digests:  # noqa: PTH116
                    found.add(name)
    for shard, names in members.items():
        found |= {f"{shard}/{name}" for name, content in _of_shard(shard, names, sizes) if _digest(content) in digests}
    return sorted(found)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _content(name: str) -> bytes:
    with open(name, "rb") as file:  # noqa: PTH123 - a name as it was spelled
        return file.read()


def _of_shard(shard: str, names: set[str], sizes: set[int]) -> Iterator[tuple[str, bytes]]:
    with suppress(OSError), open(shard, "rb") as file, open(shard, "rb", buffering=0) as pixels:  # noqa: PTH123
        for info in Members(file):
            if info.name in names and info.size in sizes:
                pixels.seek(info.offset_data)
                yield info.name, pixels.read(info.size)
