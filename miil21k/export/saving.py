"""An ONNX model on disk: one file, or above 2 GB a small one with its weights in a second file beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnx
from onnx.external_data_helper import set_external_data, write_external_data_tensors

from miil21k.errors import CheckpointError, ExportError
from miil21k.zoo.exported import WEIGHTS_KEY, read_metadata

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MOST_BYTES", "put_in_place", "weights_path", "write_model"]

MOST_BYTES = (1 << 31) - (1 << 24)  # of tensors: one protobuf message ends at 2 GiB, nodes and labels included
_LEAST_EXTERNAL = 1024  # bytes; smaller tensors stay in the graph, as the defaults of inputs must


def weights_path(path: Path) -> Path:
    """Return where the weights of the model at `path` lie when they are not inside."""
    return path.with_name(f"{path.name}.data")


def write_model(model: onnx.ModelProto, path: Path, most_bytes: int = MOST_BYTES) -> int:
    """Write `model` into the folder of `path`, which is made where it is missing, and check it; returns the bytes.

    With more than `most_bytes` of tensors, those go to `weights_path(path)`: they are taken out of `model`, and its
    metadata name the file and its size. Raises ExportError for a model that is not valid, or a disk that is full.
    """
    tensors = model.graph.initializer
    beside = sum(len(tensor.raw_data) for tensor in tensors) > most_bytes
    try:
        path.parent.mkdir(exist_ok=True)
        if beside:
            _move_weights(model, path)
        path.write_bytes(model.SerializeToString())
        onnx.checker.check_model(path)
    except OSError as error:
        raise ExportError(f"Cannot write {path.parent}: {error.strerror or error}.") from None
    except Exception as error:  # the checker and protobuf raise classes of their own
        raise ExportError(f"The exported graph is no valid ONNX model: {error}") from None
    return path.stat().st_size + (weights_path(path).stat().st_size if beside else 0)


def _move_weights(model: onnx.ModelProto, path: Path) -> None:
    weights = weights_path(path)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) >= _LEAST_EXTERNAL:
            set_external_data(tensor, weights.name)
    write_external_data_tensors(model, str(path.parent))
    fact = {"name": weights.name, "bytes": weights.stat().st_size}
    model.metadata_props.add(key=WEIGHTS_KEY, value=json.dumps(fact))


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
