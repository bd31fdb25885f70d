"""What this process runs on: the CPUs it may use, and the versions that a record of a computation names."""

from __future__ import annotations

import os
import platform
from importlib import metadata

__all__ = ["available_cpus", "installed_versions"]


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide what is computed, by name."""
    found = {"python": platform.python_version()}
    for package in ("miil21k", "torch", "timm", "numpy", "pillow", "safetensors"):
        found[package] = metadata.version(package)
    return found
