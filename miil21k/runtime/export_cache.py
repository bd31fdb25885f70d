"""Exports that were proved on this machine, kept beside the checkpoints so that prediction starts without torch.

```
exports/<key>/model.onnx       the graph
exports/<key>/model.onnx.data  its tensors, which are mapped into memory instead of read
exports/<key>/record.json      what it is, digest and size of each file, the proof
exports/<key>.failed.json      that it cannot be made, and why
exports/<key>.rates.json       how fast those of one network ran (`miil21k.runtime.speed`)
```

`<key>` is a digest of everything that the graph depends on (`Graph`). A folder takes its name only when it is whole.
Imports neither torch nor onnx nor a runtime.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from miil21k import __version__
from miil21k.files import Lock, atomic_folder, replace_file, sweep
from miil21k.records import read_json
from miil21k.runtime.base import ExportFile
from miil21k.runtime.registry import find_runtime
from miil21k.store.integrity import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from miil21k.runtime.base import Backend
    from miil21k.store.cache import Cache
    from miil21k.store.verify import Finding

__all__ = [
    "GRAPH_VERSION",
    "MODEL",
    "PACKAGES",
    "Graph",
    "ProvedExport",
    "failure",
    "find_proved",
    "list_proved",
    "making",
    "missing_package",
    "note_failure",
    "storing",
    "verify_exports",
]

GRAPH_VERSION = 1  # raise it when the same weights become another graph
PACKAGES = ("onnx", "onnxscript")  # that make an export, besides torch
MODEL, RECORD = "model.onnx", "record.json"
_SCHEMA = 1
log = logging.getLogger("miil21k.runtime")


class Graph(NamedTuple):
    """What an export computes, and what can run it.

    name: canonical name of the weights. weights_sha256: digest of their file. input_size: (3, H, W).
    label_space_sha256: of the space of its logits; of its file where it is shipped, else of its tree. backend: its key
    in `RUNTIMES`. runtime: the library with its version and, where the graph is laid out for one, the processor. dtype,
    miil21k, version: of the numbers, the package and the graph.
    """

    name: str
    weights_sha256: str
    input_size: tuple[int, int, int]
    label_space_sha256: str
    backend: str
    runtime: str
    dtype: str = "fp32"
    miil21k: str = __version__
    version: int = GRAPH_VERSION

    @property
    def key(self) -> str:
        """The name of its folder: 32 digits that no other graph has."""
        return hashlib.sha256(json.dumps(self._asdict(), sort_keys=True).encode()).hexdigest()[:32]


class ProvedExport(NamedTuple):
    """A whole export of the cache. record: what `record.json` holds."""

    folder: Path
    record: dict[str, Any]

    @property
    def model(self) -> Path:
        """The file that a runtime opens."""
        return self.folder / MODEL

    @property
    def graph(self) -> Graph:
        """What it computes."""
        facts = self.record["graph"]
        return Graph(**{**facts, "input_size": tuple(facts["input_size"])})

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(facts["bytes"] for facts in self.record["files"].values())

    def start(self, dtype: str = "fp32") -> Backend:
        """Return what runs it on the CPU; raises UsageError for a dtype that its runtime cannot compute in."""
        file = ExportFile(self.model, self.graph.input_size, normalises=False, prepared=True)
        return find_runtime(self.graph.backend).open(file, self.record["num_classes"], "cpu", dtype)

    def __str__(self) -> str:
        damage = self.damage()
        state = "" if damage is None else f", damaged ({damage}): delete {self.folder}"
        return f"{self.graph.name} for {self.graph.runtime}, {self.size / 2**20:.1f} MiB{state}"

    def damage(self, *, thorough: bool = False) -> str | None:
        """Return what is wrong with its files, or None. A digest known for its size and time is not computed anew.

        thorough: compute every digest.
        """
        for name, facts in self.record["files"].items():
            path = self.folder / name
            try:
                stat = path.stat()
            except OSError:
                return f"{name} is missing"
            if stat.st_size != facts["bytes"]:
                return f"{name} has {stat.st_size} bytes instead of {facts['bytes']}"
            known = stat.st_mtime_ns == facts["mtime_ns"] and not thorough
            if not known and sha256_of(path) != facts["sha256"]:
                return f"{name} is not the file that was proved: its SHA-256 is another one"
        return None


def find_proved(cache: Cache, graph: Graph) -> ProvedExport | None:
    """Return the export of `graph`, or None; one that is damaged is left out and a warning says so."""
    folder = cache.root / "exports" / graph.key
    if not folder.is_dir():
        return None
    found = _read(folder)
    if isinstance(found, ProvedExport) and found.graph != graph:
        found = "its record is of another graph"
    elif isinstance(found, ProvedExport):
        found = found.damage() or found
    if isinstance(found, ProvedExport):
        return found
    log.warning("The cached export %s is left out: %s.", folder, found)
    return None


def list_proved(cache: Cache) -> Iterator[ProvedExport]:
    """Yield every export whose record can be read, whatever its files are."""
    for folder in sorted((cache.root / "exports").glob("[0-9a-f]*")):
        if folder.is_dir() and isinstance(found := _read(folder), ProvedExport):
            yield found


def _read(folder: Path) -> ProvedExport | str:
    """Return the export of a folder, or what is wrong with its record."""
    try:
        record = read_json(folder / RECORD)
        if record["schema"] != _SCHEMA:
            return f"its record has schema {record['schema']}, not {_SCHEMA}"
        found = ProvedExport(folder, record)
        whole = found.graph.key == folder.name and MODEL in record["files"] and found.size > 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its record cannot be read ({error})"
    return found if whole else "its record is of another folder"


def missing_package() -> str | None:
    """Return the first package that making an export needs and that is not installed, or None."""
    return next((name for name in PACKAGES if importlib.util.find_spec(name) is None), None)


def making(cache: Cache, graph: Graph) -> Lock:
    """Return a context in which no other process makes `graph`; it waits for one that does. Raises OSError."""
    return Lock(cache.root / "locks" / f"export-{graph.key}.lock")


@contextmanager
def storing(cache: Cache, graph: Graph, record: dict[str, Any]) -> Iterator[Path]:
    """Yield an empty folder; what the block leaves in it becomes the export of `graph`, with `record` filled in it.

    The block may add to `record`. An exception leaves nothing behind, and what was there before stays. What a killed
    process left goes. Raises OSError.
    """
    sweep(cache.root / "exports")
    with atomic_folder(cache.root / "exports" / graph.key) as part:
        yield part
        files = {path.name: _facts(path) for path in sorted(part.iterdir())}
        content = {"schema": _SCHEMA, "graph": graph._asdict(), "files": files, **record}
        replace_file(part / RECORD, json.dumps(content, indent=1) + "\n")
    _failure_path(cache, graph).unlink(missing_ok=True)


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    stat = path.stat()
    return {"bytes": stat.st_size, "sha256": sha256_of(path), "mtime_ns": stat.st_mtime_ns}


def note_failure(cache: Cache, graph: Graph, reason: str, versions: dict[str, str]) -> None:
    """Remember that `graph` cannot be made with these versions of packages; a cache that is read-only forgets it."""
    with contextlib.suppress(OSError):
        content = json.dumps({"graph": graph._asdict(), "reason": reason, "versions": versions}, indent=1)
        replace_file(_failure_path(cache, graph), content + "\n", parents=True)


def failure(cache: Cache, graph: Graph, versions: dict[str, str]) -> str | None:
    """Return why `graph` could not be made with these versions of packages, or None."""
    try:
        found = read_json(_failure_path(cache, graph))
        return str(found["reason"]) if found["versions"] == versions else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _failure_path(cache: Cache, graph: Graph) -> Path:
    return cache.root / "exports" / f"{graph.key}.failed.json"


def verify_exports(cache: Cache, name: str | None = None) -> Iterator[Finding]:
    """Yield one finding per file of the proved exports, of the weights called `name` or of all; a missing file too."""
    from miil21k.store.verify import Finding

    for export in list_proved(cache):
        if name not in (None, export.graph.name):
            continue
        for file, facts in export.record["files"].items():
            path = export.folder / file
            sha256 = sha256_of(path) if path.is_file() else "missing"
            status: Literal["ok", "mismatch"] = "ok" if sha256 == facts["sha256"] else "mismatch"
            title = f"export of {export.graph.name}"
            yield Finding(title, status, path, export.graph.runtime, sha256, facts["sha256"], "proved")
