"""Is this file the one that was published? Digests, and what can be told of a file without opening it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from miil21k.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from miil21k.zoo.schema import FileFormat

__all__ = ["digest_fits", "file_damage", "sha256_of", "tensors_digest"]

_BLOCK = 1 << 20


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits. Raises CheckpointError for a file that cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}.") from None
    return digest.hexdigest()


def digest_fits(found: str, expected: str) -> bool:
    """Return whether a full digest equals `expected`, which may be a prefix of at least one digit."""
    return bool(expected) and found.startswith(expected.lower())


def file_damage(path: Path, file_format: FileFormat) -> str | None:
    """Return what shows that `path` is no whole file of its format, or None.

    Only ends and indices are read, so this is no proof of integrity. It keeps login pages, error texts and cut
    files out of the cache when no digest was published.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if file_format == "safetensors":
        return _safetensors_damage(path, head)
    if file_format == "json":
        return None if head.lstrip().startswith(b"{") else f"no JSON object: it begins with {head[:8]!r}"
    if head.startswith(b"PK"):
        import zipfile

        return None if zipfile.is_zipfile(path) else "the archive is cut"
    if file_format == "pth" and head.startswith(b"\x80"):
        return None  # the pickle of old PyTorch has no index to check
    return f"no {file_format} file: it begins with {head[:8]!r}"


def _safetensors_damage(path: Path, head: bytes) -> str | None:
    """Check the frame: eight bytes of header length, the header as JSON, then exactly the tensors it lists."""
    length, size = int.from_bytes(head[:8], "little"), path.stat().st_size
    if head[8:9] != b"{":
        return f"no safetensors file: it begins with {head[:8]!r}"
    if 8 + length > size:
        return "the file is cut inside its header"
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return None
    except SafetensorError as error:
        return f"damaged safetensors file ({error})"


def tensors_digest(model: nn.Module) -> str:
    """Return the hex SHA-256 of a model's tensors, by name; the same for any file format they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.view(-1).numpy().tobytes())
    return digest.hexdigest()
