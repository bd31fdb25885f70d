"""Checkpoint files in, tensors out; and the strict fit of tensors to a model. Never runs code from a file."""

from __future__ import annotations

import argparse
import pickle
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from miil21k.errors import CheckpointError, CheckpointMismatch
from miil21k.records import parse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

__all__ = ["load_strictly", "read_state_dict"]

# Where training scripts put the tensors: MIIL, USI and EdgeNeXt, then Facebook's.
_WRAPPERS = ("state_dict", "model")
# Stored weights hardly compress; an archive that unpacks to far more than its size is an attack on the memory.
_MAX_EXPANSION = 20
# What torch's restricted unpickler says when a file asks for a function or class that is no tensor.
_CODE_SIGNS = ("unsupported global", "unsupported class", "unrecognized function")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a safetensors file, a PyTorch checkpoint or a NumPy archive, on the CPU.

    The kind is read from the content, not from the name. Training wrappers (`state_dict`, `model`) are taken off;
    names stay as they are.
    Raises CheckpointError for a file that is missing, damaged, holds anything but tensors, unpacks to many
    times its size, or needs code from the file to run.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"Cannot read the checkpoint {path}: {error.strerror}.") from None
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        return _read_archive(path)
    return _read_pickle(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors, in the order of the file that this one was converted from where that is written down."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            order = parse((file.metadata() or {}).get("tensor_order", "[]"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from None
    named = isinstance(order, list) and all(isinstance(name, str) for name in order)
    if named and sorted(order) == sorted(tensors):
        return {name: tensors[name] for name in order}
    return tensors


def _read_archive(path: Path) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise _damaged(path, error) from None
    unpacked, size = sum(m.file_size for m in members), path.stat().st_size
    if unpacked > _MAX_EXPANSION * size:
        raise CheckpointError(
            f"{path} unpacks to {unpacked // size} times its size; weights do not. It was not opened."
        )
    if any(m.filename.endswith(".npy") for m in members):
        return _read_numpy(path)
    return _read_pickle(path)


def _read_numpy(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (ValueError, TypeError, OSError, MemoryError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from None


def _read_pickle(path: Path) -> dict[str, Tensor]:
    # USI's files carry the argparse.Namespace of their training run: plain attributes, no code.
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore", UserWarning)  # an unusual pickle protocol: it loads, or it is refused
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if any(sign in str(error).lower() for sign in _CODE_SIGNS):
            raise CheckpointError(
                f"{path} is refused: opening it would run code from the file. "
                "Where you trust it, convert it to safetensors."
            ) from None
        # torch's own message advises to switch the protection off.
        raise _damaged(path, "no pickle of tensors") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise _damaged(path, error) from None
    return _tensors(content, path)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds no state dict: expected named tensors, found {type(content).__name__}.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            raise CheckpointError(
                f"{path} holds no state dict: '{name}' is of type {type(value).__name__}, not a dense tensor."
            )
        stored = value.untyped_storage().nbytes()
        if value.nbytes > _MAX_EXPANSION * stored:  # a view may repeat the same few bytes without end
            raise CheckpointError(f"{path} is refused: '{name}' claims {value.nbytes} bytes and holds {stored}.")
    return dict(content)


def _damaged(path: Path, error: Exception | str) -> CheckpointError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return CheckpointError(f"{path} is damaged or no checkpoint ({reason[:160]}). Download it again.")


def load_strictly(model: nn.Module, state_dict: Mapping[str, Tensor], name: str) -> None:
    """Put the tensors into the model, by assignment; parameters keep the model's dtype and requires_grad.

    name: what the model is called in messages. Batch counters, which some layouts do not hold, may be missing.
    Raises CheckpointMismatch that lists missing, unexpected and mis-shaped tensors, and numbers that are no floats.
    """
    own = model.state_dict()
    missing = sorted(k for k in own.keys() - state_dict.keys() if not k.endswith("num_batches_tracked"))
    unexpected = sorted(state_dict.keys() - own.keys())
    misshaped = [
        f"{k} {tuple(state_dict[k].shape)} instead of {tuple(own[k].shape)}"
        for k in sorted(own.keys() & state_dict.keys())
        if own[k].shape != state_dict[k].shape
    ]
    no_float = [
        f"{k} {state_dict[k].dtype}"
        for k in sorted(own.keys() & state_dict.keys())
        if own[k].is_floating_point() and not state_dict[k].is_floating_point()
    ]
    found = {"missing": missing, "unexpected": unexpected, "mis-shaped": misshaped, "not floating-point": no_float}
    problems = [_listed(kind, names) for kind, names in found.items() if names]
    if problems:
        raise CheckpointMismatch(f"The checkpoint does not fit {name}: {'; '.join(problems)}.")
    cast = {k: t.to(own[k].dtype).contiguous() if t.is_floating_point() else t for k, t in state_dict.items()}
    model.load_state_dict(cast, strict=False, assign=True)


def _listed(kind: str, names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{len(names)} {kind} ({', '.join(names[:limit])}{more})"
