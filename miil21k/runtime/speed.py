"""How fast the proved exports of one network ran, in `exports/<key>.rates.json` beside them, by machine.

```
{"<machine>": {"<backend>": {"runtime": "openvino 2026.1", "images_per_second": 61.2}, ...}, ...}
```

`<key>` is that of the graph without backend and runtime. All rates of a machine were taken by turns in one run, so they
compare; those of another machine say nothing here, and are kept for it (a cache may lie on shared storage).
"""

from __future__ import annotations

import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.errors import Miil21kError
from miil21k.files import Lock, replace_file
from miil21k.records import read_json
from miil21k.runtime.machine import machine
from miil21k.runtime.options import ComputeOptions, threads_of, workers_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from miil21k.runtime.base import Backend
    from miil21k.runtime.export_cache import Graph, ProvedExport
    from miil21k.store.cache import Cache

__all__ = ["Rate", "compare_exports", "images_per_second", "read_rates", "write_rates"]

_BATCH = 16  # images per call, as the predictor has them on a CPU
_TURN = 1.0  # seconds; calls that would take longer have fewer images
_SECONDS = 2.0  # for each backend, once it is open
_LEAST_ROUNDS, _MOST_ROUNDS = 3, 12
log = logging.getLogger("miil21k.runtime")


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
    """Keep these in place of the earlier ones of `machine`; to be called inside `_measuring`. Raises OSError."""
    try:
        known = dict(_read(cache, graph))
    except (ValueError, TypeError):
        known = {}
    known[machine] = {name: rate._asdict() for name, rate in rates.items()}
    replace_file(_path(cache, graph), json.dumps(known, indent=1) + "\n", parents=True)


def compare_exports(cache: Cache, exports: Sequence[ProvedExport]) -> None:
    """Keep the rates of proved exports of one network, at least two, unless they are known for this machine.

    The log says the rates, or why there are none: that loses nothing but the choice between the exports.
    """
    if len(exports) < 2:
        return
    try:
        with _measuring(cache):
            known = read_rates(cache, exports[0].graph, machine())
            runtimes = {found.graph.backend: found.graph.runtime for found in exports}
            if runtimes.items() <= {name: rate.runtime for name, rate in known.items()}.items():
                return
            log.info("timing the exports of %s by turns, once", exports[0].graph.name)
            measured = images_per_second(
                {found.graph.backend: found.start() for found in exports}, exports[0].graph.input_size
            )
            rates = {name: Rate(runtimes[name], round(rate, 2)) for name, rate in measured.items()}
            write_rates(cache, exports[0].graph, machine(), rates)
    except (OSError, RuntimeError, MemoryError, Miil21kError) as error:
        log.info("the speed of the exports was not compared: %s", error)
        return
    told = ", ".join(f"{name} {rate:.1f}" for name, rate in measured.items())
    log.info("images per second on this machine, network alone: %s", told)


def images_per_second(
    backends: Mapping[str, Backend], input_size: tuple[int, int, int], *, briefly: bool = False
) -> dict[str, float]:
    """Return how many images a second each backend computes in batches, with the default threads of a predictor.

    They take turns, and the best turn of each counts. It takes a few seconds for each, and longer only for networks
    that need a second for one image. input_size: (3, H, W). briefly: in one turn, of a second at most, or one image.
    Raises what `run` raises.
    """
    options = ComputeOptions()
    callers = max(1, workers_of(options))
    pixels = np.random.default_rng(0).standard_normal((_BATCH, *input_size), np.float32)
    with ExitStack() as stack:
        for backend in backends.values():
            stack.enter_context(backend.threads(threads_of(options), callers))
        pool = stack.enter_context(ThreadPoolExecutor(callers))

        def turn(backend: Backend, images: int) -> float:
            began = time.perf_counter()
            list(pool.map(lambda _: backend.run(pixels[:images]), range(callers)))
            return time.perf_counter() - began

        for backend in backends.values():
            turn(backend, 1)  # opens it
        slowest = max(turn(backend, 1) for backend in backends.values())
        images = min(_BATCH, max(1, int(_TURN / slowest)))
        best = dict.fromkeys(backends, float("inf"))
        end = time.perf_counter() + _SECONDS * len(backends)
        for done in range(1 if briefly else _MOST_ROUNDS):
            if done >= _LEAST_ROUNDS and time.perf_counter() >= end:
                break
            for name, backend in backends.items():
                best[name] = min(best[name], turn(backend, images))
    return {name: callers * images / seconds for name, seconds in best.items()}


def _measuring(cache: Cache) -> Lock:
    """Return a context in which no other process measures, which would disturb both."""
    return Lock(cache.root / "locks" / "rates.lock")


def _read(cache: Cache, graph: Graph) -> Any:
    try:
        return read_json(_path(cache, graph))
    except OSError:
        return {}


def _path(cache: Cache, graph: Graph) -> Path:
    network = graph._replace(backend="", runtime="")
    return cache.root / "exports" / f"{network.key}.rates.json"
