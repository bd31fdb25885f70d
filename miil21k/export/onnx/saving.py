"""An ONNX model on disk: one file, or above 2 GB a small one with its weights in a second file beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnx

from miil21k.errors import CheckpointError, ExportError
from miil21k.zoo.export_card import WEIGHTS_KEY, read_metadata

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MOST_BYTES", "put_in_place", "weights_path", "write_model"]

MOST_BYTES = (1 << 31) - (1 << 24)  # of tensors: one protobuf message ends at 2 GiB, nodes and labels included


def weights_path(path: Path) -> Path:
    """Return where the weights of the model at `path` lie when they are not inside."""
    return path.with_name(f"{path.name}.data")


def write_model(model: onnx.ModelProto, path: Path) -> int:
    """Write `model` and check it; returns the bytes written.

    Where its weights lie in `weights_path(path)` already, its metadata name that file and its size, and they count.
    Raises ExportError for a model that is not valid, or a disk that is full.
    """
    weights = weights_path(path)
    written = 0
    try:
        if weights.exists():
            written = weights.stat().st_size
            model.metadata_props.add(key=WEIGHTS_KEY, value=json.dumps({"name": weights.name, "bytes": written}))
        path.write_bytes(model.SerializeToString())
        onnx.checker.check_model(path)
    except OSError as error:
        raise ExportError(f"Cannot write {path.parent}: {error.strerror or error}.") from None
    except Exception as error:  # the checker and protobuf raise classes of their own
        raise ExportError(f"The exported graph is no valid ONNX model: {error}") from None
    return written + path.stat().st_size


def put_in_place(part: Path, output: Path) -> None:
    """Move a written model, with its weights where they lie beside it, from another folder of this disk to `output`.

    A reader finds the old model, none, or the new one, and never a graph with the weights of another: where old and
    new both have weights beside them, the old graph goes first. Weights that nothing names any more are removed.
    """
    weights = weights_path(output)
    had = _names_weights(output)
    if weights_path(part).exists():
        if had:
            output.unlink()
        weights_path(part).replace(weights)
        part.replace(output)
    else:
        part.replace(output)
        if had:
            weights.unlink(missing_ok=True)


def _names_weights(path: Path) -> bool:
    """Return whether `path` is a model of ours with its weights beside it."""
    try:
        return path.exists() and WEIGHTS_KEY in read_metadata(path)
    except CheckpointError:
        return False
