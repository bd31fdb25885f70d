"""Recompute the digest of every cached file and say which are what they should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from miil21k.store.cache import address, hub_digest
from miil21k.store.integrity import digest_fits, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from miil21k.store.cache import Cache
    from miil21k.zoo.schema import Source, Weights

__all__ = ["Finding", "verify", "verify_conversions"]


@dataclass(frozen=True)
class Finding:
    """What one cached file turned out to be.

    status: `ok`, `mismatch`, or `unpinned` where no digest was published, and this cache has pinned none yet.
    name: the weights, `converted`, or `export of <weights>`. sha256: recomputed, `missing` for a file that is not
    there. expected: a digest or its first digits; stated_by: who says so (`published`, `published prefix`, `pinned`,
    `the Hub's own digest`, `proved`).
    """

    name: str
    status: Literal["ok", "mismatch", "unpinned"]
    path: Path
    source: str
    sha256: str
    expected: str | None
    stated_by: str | None


def verify(weights: Weights, cache: Cache, revision: str | None = None) -> Iterator[Finding]:
    """Yield one finding per cached file of these weights; nothing is pinned, removed or downloaded."""
    for source in weights.sources:
        if revision is None or source.kind == "hub":
            for path in cache.paths(source, revision):
                finding = _look(weights, source, path, cache, revision)
                if finding is not None:
                    yield finding


def _look(weights: Weights, source: Source, path: Path, cache: Cache, revision: str | None) -> Finding | None:
    demand = cache.expected(source, revision) or hub_digest(path)
    sha256 = sha256_of(path)
    where = address(source, revision)
    if demand is None:
        return Finding(weights.name, "unpinned", path, where, sha256, None, None)
    if digest_fits(sha256, demand[0]):
        return Finding(weights.name, "ok", path, where, sha256, *demand)
    if source.kind == "url" and path != cache.file(source, revision):
        return None  # torch.hub holds another file of the same name
    return Finding(weights.name, "mismatch", path, where, sha256, *demand)


def verify_conversions(cache: Cache) -> Iterator[Finding]:
    """Yield one finding per converted file of the cache."""
    for path in sorted((cache.root / "converted").glob("[0-9a-f]*.safetensors")):
        pin = cache.derived_pin(path)
        sha256 = sha256_of(path)
        if pin is None:
            yield Finding("converted", "unpinned", path, str(path), sha256, None, None)
        else:
            status: Literal["ok", "mismatch"] = "ok" if sha256 == pin.sha256 else "mismatch"
            yield Finding("converted", status, path, str(path), sha256, pin.sha256, "pinned")
