"""What this process runs on: the CPUs it may use, the packages it has, and their versions."""

from __future__ import annotations

import importlib.util
import math
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import miil21k
from miil21k.errors import Miil21kError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

__all__ = ["available_cpus", "cpu_quota", "installed_versions", "need", "require", "silence_telemetry", "version_of"]

# By which libraries that we import are told to report nothing; each is read when the library is imported, not later.
SILENCE = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime 1.29 and later; its `disable_telemetry_events` keeps looking hosts up
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_REPORTERS = ("openvino_telemetry",)  # OpenVINO reports through this package, and goes without where there is none
# The packages of a whole installation by what is imported; a runtime for exported models does without most of them.
REQUIRED = {
    "PIL": "pillow",
    **{name: name for name in ("filelock", "huggingface_hub", "nltk", "numpy", "onnxruntime", "safetensors", "timm")},
    **{name: name for name in ("torch", "torchvision", "tqdm")},
}
COMPUTING = ("torch", "timm", "numpy", "pillow", "safetensors")


def available_cpus() -> int:
    """Return how many CPUs this process may use: those of its affinity, and no more than its container's quota."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return own if quota is None else max(1, min(own, math.ceil(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the CPUs that the control groups of this process grant it, for instance 1.5, or None for all.

    Control groups of version 1 and 2, each group up to the uppermost that can be seen, the least of which counts.
    root: where `proc` and the mounts lie. Read anew on every call, since a quota may change.
    """
    if not (root / "proc/self/cgroup").exists():
        return None
    quotas = []
    with suppress(OSError, ValueError):
        for folder in _cgroup_folders(root):
            with suppress(OSError, ValueError, IndexError, ZeroDivisionError):
                quotas.append(_quota(folder))
    return min((quota for quota in quotas if quota is not None), default=None)


def _cgroup_folders(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups that may hold a quota, from its own up to the mount."""
    # Both lines of a file are "hierarchy:controllers:path"; version 2 names no controllers.
    groups = {}
    for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            groups["cgroup" if controllers else "cgroup2"] = path
    for line in (root / "proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        within, mount = before.split(" ")[3:5]
        if kind not in groups or (kind == "cgroup" and "cpu" not in options.split()[-1].split(",")):
            continue
        # Within a container the path may be that of the host, of which the mount shows the part below `within`.
        path = groups[kind]
        below = path.removeprefix(within.rstrip("/")) if path.startswith(within) else "/"
        top = root / mount.lstrip("/")
        folder = top / below.strip("/")
        yield folder
        while folder != top:
            folder = folder.parent
            yield folder


def _quota(folder: Path) -> float | None:
    """Return the CPUs granted by one group, None for no limit."""
    if (folder / "cpu.max").exists():
        granted, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
    elif (folder / "cpu.cfs_quota_us").exists():
        granted = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8").strip()
        period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
    else:
        return None
    return None if granted == "max" or int(granted) <= 0 else int(granted) / int(period)


def version_of(package: str) -> str | None:
    """Return the version of an installed package, None when it is not installed; ours is known wherever it lies."""
    if package == "miil21k":  # a clone on PYTHONPATH, or of torch.hub, is installed nowhere
        return miil21k.__version__
    from importlib import metadata  # half of the time that --help takes

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def installed_versions(packages: Iterable[str] = COMPUTING) -> dict[str, str]:
    """Return the versions of Python, of miil21k and of those `packages` that are installed, by name.

    packages: by default, those that decide what is computed.
    """
    found = {"python": platform.python_version(), "miil21k": miil21k.__version__}
    return found | {name: version for name in packages if (version := version_of(name)) is not None}


def silence_telemetry() -> None:
    """Let ONNX Runtime, OpenVINO, Ray and huggingface_hub report nothing, in this process and in those it starts.

    A module that imports one of them calls this when it is imported itself, that is, before. What the user has set to
    the contrary is overruled.
    """
    os.environ.update(SILENCE)
    for name in _REPORTERS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type] # by which Python says that there is no such module


def require(module: str, extra: str, purpose: str, *, package: str | None = None) -> None:
    """Raise MissingExtra, as `need` does, for a package that is not installed; one that is there is not imported yet.

    module: the top one. For what is asked for at the start, and takes long to import.
    """
    if importlib.util.find_spec(module) is None:
        raise MissingExtra(package or module, extra, purpose)


def need(module: str, extra: str, purpose: str, *, package: str | None = None) -> ModuleType:
    """Return the imported `module` of an optional package.

    extra: which of ours installs it. purpose: what needs it, the beginning of the sentence. package: its name in the
    index, where that is not the module's. Raises MissingExtra when it is not installed, and Miil21kError when it is
    but cannot be imported.
    """
    package = package or module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == module.partition(".")[0]:
            raise MissingExtra(package, extra, purpose) from None
        raise Miil21kError(f"{purpose} needs the package '{package}', which misses one of its own: {error}.") from None
    except (ImportError, OSError) as error:
        raise Miil21kError(f"{purpose} needs the package '{package}', which cannot be imported: {error}.") from None
