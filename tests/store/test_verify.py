"""What `verify` says of each cached file."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from hub_server import hub_source, mirror_source, row_with

from miil21k.files import replace_file
from miil21k.store.cache import Cache
from miil21k.store.verify import Finding, verify, verify_conversions

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

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


def test_a_finding_says_what_was_found_where_and_what_was_expected(tmp_path: Path) -> None:
    cache, source = Cache.at(tmp_path), mirror_source(URL, sha256="0" * 64)
    path = cache.file(source)
    replace_file(path, b"weights", parents=True)
    row = row_with(source)
    assert list(verify(row, cache)) == [Finding(row.name, "mismatch", path, URL, DIGEST, "0" * 64, "published")]
    row = row_with(mirror_source(URL, sha256=DIGEST))
    assert list(verify(row, cache)) == [Finding(row.name, "ok", path, URL, DIGEST, DIGEST, "published")]
    row = row_with(mirror_source(URL))
    assert list(verify(row, cache)) == [Finding(row.name, "unpinned", path, URL, DIGEST, None, None)]


def test_a_revision_is_one_of_the_hub_alone(tmp_path: Path) -> None:
    cache = Cache.at(tmp_path)
    hub, mirror = hub_source(), mirror_source(URL)
    replace_file(cache.file(mirror), b"weights", parents=True)
    replace_file(cache.file(hub, "v1"), b"other", parents=True)
    row = row_with(hub, mirror)
    assert [finding.path for finding in verify(row, cache)] == [cache.file(mirror)]
    (found,) = verify(row, cache, "v1")
    assert (found.path, found.status) == (cache.file(hub, "v1"), "unpinned")
    assert found.source.endswith("@v1")
    cache.find(hub, "v1")
    assert [finding.status for finding in verify(row, cache, "v1")] == ["ok"]


def test_a_file_of_torch_hub_of_the_same_name_may_be_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    cache = Cache.at(tmp_path)
    theirs = tmp_path / "torch/hub/checkpoints/net.safetensors"
    replace_file(theirs, b"weights", parents=True)
    assert _statuses(cache, sha256="0" * 64) == []
    assert _statuses(cache, sha256=DIGEST) == [("ok", "published")]
    assert _statuses(cache) == [], "nothing tells it from others of its name"


def test_converted_files_are_held_against_their_pins(tmp_path: Path) -> None:
    cache = Cache.at(tmp_path)
    folder = cache.root / "converted"
    first, second = (folder / f"{digit * 64}.v2.safetensors" for digit in "ab")
    for path in (second, first):
        replace_file(path, b"weights", parents=True)
    (folder / "readme.safetensors").write_bytes(b"named by no digest")
    cache.pin_derived(first, DIGEST)
    assert list(verify_conversions(cache)) == [
        Finding("converted", "ok", first, str(first), DIGEST, DIGEST, "pinned"),
        Finding("converted", "unpinned", second, str(second), DIGEST, None, None),
    ]
    cache.pin_derived(second, "0" * 64)
    assert list(verify_conversions(cache))[1] == Finding(
        "converted", "mismatch", second, str(second), DIGEST, "0" * 64, "pinned"
    )
