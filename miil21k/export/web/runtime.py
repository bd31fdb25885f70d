"""onnxruntime-web, which runs the graph in a browser: from npm, in one pinned version, or from a folder."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from miil21k.errors import ExportError, UsageError
from miil21k.files import temporary_folder

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["INTEGRITY", "PACKAGE", "SCRIPT", "VERSION", "WASM", "WebRuntime", "require_runtime", "runtime_of"]

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# The smallest of its builds: WebAssembly alone. Those with WebGPU or WebNN are twice as large.
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_MINUTES = 10


@dataclass(frozen=True)
class WebRuntime:
    """What a page needs of onnxruntime-web: its version, the script, and the WebAssembly that this one starts."""

    version: str
    script: bytes
    wasm: bytes


def require_runtime(folder: Path | None) -> None:
    """Raise UsageError where `runtime_of` would find neither a folder nor npm."""
    if folder is not None:
        _package(folder)
    elif shutil.which("npm") is None:
        raise UsageError(
            f"npm, which brings {PACKAGE} {VERSION}, is not installed: install it, or give the unpacked package "
            "with --runtime DIR."
        )


def runtime_of(folder: Path | None) -> WebRuntime:
    """Return the runtime in `folder`, an unpacked package; None takes the pinned version from npm.

    Raises UsageError for a folder that is no such package, and without npm; ExportError when npm fails, or brings a
    package of another digest than the pinned one.
    """
    require_runtime(folder)
    if folder is not None:
        return _read(_package(folder))
    with temporary_folder("miil21k-web") as scratch:
        package = _packed(scratch)
        found = "sha512-" + base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
        if found != INTEGRITY:
            raise ExportError(f"npm brought another {PACKAGE} {VERSION} than the pinned one ({found}): it is not used.")
        with tarfile.open(package) as archive:
            for name in ("package.json", f"dist/{SCRIPT}", f"dist/{WASM}"):
                target = scratch / name
                target.parent.mkdir(exist_ok=True)
                member = archive.extractfile(f"package/{name}")
                assert member is not None  # of an archive whose digest is known
                target.write_bytes(member.read())
        return _read(scratch)


def _packed(scratch: Path) -> Path:
    """Return the archive that `npm pack` wrote into `scratch`; it takes it from npm's own cache where it lies there."""
    command = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--prefer-offline", "--silent"]
    try:
        subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=True, timeout=60 * _MINUTES)
    except subprocess.CalledProcessError as error:
        lines = [line for line in (error.stderr or error.stdout).splitlines() if line.strip()]
        reason = lines[0].strip() if lines else f"exit code {error.returncode}"
        raise ExportError(
            f"npm could not bring {PACKAGE} {VERSION} ({reason}): give the unpacked package with --runtime DIR."
        ) from None
    except subprocess.TimeoutExpired:
        raise ExportError(
            f"npm did not bring {PACKAGE} {VERSION} within {_MINUTES} minutes: give the unpacked package with "
            "--runtime DIR."
        ) from None
    return next(scratch.glob("*.tgz"))


def _package(folder: Path) -> Path:
    """Return where the package lies: `folder`, or its folder `package`, which archives of npm unpack to."""
    for place in (folder, folder / "package"):
        if all((place / name).is_file() for name in ("package.json", f"dist/{SCRIPT}", f"dist/{WASM}")):
            return place
    raise UsageError(f"'{folder}' is no unpacked {PACKAGE}: it lacks package.json, dist/{SCRIPT} or dist/{WASM}.")


def _read(package: Path) -> WebRuntime:
    version = str(json.loads((package / "package.json").read_text(encoding="utf-8"))["version"])
    return WebRuntime(version, (package / "dist" / SCRIPT).read_bytes(), (package / "dist" / WASM).read_bytes())
