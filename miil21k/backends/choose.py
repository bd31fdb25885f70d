"""Which backend runs what was loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miil21k.backends.onnx_backend import OnnxBackend
from miil21k.backends.torch_backend import TorchBackend

if TYPE_CHECKING:
    from miil21k.backends.base import Backend

__all__ = ["as_backend"]


def as_backend(model: Any, num_classes: int, *, device: str, dtype: str) -> Backend:
    """Return `model` itself when it is a backend already (an export that was loaded), else a `TorchBackend` of it."""
    if isinstance(model, OnnxBackend):
        return model
    return TorchBackend(model, num_classes, device=device, dtype=dtype)
