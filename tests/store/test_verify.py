"""What `verify` says of each cached file."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from hub_server import mirror_source, row_with

from miil21k.files import replace_file
from miil21k.store.cache import Cache
from miil21k.store.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

URL = "https://mirror.example/net.safetensors"
DIGEST = hashlib.sha256(b"weights").hexdigest()


def _statuses(cache: Cache, **fields: str) -> list[tuple[str, str | None]]:
    return [(f.status, f.stated_by) for f in verify(row_with(mirror_source(URL, **fields)), cache)]


def test_a_file_is_held_against_what_was_published_or_pinned(tmp_path: Path) -> None:
    cache, source = Cache.at(tmp_path), mirror_source(URL)
    assert _statuses(cache) == []
    replace_file(cache.file(source), b"weights", parents=True)
    assert _statuses(cache) == [("unpinned", None)]
    assert cache.pin(source) is None, "looking pins nothing"
    assert _statuses(cache, sha256=DIGEST) == [("ok", "published")]
    assert _statuses(cache, sha256_prefix=DIGEST[:8]) == [("ok", "published prefix")]
    assert _statuses(cache, sha256="0" * 64) == [("mismatch", "published")]
    cache.find(source)
    assert _statuses(cache) == [("ok", "pinned")]


def test_a_change_that_keeps_size_and_time_is_noticed(tmp_path: Path) -> None:
    cache, source = Cache.at(tmp_path), mirror_source(URL)
    path = cache.file(source)
    replace_file(path, b"weights", parents=True)
    cache.find(source)
    stat = path.stat()
    path.write_bytes(b"weightz")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cache.find(source) is not None, "the quick look trusts size and time"
    assert _statuses(cache) == [("mismatch", "pinned")]
