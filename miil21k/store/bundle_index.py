"""What a bundle may hold, and its table of contents; reading it trusts nothing that the file says.

```
bundle.json               format, writer, which file belongs to which weights, size and SHA-256 of every other member
weights_manifest.json     the rows of these weights, in the manifest's own format
weights/<sha256>          a checkpoint file, as it was published
label_spaces/<name>.tsv   what its logits mean
calibration/<name>.json   how its probabilities are calibrated, where that was given
```
"""

from __future__ import annotations

import re
import tarfile
from typing import TYPE_CHECKING, NamedTuple

from miil21k.errors import BundleError
from miil21k.records import StrictJsonError, parse
from miil21k.zoo.manifest import parse_manifest
from miil21k.zoo.schema import Source  # noqa: TC001 - read_record looks the annotation up

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.zoo.schema import Manifest

__all__ = ["INDEX", "ROWS", "BundleEntry", "BundleIndex", "BundleMember", "read_index", "read_text"]

FORMAT = 1
INDEX = "bundle.json"
ROWS = "weights_manifest.json"
_NAMES = re.compile(
    r"bundle\.json|weights_manifest\.json|weights/[0-9a-f]{64}|label_spaces/[a-z0-9_]+\.tsv"
    r"|calibration/[A-Za-z0-9_][A-Za-z0-9_.-]*\.json"
)
_MAX_MEMBERS = 1000
_MAX_TEXT = 64 << 20  # bytes of a member that is read into memory; the largest label space has 4 MB


class BundleMember(NamedTuple):
    """One file of the bundle: its name, its size in bytes and its SHA-256."""

    name: str
    size: int
    sha256: str


class BundleEntry(NamedTuple):
    """Which member holds the file of which weights, and where that file was published."""

    name: str
    member: str
    source: Source


class BundleIndex(NamedTuple):
    """The content of bundle.json. written_by: the version of miil21k that made the bundle."""

    format: int
    written_by: str
    entries: tuple[BundleEntry, ...]
    members: tuple[BundleMember, ...]


def read_index(tar: tarfile.TarFile, path: Path) -> tuple[BundleIndex, Manifest]:
    """Return the index and the rows of an open bundle after checking that it holds what they say, and no more.

    Sizes are compared, digests are not: the caller does that while it copies. Raises BundleError, and
    ManifestError for a row that breaks the manifest's schema.
    """
    found = _members(tar, path)
    try:
        index = parse(read_text(tar, INDEX, path), BundleIndex)
    except StrictJsonError as error:
        raise BundleError(f"{path}: {INDEX} cannot be read: {error}.") from None
    if index.format != FORMAT:
        raise BundleError(f"{path} has format {index.format}; this miil21k reads {FORMAT}.")
    listed = {member.name: member.size for member in index.members}
    if listed.keys() != found.keys() - {INDEX} or len(listed) != len(index.members):
        odd = sorted(listed.keys() ^ (found.keys() - {INDEX})) or ["a name listed twice"]
        raise BundleError(f"{path}: its index and its content differ in {', '.join(odd[:3])}.")
    for name, size in listed.items():
        if found[name] != size:
            raise BundleError(f"{path}: '{name}' has {found[name]} bytes, its index says {size}.")
    rows = parse_manifest(read_text(tar, ROWS, path))
    held = sorted(entry.name for entry in index.entries)
    if held != sorted(row.name for row in rows.models) or any(e.member not in listed for e in index.entries):
        raise BundleError(f"{path}: its rows and its entries name different weights or files.")
    return index, rows


def _members(tar: tarfile.TarFile, path: Path) -> dict[str, int]:
    """Return name and size of every member. Raises BundleError for anything but plain files of the known names."""
    found: dict[str, int] = {}
    size = path.stat().st_size
    for info in tar:
        if not _NAMES.fullmatch(info.name):
            raise BundleError(f"{path} holds '{info.name}', which no bundle holds. Nothing was installed.")
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.issparse():
            raise BundleError(f"{path}: '{info.name}' is no plain file. Nothing was installed.")
        if info.name in found:
            raise BundleError(f"{path} holds '{info.name}' twice. Nothing was installed.")
        if info.offset_data + info.size > size:
            raise BundleError(f"{path} is cut inside '{info.name}': copy it again.")
        found[info.name] = info.size
        if len(found) > _MAX_MEMBERS:
            raise BundleError(f"{path} holds more than {_MAX_MEMBERS} files. Nothing was installed.")
    if INDEX not in found or ROWS not in found:
        raise BundleError(f"{path} is no bundle: it lacks {INDEX if INDEX not in found else ROWS}.")
    return found


def read_text(tar: tarfile.TarFile, name: str, path: Path) -> str:
    """Return a small member as text. Raises BundleError for one that is large or no UTF-8."""
    info = tar.getmember(name)
    if info.size > _MAX_TEXT:
        raise BundleError(f"{path}: '{name}' has {info.size} bytes, more than such a file ever has.")
    file = tar.extractfile(info)
    assert file is not None  # only plain files came this far
    with file:
        try:
            return file.read().decode("utf-8")
        except UnicodeDecodeError:
            raise BundleError(f"{path}: '{name}' is no UTF-8 text.") from None
