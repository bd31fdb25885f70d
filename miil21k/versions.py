"""The versions that a record of a computation names."""

from __future__ import annotations

import platform
from importlib import metadata

__all__ = ["installed_versions"]


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide what is computed, by name."""
    found = {"python": platform.python_version()}
    for package in ("miil21k", "torch", "timm", "numpy", "pillow", "safetensors"):
        found[package] = metadata.version(package)
    return found
