"""What the machine looks like to those who choose a runtime, told without importing torch."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path

from miil21k.environment import available_cpus

__all__ = ["gpu_in_sight", "machine", "processor"]

_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA, Windows' GPUs in WSL, AMD


def processor() -> str:
    """Return a name that processors share only when they have the same instructions."""
    flags = _listed(b"flags", b"Features")
    if flags is None:  # not Linux: nothing lists instructions, so no two machines count as alike
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
    return f"{platform.machine()} {hashlib.sha256(flags).hexdigest()[:12]}"


def machine() -> str:
    """Return a name that two machines share only when a rate that was measured on one says something on the other.

    Model and instructions of the processor, and how many CPUs this process may use.
    """
    model = (_listed(b"model name") or b"").partition(b":")[2].decode(errors="replace").strip()
    return f"{model or 'unnamed'}, {processor()}, {available_cpus()} CPUs"


def _listed(*names: bytes) -> bytes | None:
    """Return the first line of `/proc/cpuinfo` that begins with one of `names`, or None."""
    try:
        with Path("/proc/cpuinfo").open("rb") as file:
            lines = file.read(1 << 14).splitlines()  # the first processor; a server lists hundreds
    except OSError:
        return None
    return next((line for line in lines if line.startswith(names)), None)


def gpu_in_sight() -> bool:
    """Return whether a driver is here with which torch may compute on a GPU; whether it can, only torch can tell."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if sys.platform == "win32":
        return Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32", "nvcuda.dll").exists()
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(Path(driver).exists() for driver in _DRIVERS)
