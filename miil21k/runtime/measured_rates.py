"""How fast the proved exports of one network ran, in `exports/<key>.rates.json` beside them, by machine.

```
{"<machine>": {"<backend>": {"runtime": "openvino 2026.1", "images_per_second": 61.2}, ...}, ...}
```

`<key>` is that of the graph without backend and runtime. All rates of a machine were taken by turns in one run, so they
compare; those of another machine say nothing here, and are kept for it (a cache may lie on shared storage).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from miil21k.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from filelock import BaseFileLock

    from miil21k.runtime.export_cache import Graph
    from miil21k.store.cache import Cache

__all__ = ["Rate", "measuring", "read_rates", "write_rates"]


class Rate(NamedTuple):
    """images_per_second: of the network alone, in batches, all CPUs at work. runtime: as in `Graph`."""

    runtime: str
    images_per_second: float


def read_rates(cache: Cache, graph: Graph, machine: str) -> dict[str, Rate]:
    """Return the rates on `machine` of the network of `graph`, by backend; none when they cannot be read."""
    try:
        found = _read(cache, graph)[machine].items()
        return {name: Rate(str(facts["runtime"]), float(facts["images_per_second"])) for name, facts in found}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_rates(cache: Cache, graph: Graph, machine: str, rates: Mapping[str, Rate]) -> None:
    """Keep these in place of the earlier ones of `machine`; to be called inside `measuring`. Raises OSError."""
    try:
        known = dict(_read(cache, graph))
    except (ValueError, TypeError):
        known = {}
    known[machine] = {name: rate._asdict() for name, rate in rates.items()}
    replace_file(_path(cache, graph), json.dumps(known, indent=1) + "\n", parents=True)


def measuring(cache: Cache) -> BaseFileLock:
    """Return a context in which no other process measures, which would disturb both."""
    from filelock import FileLock

    locks = cache.root / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / "rates.lock")


def _read(cache: Cache, graph: Graph) -> Any:
    try:
        return json.loads(_path(cache, graph).read_text(encoding="utf-8"))
    except OSError:
        return {}


def _path(cache: Cache, graph: Graph) -> Path:
    network = graph._replace(backend="", runtime="")
    return cache.root / "exports" / f"{network.key}.rates.json"
