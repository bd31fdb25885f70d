"""Where checkpoint files lie on this machine, and the digests that were pinned when they first came.

Hub files stay in the Hub's own cache, in its own layout. Everything else lies in one folder, `Cache.root`:

```
files/<key>/<file name>             a file from a mirror or a bundle
converted/<digest>.v2.safetensors   the tensors of a file in an older format
pins/<key>.json                     digest, size and time of one of these: what the next look compares with
locks/<key>.lock                    held while a process downloads the file
```

`<key>` is a digest of the source's address and revision, since published base names collide; of a converted file, of
its name. What is still being written bears a name of `miil21k.files`, and `sweep` removes what a kill left.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from miil21k.environment import silence_telemetry
from miil21k.errors import ChecksumMismatch
from miil21k.files import replace_file, sweep
from miil21k.records import StrictJsonError, read_json
from miil21k.store.integrity import digest_fits, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miil21k.zoo.schema import Source, Weights

__all__ = ["Cache", "CachedFile", "Pin", "cached_path", "find_cached", "is_offline"]

silence_telemetry()

_TRUE = {"1", "ON", "YES", "TRUE"}
_FULL_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_offline(offline: bool | None) -> bool:
    """Return whether the network is off limits: `offline`, or one of the Hub's two variables says so."""
    stated = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return bool(offline) or stated.upper() in _TRUE


class Pin(NamedTuple):
    """What a file was when it first came: its digest; and the path, size and time for which that was computed."""

    source: str
    sha256: str
    path: str
    size: int
    mtime_ns: int

    def still_describes(self, path: Path) -> bool:
        """Return whether `path` was not written since, as far as its size and time tell."""
        stat = path.stat()
        return (self.path, self.size, self.mtime_ns) == (str(path), stat.st_size, stat.st_mtime_ns)


class CachedFile(NamedTuple):
    """A file on this machine whose digest is what was published, or pinned when nothing was published."""

    path: Path
    sha256: str
    source: Source


class Cache(NamedTuple):
    """One cache: `root` holds what this package wrote, `hub` is the Hub's cache."""

    root: Path
    hub: Path

    @classmethod
    def at(cls, cache_dir: str | os.PathLike[str] | None = None) -> Cache:
        """Return the cache under `cache_dir`, or the one that the environment names.

        Without `cache_dir`, `root` is the first that is set of $MIIL21K_CACHE, $TORCH_HOME/miil21k,
        $HF_HOME/miil21k and $XDG_CACHE_HOME/miil21k, else ~/.cache/miil21k; `hub` is what huggingface_hub says.
        """
        if cache_dir is not None:
            place = Path(cache_dir).expanduser().absolute()
            return cls(place / "miil21k", place)
        return cls(_root(), _hub_root())

    def key(self, source: Source, revision: str | None = None) -> str:
        """Return the name under which `source` is kept: 32 digits that no other address or revision has."""
        return hashlib.sha256(address(source, revision).encode()).hexdigest()[:32]

    def file(self, source: Source, revision: str | None = None) -> Path:
        """Return where a file of this source goes, whether it is there or not."""
        return self.root / "files" / self.key(source, revision) / source.file.rpartition("/")[2]

    def pin(self, source: Source, revision: str | None = None) -> Pin | None:
        """Return what is recorded of the source, or None; a record that cannot be read counts as none."""
        return _read_pin(self._pin_path(source, revision))

    def write_pin(self, source: Source, path: Path, sha256: str, revision: str | None = None) -> None:
        """Record the digest of the file at `path`."""
        _write_pin(self._pin_path(source, revision), address(source, revision), path, sha256)

    def derived_pin(self, path: Path) -> Pin | None:
        """Return what is recorded of a file that was made here from another one, or None."""
        return _read_pin(self._derived_pin_path(path))

    def pin_derived(self, path: Path, sha256: str) -> None:
        """Record the digest of a file that was made here from another one."""
        _write_pin(self._derived_pin_path(path), f"made here: {path.name}", path, sha256)

    def pinned_sibling(self, weights: Weights, source: Source, revision: str | None = None) -> Source | None:
        """Return another source of the same weights that was pinned here, when nothing vouches for `source` itself.

        Its file then is not simply the first of these weights: it would take the place of one that is known.
        """
        if self.expected(source, revision) is not None:
            return None
        return next((s for s in weights.sources if s != source and self.pin(s, revision) is not None), None)

    def expected(self, source: Source, revision: str | None = None) -> tuple[str, str] | None:
        """Return the digest (or its first digits) that the source must have and who says so, or None.

        A digest of the manifest holds for the manifest's own revision only.
        """
        if revision is None and source.sha256:
            return source.sha256, "published"
        pin = self.pin(source, revision)
        if revision is None and source.sha256_prefix:
            if pin is not None and digest_fits(pin.sha256, source.sha256_prefix):
                return pin.sha256, "pinned"
            return source.sha256_prefix, "published prefix"
        return (pin.sha256, "pinned") if pin is not None else None

    def paths(self, source: Source, revision: str | None = None) -> Iterator[Path]:
        """Yield every place on this machine that holds a file of this source, without looking into it.

        Files that torch.hub downloaded are offered only where a digest can tell them from others of their name.
        """
        own = self.file(source, revision)
        if own.is_file():
            yield own
        if source.kind == "hub":
            found = self._hub_path(source, revision)
        elif source.kind == "package":
            found = _package_path(source)
        else:
            found = _torch_hub_path(source) if self.expected(source, revision) else None
        if found is not None and found.is_file():
            yield found

    def find(self, source: Source, revision: str | None = None) -> CachedFile | None:
        """Return the checked file of this source, or None. The first look at a file pins it.

        Raises ChecksumMismatch when the file is not the one that was published or pinned.
        """
        for path in self.paths(source, revision):
            try:
                return self.check(source, path, revision)
            except ChecksumMismatch:  # noqa: PERF203 - at most two places
                if source.kind != "url" or path == self.file(source, revision):
                    raise  # only a file of torch.hub may be another one of the same name
        return None

    def check(self, source: Source, path: Path, revision: str | None = None) -> CachedFile:
        """Return the file at `path` once its digest is the expected one; a digest known for its time is reused.

        Raises ChecksumMismatch that names file, expected and found digest, and the way out.
        """
        pin = self.pin(source, revision)
        known = pin is not None and pin.still_describes(path)
        sha256 = pin.sha256 if pin is not None and known else sha256_of(path)
        demand = self.expected(source, revision) or hub_digest(path)
        if demand is not None and not digest_fits(sha256, demand[0]):
            raise ChecksumMismatch(
                f"{path} is not the file of {address(source, revision)}: its SHA-256 is {sha256}, "
                f"{demand[1]} is {demand[0]}. "
                "Fetch it anew with 'miil21k fetch --force', or pass a file you trust with --checkpoint."
            )
        if not known:
            self.write_pin(source, path, sha256, revision)
        return CachedFile(path, sha256, source)

    def forget(self, source: Source, revision: str | None = None, *, keep: Path | None = None) -> None:
        """Remove the files of this source, and its pin; files of packages and of torch.hub stay, and so does `keep`."""
        own = self.file(source, revision)
        for path in self.paths(source, revision):
            if path != keep and (path == own or source.kind == "hub"):
                remove_with_blob(path)
        own.with_name(own.name + ".part").unlink(missing_ok=True)
        if keep != own:
            self.unpin(source, revision)

    def unpin(self, source: Source, revision: str | None = None) -> None:
        """Forget the digest of this source: the next look at its file pins what it finds."""
        self._pin_path(source, revision).unlink(missing_ok=True)

    def lock(self, source: Source) -> Path:
        """Return the file that is locked while this source is downloaded."""
        return self.root / "locks" / f"{self.key(source)}.lock"

    def sweep(self, *, remove: bool = True) -> list[Path]:
        """Remove what killed processes left half written in this cache, and return it; remove: else only look."""
        folders = (self.root, *(path for path in self.root.glob("*") if path.is_dir()), *self.root.glob("files/*/"))
        return [path for folder in folders for path in sweep(folder, remove=remove)]

    def unfinished(self) -> list[Path]:
        """Return the downloads that were cut; the next fetch of the same file goes on with them."""
        return sorted(path for path in self.root.glob("files/*/*.part") if path.is_file())

    def _pin_path(self, source: Source, revision: str | None) -> Path:
        return self.root / "pins" / f"{self.key(source, revision)}.json"

    def _derived_pin_path(self, path: Path) -> Path:
        return self.root / "pins" / f"{hashlib.sha256(path.name.encode()).hexdigest()[:32]}.json"

    def _hub_path(self, source: Source, revision: str | None) -> Path | None:
        assert source.repo is not None
        folder = self.hub / f"models--{source.repo.replace('/', '--')}"
        if not folder.is_dir():
            return None
        # The plain case by hand: it saves the import of the client, a third of a second.
        with contextlib.suppress(OSError):
            commit = (folder / "refs" / (revision or source.revision or "main")).read_text(encoding="utf-8").strip()
            if commit and (path := folder / "snapshots" / commit / source.file).is_file():
                return path
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(
            source.repo, source.file, cache_dir=self.hub, revision=revision or source.revision
        )
        return Path(found) if isinstance(found, str) else None


def _read_pin(path: Path) -> Pin | None:
    try:
        return read_json(path, Pin)
    except (OSError, StrictJsonError):
        return None


def _write_pin(place: Path, source: str, path: Path, sha256: str) -> None:
    stat = path.stat()
    pin = Pin(source, sha256, str(path), stat.st_size, stat.st_mtime_ns)
    # A shared cache may be read-only; then the digest is computed anew each time, and nothing is lost.
    with contextlib.suppress(OSError):
        replace_file(place, json.dumps(pin._asdict(), indent=1), parents=True)


def address(source: Source, revision: str | None = None) -> str:
    """Return what identifies a source: its address, and for the Hub the revision."""
    if source.kind != "hub":
        return source.where
    return f"{source.where}@{revision or source.revision or 'main'}"


def hub_digest(path: Path) -> tuple[str, str] | None:
    """Return the digest that the Hub itself gave for a file of its cache: the name of the blob behind it."""
    name = path.resolve().name
    return (name, "the Hub's own digest") if path.is_symlink() and _FULL_DIGEST.fullmatch(name) else None


def remove_with_blob(path: Path) -> None:
    """Remove a file; where it is a link of the Hub's cache, also what it points to."""
    blob = path.resolve() if path.is_symlink() else None
    path.unlink(missing_ok=True)
    if blob is not None:
        blob.unlink(missing_ok=True)


def cached_path(
    weights: Weights, *, revision: str | None = None, cache_dir: str | os.PathLike[str] | None = None
) -> Path | None:
    """Return where a file of these weights lies on this machine, or None; its digest is not looked at."""
    cache = Cache.at(cache_dir)
    sources = (s for s in weights.sources if revision is None or s.kind == "hub")
    return next((path for source in sources for path in cache.paths(source, revision)), None)


def find_cached(
    weights: Weights, cache: Cache, revision: str | None = None, *, accept_new: bool = False
) -> CachedFile | None:
    """Return the first checked file of these weights in the cache, or None. Raises ChecksumMismatch.

    A file that nothing vouches for is passed over while another source is pinned, unless accept_new says otherwise.
    """
    for source in weights.sources:
        if revision is None or source.kind == "hub":
            here = next(cache.paths(source, revision), None) is not None
            if here and (accept_new or cache.pinned_sibling(weights, source, revision) is None):
                found = cache.find(source, revision)
                if found is not None:
                    return found
    return None


def _root() -> Path:
    if own := os.environ.get("MIIL21K_CACHE"):
        return Path(own).expanduser().absolute()
    for variable in ("TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME"):
        if place := os.environ.get(variable):
            return Path(place).expanduser().absolute() / "miil21k"
    return Path.home() / ".cache" / "miil21k"


def _hub_root() -> Path:
    """Return the Hub's cache as its client finds it, whose import would take longer than a start may."""
    home = os.environ.get("HF_HOME", str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"))
    place = os.environ.get("HF_HUB_CACHE", os.environ.get("HUGGINGFACE_HUB_CACHE", str(Path(home) / "hub")))
    return Path(os.path.expandvars(place)).expanduser()


def _torch_hub_path(source: Source) -> Path:
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints" / source.file.rpartition("/")[2]


def _package_path(source: Source) -> Path | None:
    assert source.package is not None
    spec = importlib.util.find_spec(source.package)
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((Path(folder) / source.file for folder in folders), None)
