"""Checkpoints of older formats, converted once to safetensors in the cache so that later loads are fast."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from miil21k.files import atomic
from miil21k.store.cache import Cache
from miil21k.store.download import obtain
from miil21k.store.integrity import sha256_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from miil21k.store.cache import CachedFile
    from miil21k.zoo.schema import Weights

__all__ = ["converted", "fetch_safetensors"]

log = logging.getLogger("miil21k.store")

# Part of the file name: raise it when `read_state_dict` returns other names or tensors for the same file.
_READER_VERSION = 2


def fetch_safetensors(
    weights: Weights,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
) -> CachedFile:
    """Return a local file with the tensors of these weights, published names: `fetch_weights`, then `converted`.

    Its digest and source are those of the published file.
    """
    cached = obtain(weights, revision=revision, cache_dir=cache_dir, offline=offline)
    return cached._replace(path=converted(cached, Cache.at(cache_dir)))


def converted(cached: CachedFile, cache: Cache) -> Path:
    """Return the safetensors file that holds the tensors of a cached file; written when it is not there yet.

    It is named by the digest of the file that it came from, and pinned like that one: when it was written to since,
    it is made anew. Where the cache cannot be written to, the file itself is returned. Raises CheckpointError for a
    file that is damaged, or that would run code.
    """
    if cached.source.format == "safetensors":
        return cached.path
    target = cache.root / "converted" / f"{cached.sha256}.v{_READER_VERSION}.safetensors"
    if _is_as_written(target, cache):
        return target
    cache.sweep()
    from miil21k.zoo.checkpoint import read_state_dict

    tensors = dict(_apart(read_state_dict(cached.path)))
    try:
        sha256 = _save(tensors, target)
    except OSError:
        return cached.path
    cache.pin_derived(target, sha256)
    return target


def _is_as_written(target: Path, cache: Cache) -> bool:
    """Return whether the converted file is what was written; it is hashed again when its size or time differ."""
    pin = cache.derived_pin(target)
    if pin is None or not target.is_file():
        return False
    if pin.still_describes(target):
        return True
    if sha256_of(target) != pin.sha256:
        log.warning("'%s' was changed since it was converted; it is converted anew from the checked file.", target)
        return False
    cache.pin_derived(target, pin.sha256)
    return True


def _apart(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors, each in memory of its own: safetensors stores no views."""
    seen = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        own = tensor.is_contiguous() and storage.nbytes() == tensor.nbytes and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        yield name, tensor if own else tensor.contiguous().clone()


def _save(tensors: dict[str, Tensor], target: Path) -> str:
    """Write the tensors and return the digest of the file; raises OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        # safetensors sorts; one published layout (LeViT) is known by the order of its tensors alone.
        order = json.dumps(list(tensors))
        with atomic(target, parents=True) as part:
            save_file(tensors, part, metadata={"tensor_order": order})  # one key: equal bytes
            return sha256_of(part)
    except SafetensorError as error:  # how the library reports a full disk
        raise OSError(str(error)) from None
