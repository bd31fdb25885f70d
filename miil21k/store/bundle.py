"""One plain tar with all that a machine without a network needs to use some weights: write it, install it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from miil21k import __version__
from miil21k.errors import BundleError, ChecksumMismatch, UnknownModel, UsageError
from miil21k.files import atomic, replace_file, scratch_folder, sweep
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import known_texts
from miil21k.records import StrictJsonError, parse, to_json
from miil21k.store.bundle_index import (
    FORMAT,
    INDEX,
    ROWS,
    BundleEntry,
    BundleIndex,
    BundleMember,
    read_index,
    read_text,
)
from miil21k.store.cache import Cache
from miil21k.store.download import obtain
from miil21k.store.integrity import digest_fits, file_damage
from miil21k.zoo.manifest import SCHEMA_VERSION, find_weights

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from miil21k.calibrate.record import Calibration
    from miil21k.store.cache import CachedFile
    from miil21k.zoo.schema import Source, Weights

__all__ = ["calibration_path", "create_bundle", "install_bundle"]

_BLOCK = 1 << 20


def create_bundle(
    rows: Sequence[Weights],
    output: Path,
    *,
    calibrations: Mapping[str, Calibration] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
) -> BundleIndex:
    """Write the files of these weights to one tar and return its index; what is not cached is downloaded first.

    calibrations: by canonical name. The tar is uncompressed, since weights do not compress, and equal input gives equal
    bytes. Raises UsageError for a calibration of another label space or head than its weights have, OSError when
    `output` cannot be written, and what `fetch_weights` raises.
    """
    calibrations = calibrations or {}
    for row in rows:
        if row.name in calibrations:
            _require_of(row, calibrations[row.name])
    files = {row.name: obtain(row, cache_dir=cache_dir, offline=offline) for row in rows}
    texts = {ROWS: _rows_text(rows), **_space_texts(rows)}
    for name, calibration in calibrations.items():
        texts[f"calibration/{name}.json"] = calibration.to_json()
    blobs = {f"weights/{file.sha256}": file for file in files.values()}
    index = BundleIndex(
        FORMAT,
        __version__,
        tuple(BundleEntry(name, f"weights/{file.sha256}", file.source) for name, file in files.items()),
        (
            *(BundleMember(n, len(t.encode()), hashlib.sha256(t.encode()).hexdigest()) for n, t in texts.items()),
            *(BundleMember(n, file.path.stat().st_size, file.sha256) for n, file in blobs.items()),
        ),
    )
    with _new_tar(output) as tar:
        for name, text in {INDEX: json.dumps(to_json(index), indent=1), **texts}.items():
            tar.addfile(_plain(name, len(text.encode())), io.BytesIO(text.encode()))
        for name, file in blobs.items():
            _add(tar, name, file)
    return index


def _require_of(row: Weights, calibration: Calibration) -> None:
    """Raise UsageError unless the calibration was made for a head like that of `row`."""
    space = load_label_space(row.label_space) if row.label_space else None
    if calibration.head != row.head or (space is not None and calibration.sha256 != space.sha256):
        raise UsageError(
            f"The calibration is of a {calibration.head} head of '{calibration.label_space}', '{row.name}' has a "
            f"{row.head} head of '{row.label_space}': name the calibration of these weights."
        )


def _rows_text(rows: Sequence[Weights]) -> str:
    content = {"schema_version": SCHEMA_VERSION, "models": to_json(tuple(rows)), "unreleased": [], "resources": []}
    return json.dumps(content, indent=1, ensure_ascii=False)


def _space_texts(rows: Sequence[Weights]) -> dict[str, str]:
    names = {row.label_space for row in rows if row.label_space}
    names |= {candidate.label_space for row in rows for candidate in row.candidates}
    return {f"label_spaces/{name}.tsv": load_label_space(name).to_text() for name in sorted(names)}


def _require_object(text: str, origin: str) -> None:
    """Raise BundleError unless the text of a calibration is a JSON object."""
    try:
        whole = isinstance(parse(text), dict)
    except StrictJsonError:
        whole = False
    if not whole:
        raise BundleError(f"{origin} is no calibration: expected a JSON object.")


@contextmanager
def _new_tar(output: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar beside `output`, which replaces it once it is whole."""
    sweep(output.absolute().parent)
    with atomic(output.absolute()) as part, tarfile.open(part, mode="w", format=tarfile.PAX_FORMAT) as tar:
        yield tar


def _plain(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)  # mode 644, time 0, nobody's: the same bytes on every machine
    info.size = size
    return info


class _Hashing:
    """A reader that hashes what passes through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        block = self._file.read(size)
        self.digest.update(block)
        return block


def _add(tar: tarfile.TarFile, name: str, cached: CachedFile) -> None:
    with cached.path.open("rb") as file:
        reader = _Hashing(file)
        tar.addfile(_plain(name, cached.path.stat().st_size), reader)  # type: ignore[arg-type]
    if reader.digest.hexdigest() != cached.sha256:
        raise ChecksumMismatch(f"{cached.path} has changed since it was checked: run 'miil21k verify'.")


def install_bundle(path: Path, *, cache_dir: str | os.PathLike[str] | None = None) -> BundleIndex:
    """Put the files of a bundle into the cache, where `fetch_weights` finds them, and return its index.

    Everything is checked before the first file takes its place: names and kinds of the members, sizes, every
    digest (against the bundle's index, this installation's manifest and what this cache has pinned), the schema of
    the rows, and that label spaces are those of this installation.
    Raises BundleError, ManifestError, ChecksumMismatch or UnknownModel; nothing is installed then.
    """
    cache = Cache.at(cache_dir)
    try:
        with tarfile.open(path, "r:") as tar:
            index, rows = read_index(tar, path)
            places = [_place(entry, rows.models, path) for entry in index.entries]
            digests = {member.name: member.sha256 for member in index.members}
            for entry, (_, source) in zip(index.entries, places, strict=True):
                _require_published(entry, source, digests[entry.member], cache, path)
            _check_texts(tar, index, path)
            _install(tar, index, [source for _, source in places], cache, path)
    except tarfile.TarError as error:
        raise BundleError(f"{path} is no bundle: it is not a plain tar ({error}).") from None
    except RecursionError:
        raise BundleError(f"{path} is no bundle: its JSON is nested without end.") from None
    except OSError as error:
        raise BundleError(f"Cannot install {path}: {error.strerror or error}.") from None
    return index


def _place(entry: BundleEntry, rows: tuple[Weights, ...], path: Path) -> tuple[Weights, Source]:
    """Return this installation's row and source for an entry. Raises when it means something else there."""
    row = next(r for r in rows if r.name == entry.name)
    try:
        own = find_weights(entry.name)
    except UnknownModel:
        own = None
    if own is None or own.name != entry.name:
        raise UnknownModel(f"{path} holds '{entry.name}', which this miil21k ({__version__}) does not know: upgrade.")
    for name in ("arch", "label_space", "num_classes", "head"):
        if getattr(row, name) != getattr(own, name):
            raise BundleError(
                f"{path}: '{entry.name}' has {name} {getattr(row, name)} there and {getattr(own, name)} here: "
                "use the same version of miil21k on both machines."
            )
    source = next((s for s in own.sources if (s.kind, s.where) == (entry.source.kind, entry.source.where)), None)
    if source is None:
        raise BundleError(f"{path}: {entry.source.where} is no source of '{entry.name}' that this miil21k knows.")
    return own, source


def _require_published(entry: BundleEntry, source: Source, sha256: str, cache: Cache, path: Path) -> None:
    demand = cache.expected(source)
    if entry.member != f"weights/{sha256}":
        raise BundleError(f"{path}: '{entry.member}' is not named by its digest.")
    if demand is not None and not digest_fits(sha256, demand[0]):
        raise ChecksumMismatch(
            f"{path}: the file of {entry.name} has SHA-256 {sha256}, {demand[1]} is {demand[0]}. Nothing was installed."
        )


def _check_texts(tar: tarfile.TarFile, index: BundleIndex, path: Path) -> None:
    """Check the digests of all small members, and that they say what they may say."""
    for member in index.members:
        folder, _, name = member.name.rpartition("/")
        if folder == "weights":
            continue
        text = read_text(tar, member.name, path)
        _require_digest(hashlib.sha256(text.encode()).hexdigest(), member, path)
        space = name.removesuffix(".tsv")
        if folder == "label_spaces" and text not in known_texts(space):
            raise BundleError(
                f"{path}: its label space '{space}' is not the one of this miil21k ({__version__}): "
                "use the same version on both machines."
            )
        if folder == "calibration":
            if name.removesuffix(".json") not in {entry.name for entry in index.entries}:
                raise BundleError(f"{path}: '{member.name}' belongs to no weights of this bundle.")
            _require_object(text, f"{path}: '{member.name}'")


def _require_digest(found: str, member: BundleMember, path: Path) -> None:
    if found != member.sha256:
        raise ChecksumMismatch(
            f"{path}: '{member.name}' has SHA-256 {found}, its index says {member.sha256}: copy the bundle again."
        )


def _install(tar: tarfile.TarFile, index: BundleIndex, sources: Sequence[Source], cache: Cache, path: Path) -> None:
    """Stage all weights beside their places, then move them; a refusal removes the stage."""
    cache.root.mkdir(parents=True, exist_ok=True)
    cache.sweep()
    weights = {m.name: m for m in index.members if m.name.startswith("weights/")}
    needed, free = sum(m.size for m in weights.values()), shutil.disk_usage(cache.root).free
    if needed > free:
        raise BundleError(f"{path} needs {needed} bytes, but {cache.root} has only {free} bytes free.")
    with scratch_folder(cache.root, "staged") as folder:
        for name, member in weights.items():
            _stage(tar, member, folder / name.rpartition("/")[2], path)
        for entry, source in zip(index.entries, sources, strict=True):
            damage = file_damage(folder / entry.member.rpartition("/")[2], source.format)
            if damage is not None:
                raise BundleError(f"{path}: the file of {entry.name} is damaged: {damage}.")
        uses = Counter(entry.member for entry in index.entries)
        for entry, source in zip(index.entries, sources, strict=True):
            staged = folder / entry.member.rpartition("/")[2]
            uses[entry.member] -= 1
            if uses[entry.member]:  # another name needs the same file
                staged = Path(shutil.copyfile(staged, staged.with_suffix(".copy")))
            target = cache.file(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.replace(target)
            cache.write_pin(source, target, weights[entry.member].sha256)
        for member in index.members:
            if member.name.startswith("calibration/"):
                text = read_text(tar, member.name, path)
                replace_file(calibration_path(cache, Path(member.name).stem), text, parents=True)


def _stage(tar: tarfile.TarFile, member: BundleMember, staged: Path, path: Path) -> None:
    file = tar.extractfile(member.name)
    assert file is not None
    digest = hashlib.sha256()
    with file, staged.open("wb") as copy:
        while block := file.read(_BLOCK):
            digest.update(block)
            copy.write(block)
    _require_digest(digest.hexdigest(), member, path)


def calibration_path(cache: Cache, name: str) -> Path:
    """Return where an installed bundle puts the calibration of the weights called `name`."""
    return cache.root / "calibration" / f"{name}.json"
