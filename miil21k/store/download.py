"""A manifest row in, a checked file on this machine out. Imports no torch."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from miil21k.errors import ChecksumMismatch, DownloadError, Miil21kError, MissingExtra, UsageError
from miil21k.files import Lock, scratch_folder
from miil21k.store.cache import Cache, CachedFile, address, find_cached, hub_digest, is_offline, remove_with_blob
from miil21k.store.http_download import Transfer, Unreachable, download_part
from miil21k.store.hub import download_from_hub, endpoint
from miil21k.store.integrity import digest_fits, file_damage, sha256_of
from miil21k.zoo.manifest import find_weights

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from miil21k.zoo.schema import Source, Weights

__all__ = ["check_revision", "fetch_anew", "fetch_weights", "obtain"]

log = logging.getLogger("miil21k.store")


def fetch_weights(
    weights: Weights | str,
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    offline: bool | None = None,
    progress: bool | None = None,
) -> Path:
    """Return a local file of these weights whose digest was checked, downloaded only when none lies here.

    The cache is asked first, for every source; a hit makes no request. Then the sources are tried in order.
    weights: a row of the manifest, or a name of one.
    revision: branch, tag or commit of the Hub repository; other sources have none and are left out then.
    cache_dir: replaces the places that the environment names. offline: True never connects; None asks
    $HF_HUB_OFFLINE. progress: a bar on stderr; None shows it on a terminal.

    Raises DownloadError, with every source and its reason, when none gave the file; ChecksumMismatch when a
    cached file, or every file that came, is not the one that was published or pinned; MissingExtra when the
    weights are in a package that is not installed; UsageError for a revision of what is not on the Hub; UnknownModel.
    """
    weights = find_weights(weights) if isinstance(weights, str) else weights
    return obtain(weights, revision=revision, cache_dir=cache_dir, offline=offline, progress=progress).path


def obtain(
    weights: Weights,
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    offline: bool | None = None,
    progress: bool | None = None,
    accept_new: bool = False,
) -> CachedFile:
    """Return what `fetch_weights` returns, with its digest and its source.

    accept_new: take, and pin, a file that nothing vouches for although another source of these weights is pinned here
    and gave nothing; else that is a ChecksumMismatch.
    """
    check_revision(weights, revision)
    cache = Cache.at(cache_dir)
    found = find_cached(weights, cache, revision, accept_new=accept_new)
    if found is not None:
        return found
    if (package := _only_package(weights)) is not None:
        raise MissingExtra(package, "embedded", f"The model '{weights.name}'")
    if is_offline(offline):
        here = next((path for s in weights.sources for path in cache.paths(s, revision)), None)
        if here is not None:
            raise ChecksumMismatch(
                f"Nothing vouches for {here}, and another source of {weights.name} was pinned here. "
                f"Where you trust it, take it with 'miil21k fetch --offline --accept-new {weights.name}'."
            )
        raise DownloadError(
            f"{weights.name} is not in the cache ({cache.root} and {cache.hub}), and the network is off limits "
            f"(offline, HF_HUB_OFFLINE). {_ways_on(weights)}"
        )
    cache.sweep()
    shown = sys.stderr.isatty() if progress is None else progress
    failures: list[tuple[Source, Miil21kError]] = []
    silent: dict[str, Unreachable] = {}
    for source in weights.sources:
        host = urlsplit(endpoint() if source.kind == "hub" else source.url or "").netloc
        try:
            if host in silent:
                raise silent[host]
            found = _download(source, revision, cache, shown, None if accept_new else weights)
        except Unreachable as error:
            failures.append((source, silent.setdefault(host, error)))
        except (DownloadError, ChecksumMismatch) as error:
            failures.append((source, error))
        else:
            if failures:
                tried = "; ".join(f"{address(s, revision)} ({error})" for s, error in failures)
                log.warning("%s came from %s. Tried before: %s.", weights.name, address(source, revision), tried)
            _forget_parts(weights, cache)
            return found
    raise _gave_up(weights, revision, failures)


def check_revision(weights: Weights, revision: str | None) -> None:
    """Raise UsageError for a revision of weights that are not on the Hub, where alone there are revisions."""
    if revision is not None and all(source.kind != "hub" for source in weights.sources):
        raise UsageError(f"{weights.name} is not on the Hub, so it has no revision '{revision}': leave it out.")


def fetch_anew(
    weights: Weights,
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    progress: bool | None = None,
) -> CachedFile:
    """Download these weights although they are cached, and replace the cached file and its pin.

    A digest of the manifest still holds; one that was pinned does not. The old file stays when no source gives a
    new one. Raises what `fetch_weights` raises.
    """
    cache = Cache.at(cache_dir)
    cache.sweep()
    with scratch_folder(cache.root, "anew") as folder:
        found = obtain(weights, revision=revision, cache_dir=folder, progress=progress)
        keep = None
        if found.path.is_relative_to(folder):  # else it is a file of a package or of torch.hub
            keep = cache.file(found.source, revision)
            keep.parent.mkdir(parents=True, exist_ok=True)
            # A kill in between leaves the old file or the new one, whole and without a pin that says otherwise.
            cache.unpin(found.source, revision)
            found.path.resolve().replace(keep)
            cache.write_pin(found.source, keep, found.sha256, revision)
        for source in weights.sources:
            cache.forget(source, revision, keep=keep)
    weights = find_weights(weights) if isinstance(weights, str) else weights
    return obtain(weights, revision=revision, cache_dir=cache_dir, offline=True)


def _forget_parts(weights: Weights, cache: Cache) -> None:
    """Remove what is left of downloads from other sources, now that the file is here."""
    for source in weights.sources:
        target = cache.file(source)
        part = target.with_name(target.name + ".part")
        if source.kind == "url" and part.exists():
            with suppress(UsageError, OSError), Lock(cache.lock(source), busy="another process is downloading it"):
                Transfer(source.url or "", part).discard()


def _only_package(weights: Weights) -> str | None:
    """Return the package that is the only source of these weights, or None."""
    packages = [s.package for s in weights.sources if s.kind == "package"]
    return packages[0] if len(packages) == len(weights.sources) else None


class _NotVouched(ChecksumMismatch):
    """A file that may be right, but that nothing vouches for, in the place of one that was pinned."""


def _download(
    source: Source, revision: str | None, cache: Cache, progress: bool, careful: Weights | None
) -> CachedFile:
    """Return the checked file of one source. Raises DownloadError or ChecksumMismatch with the reason alone.

    careful: the weights among whose other sources one may be pinned; None takes a new file all the same.
    """
    if source.kind == "package":
        raise DownloadError(f"the package {source.package} is not installed")
    if source.kind == "hub":
        return _from_hub(source, revision, cache, progress, careful)
    if revision is not None:
        raise DownloadError(f"has no revisions, and '{revision}' was asked for")
    return _from_mirror(source, cache, progress, careful)


def _from_hub(
    source: Source, revision: str | None, cache: Cache, progress: bool, careful: Weights | None
) -> CachedFile:
    path = download_from_hub(source, revision, cache.hub, progress)
    try:
        sha256 = _accept(source, path, cache, careful, revision)
    except _NotVouched:
        raise  # it may be a file that another program keeps there
    except (DownloadError, ChecksumMismatch):
        remove_with_blob(path)  # or the Hub's client would serve it for ever
        raise
    cache.write_pin(source, path, sha256, revision)
    return CachedFile(path, sha256, source)


def _from_mirror(source: Source, cache: Cache, progress: bool, careful: Weights | None) -> CachedFile:
    assert source.url is not None
    target = cache.file(source)
    try:
        with Lock(cache.lock(source)):
            found = cache.find(source)  # another process may have fetched it while this one waited
            if found is not None:
                return found
            transfer = Transfer(source.url, target.with_name(target.name + ".part"), source.size, progress)
            download_part(transfer)
            try:
                sha256 = _accept(source, transfer.part, cache, careful)
            except (DownloadError, ChecksumMismatch):
                transfer.discard()
                raise
            transfer.part.replace(target)
            cache.write_pin(source, target, sha256)
    except OSError as error:
        raise DownloadError(f"cannot write to {cache.root}: {error.strerror or error}") from None
    return CachedFile(target, sha256, source)


def _accept(source: Source, path: Path, cache: Cache, careful: Weights | None, revision: str | None = None) -> str:
    """Return the digest of a file that just came. Raises when it is damaged, or another one than it should be."""
    size = path.stat().st_size
    if revision is None and source.size not in (None, size):
        raise DownloadError(f"the file has {size} bytes, published are {source.size}")
    sha256 = sha256_of(path)
    for demand in (cache.expected(source, revision), hub_digest(path)):
        if demand is not None and not digest_fits(sha256, demand[0]):
            raise ChecksumMismatch(f"wrong digest: SHA-256 is {sha256}, {demand[1]} is {demand[0]}")
    damage = file_damage(path, source.format)
    if damage is not None:
        raise DownloadError(damage)
    sibling = cache.pinned_sibling(careful, source, revision) if careful is not None else None
    pin = cache.pin(sibling, revision) if sibling is not None else None
    if sibling is not None and pin is not None and pin.sha256 != sha256:
        raise _NotVouched(
            f"nothing vouches for this file (SHA-256 {sha256}), and {address(sibling, revision)} was pinned here, "
            f"to {pin.sha256}"
        )
    return sha256


def _gave_up(
    weights: Weights, revision: str | None, failures: list[tuple[Source, Miil21kError]]
) -> DownloadError | ChecksumMismatch:
    tried = "; ".join(f"{address(source, revision)} ({error})" for source, error in failures)
    if any(isinstance(error, _NotVouched) for _, error in failures):
        return ChecksumMismatch(
            f"The file of {weights.name} that was pinned here cannot be had again: {tried}. "
            f"Where you trust the new one, take it with 'miil21k fetch --accept-new {weights.name}'. "
            f"{_ways_on(weights)}"
        )
    if all(isinstance(error, ChecksumMismatch) for _, error in failures):
        return ChecksumMismatch(
            f"No source gave the right file of {weights.name}: {tried}. If it was replaced on purpose, take the new "
            f"one with 'miil21k fetch --force {weights.name}'. {_ways_on(weights)}"
        )
    return DownloadError(f"{weights.name} could not be downloaded. Tried: {tried}. {_ways_on(weights)}")


def _ways_on(weights: Weights) -> str:
    """Return the sentence with the ways on: a mirror, a file of one's own, a bundle."""
    if any(source.kind == "hub" for source in weights.sources):
        mirror = "set HF_ENDPOINT to a mirror of the Hub"
    elif weights.unverified_copies:
        copies = ", ".join(s.where for s in weights.unverified_copies)
        mirror = f"no mirror is known but a copy that nobody has compared with the original ({copies})"
    else:
        mirror = "no mirror is known"
    bucket = (
        "Its only published place is the bucket of its authors, which has answered 403 Forbidden. "
        if weights.availability == "bucket_only"
        else ""
    )
    own = "pass a file of your own with --checkpoint FILE"
    if weights.family == "timm":  # bundles carry rows of the manifest
        return f"Two ways on: {mirror}; or {own}."
    return (
        f"{bucket}Three ways on: {mirror}; {own}; or carry it over from a machine that has it, with 'miil21k bundle "
        f"create {weights.name} -o FILE.tar' there and 'miil21k bundle install FILE.tar' here."
    )
