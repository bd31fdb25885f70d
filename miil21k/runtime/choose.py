"""Which backend runs what was loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miil21k.errors import UsageError
from miil21k.runtime.onnx_backend import OnnxBackend
from miil21k.runtime.openvino_backend import OpenvinoBackend
from miil21k.runtime.torch_backend import TorchBackend

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.runtime.base import Backend, BackendName
    from miil21k.zoo.export_card import ExportCard

__all__ = ["as_backend", "open_export", "open_proved"]


def open_export(path: Path, card: ExportCard, *, backend: BackendName, device: str, dtype: str) -> Backend:
    """Return what runs the export at `path`, whose metadata are `card`.

    backend: `onnx` or `openvino`; `auto` is ONNX Runtime, in which the file was proved. The other arguments and what is
    raised are those of `OnnxBackend` and `OpenvinoBackend`; UsageError for `torch`.
    """
    if backend == "torch":
        raise UsageError(
            f"'{path}' is an export, which torch does not run: choose --backend auto, onnx or openvino, "
            "or name the model that it was made from."
        )
    classes, normalises, precision = card.space.num_classes, card.form == "full", card.precision
    if backend == "openvino":
        size = card.preprocess.input_size
        return OpenvinoBackend(
            path, classes, normalises=normalises, input_size=size, device=device, dtype=dtype, precision=precision
        )
    return OnnxBackend(path, classes, normalises=normalises, device=device, dtype=dtype, precision=precision)


def open_proved(
    path: Path,
    num_classes: int,
    input_size: tuple[int, int, int],
    *,
    backend: str,
    dtype: str = "fp32",
) -> Backend:
    """Return what runs a proved export of the cache on the CPU; it takes normalised pixels.

    backend: `onnx`, whose graph is optimised for this processor, or `openvino`. dtype: `fp32`, or `bf16` for OpenVINO.
    Raises UsageError for a dtype that is not to be had.
    """
    if backend == "openvino":
        return OpenvinoBackend(path, num_classes, normalises=False, input_size=input_size, device="cpu", dtype=dtype)
    return OnnxBackend(path, num_classes, normalises=False, device="cpu", dtype=dtype, optimised=True)


def as_backend(model: Any, num_classes: int, *, device: str, dtype: str) -> Backend:
    """Return `model` itself when it is a backend already (an export that was loaded), else a `TorchBackend` of it."""
    if isinstance(model, (OnnxBackend, OpenvinoBackend)):
        return model
    return TorchBackend(model, num_classes, device=device, dtype=dtype)
